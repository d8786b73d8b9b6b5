package messaging_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

func ok(context.Context, *messaging.Delivery) error { return nil }

func TestNewConsumerReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := messaging.NewConsumer(nil, messaging.ConsumerConfig{Concurrency: -1, MaxAttempts: -2, Timeout: -3, DrainTimeout: -4})
	if !errors.Is(err, messaging.ErrInvalid) {
		t.Fatalf("NewConsumer() = %v, want ErrInvalid", err)
	}
	want := "messaging: invalid: consumer: Concurrency -1 is outside 1..10000; MaxAttempts -2 is negative; " +
		"Timeout -3ns is negative; DrainTimeout -4ns is negative; the Broker is nil"
	if got := err.Error(); got != want {
		t.Errorf("NewConsumer() = %q, want %q", got, want)
	}
}

func TestNewConsumerRefusesANilPointerAsBroker(t *testing.T) {
	if _, err := messaging.NewConsumer((*script)(nil), messaging.ConsumerConfig{}); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("NewConsumer() = %v, want ErrInvalid", err)
	}
}

func TestRunReportsAllFaultsOfHandleAtOnce(t *testing.T) {
	c, err := messaging.NewConsumer(newScript(), messaging.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	sub := messaging.Subscription{Topic: "t", Group: "g"}
	c.Handle(messaging.Subscription{Topic: "no spaces"}, ok)
	c.Handle(sub, nil)
	c.Handle(sub, ok, nil)
	c.Handle(sub, ok, func(messaging.Handler) messaging.Handler { return nil })
	c.Handle(sub, ok)
	c.Handle(sub, ok)
	err = c.Run(t.Context())
	if !errors.Is(err, messaging.ErrInvalid) {
		t.Fatalf("Run() = %v, want ErrInvalid", err)
	}
	for _, want := range []string{`topic name "no spaces"`, `group name ""`, "a handler is nil", "middleware 0 of a handler is nil", "middleware 0 of a handler returned nil", `group "g" of topic "t" has a handler already`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Run() = %q, want %q in it", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), "messaging: ") != 1 {
		t.Errorf("Run() = %q, want one line with one prefix", err)
	}
}

func TestRunRefuses(t *testing.T) {
	t.Run("a Consumer without subscriptions", func(t *testing.T) {
		c, _ := messaging.NewConsumer(newScript(), messaging.ConsumerConfig{})
		if err := c.Run(t.Context()); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "call Handle before Run") {
			t.Errorf("Run() = %v, want ErrInvalid that says to call Handle", err)
		}
	})
	t.Run("to run a second time", func(t *testing.T) {
		r := runOne(t, newScript(), messaging.ConsumerConfig{}, ok)
		if err := r.c.Run(t.Context()); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "Run was called before") {
			t.Errorf("second Run() = %v, want ErrInvalid that says so", err)
		}
		if err := r.end(); err != nil {
			t.Errorf("first Run() = %v, want nil", err)
		}
	})
}

func TestHandleAfterRunIsLogged(t *testing.T) {
	var log logbook
	r := runOne(t, newScript(), messaging.ConsumerConfig{Logger: log.logger()}, ok)
	r.c.Handle(messaging.Subscription{Topic: "late", Group: "g"}, ok)
	if err := r.end(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if !strings.Contains(log.String(), "Handle was called after Run") || !strings.Contains(log.String(), "topic=late") {
		t.Errorf("log = %q, want the call of Handle in it", log.String())
	}
}

func TestRunWithAnEndedContextReturnsNilAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, _ := messaging.NewConsumer(newMemory(t), messaging.ConsumerConfig{})
	c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, ok)
	if err := c.Run(ctx); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func TestFirstMiddlewareIsOutermost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var trail []string
		mark := func(name string) messaging.Middleware {
			return func(next messaging.Handler) messaging.Handler {
				return func(ctx context.Context, d *messaging.Delivery) error {
					trail = append(trail, name)
					return next(ctx, d)
				}
			}
		}
		b := newScript()
		c, _ := messaging.NewConsumer(b, messaging.ConsumerConfig{})
		c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery) error {
			trail = append(trail, "handler")
			return nil
		}, mark("first"), mark("second"))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = c.Run(ctx) }()
		b.deliver(delivery("m", 1))
		cancel()
		if got, want := strings.Join(trail, " "), "first second handler"; got != want {
			t.Errorf("calls = %q, want %q", got, want)
		}
	})
}

func TestReadyIsClosedWhenEverySubscriptionHasBeenEstablished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := 0
		b := newMemory(t)
		slow := newScript()
		slow.ready = false
		c, _ := messaging.NewConsumer(either{"slow": slow, "t": b}, messaging.ConsumerConfig{Logger: slog.New(slog.DiscardHandler)})
		c.Handle(messaging.Subscription{Topic: "t", Group: "g", OnReady: func() { own++ }}, ok)
		var establish func()
		slow.onSubscribe = func(ready func()) { establish = ready }
		c.Handle(messaging.Subscription{Topic: "slow", Group: "g"}, ok)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		select {
		case <-c.Ready():
			t.Error("Ready() is closed, want it open until the slow subscription is established")
		default:
		}
		establish()
		establish() // again, after a lost connection
		<-c.Ready()
		if own != 1 {
			t.Errorf("the subscription's own OnReady was called %d times, want once", own)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// either is a Broker that hands each topic to a Broker of its own.
type either map[string]messaging.Broker

func (e either) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	return e[s.Topic].Subscribe(ctx, s, deliver)
}

func (e either) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	return e[topic].Publish(ctx, topic, msgs...)
}
func (e either) Promises() messaging.Promises { return messaging.Promises{} }
func (e either) Close(context.Context) error  { return nil }

func TestSubscribeThatEndsForGoodEndsRunAndDrainsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := newScript(), newScript()
		finished := false
		work := func(ctx context.Context, _ *messaging.Delivery) error {
			time.Sleep(5 * time.Second)
			finished = ctx.Err() == nil
			return nil
		}
		r := run(t, either{"bad": bad, "good": good}, messaging.ConsumerConfig{}, handled{"bad", "g", ok}, handled{"good", "g", work})
		d := delivery("m", 1)
		good.deliver(d)
		bad.fail <- messaging.ErrDenied
		if err := <-r.ended; !errors.Is(err, messaging.ErrDenied) {
			t.Errorf("Run() = %v, want ErrDenied", err)
		}
		if !finished || d.verdict(t).Kind != messaging.Ack {
			t.Errorf("the handler of the other subscription finished: %t, want true and an Ack", finished)
		}
	})
}

func TestSubscribeThatEndsWithoutReasonIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{}, ok)
		b.fail <- nil
		if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "group g to topic t ended") {
			t.Errorf("Run() = %v, want an error that names the subscription", err)
		}
	})
}

func TestHookThatEndsItsGoroutineEndsRunWithAnErrorAndLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which finds goroutines that are left
		c, err := messaging.NewConsumer(newMemory(t), messaging.ConsumerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		c.Handle(messaging.Subscription{Topic: "t", Group: "g", OnReady: runtime.Goexit}, ok)
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "group g to topic t ended: OnReady, OnLost or the broker called runtime.Goexit") {
			t.Errorf("Run() = %v, want an error that says what ended", err)
		}
		if err := c.Health(); err == nil {
			t.Error("Health() = nil, want why the subscription is not established")
		}
	})
}

func TestSeveralFailuresAreReportedOnOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{DrainTimeout: time.Second}, func(ctx context.Context, _ *messaging.Delivery) error {
			<-ctx.Done()
			return nil
		})
		b.deliver(delivery("m", 1))
		b.fail <- messaging.ErrTopology
		err := <-r.ended
		if !errors.Is(err, messaging.ErrTopology) || !errors.Is(err, messaging.ErrDrain) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Run() = %v, want ErrTopology and ErrDrain on one line", err)
		}
	})
}

func TestBrokerThatClosesEndsRunAndHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var cause error
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return ctx.Err()
		})
		publish(t, b, messaging.NewMessage("m", nil))
		synctest.Wait()
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := <-r.ended; !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Run() = %v, want ErrClosed", err)
		}
		if !errors.Is(cause, messaging.ErrLost) {
			t.Errorf("the handler's context ended with %v, want ErrLost", cause)
		}
	})
}
