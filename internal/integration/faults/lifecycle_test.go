package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// handlers is how many run when the Consumer is told to stop, and waiting how
// many messages wait behind them, here or at the broker.
const handlers, waiting = 50, 250

// stopped runs handlers that are at work when the Consumer is told to stop, and
// lets them go on until release is closed or their contexts end, with the causes
// it returns. It returns when Run has, what Run returned, and how long it took.
func stopped(g *group, drain time.Duration, release func(stopped func() int)) (causes []error, took time.Duration, err error) {
	g.t.Helper()
	gate := make(chan struct{})
	inside := 0
	r, end := g.run(groupConfig{
		consumer: messaging.ConsumerConfig{Concurrency: handlers, DrainTimeout: drain},
		before: func(ctx context.Context, _ *messaging.Delivery) error {
			g.note(func() { inside++ })
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				g.note(func() { causes = append(causes, context.Cause(ctx)) })
				return context.Cause(ctx)
			}
		},
	})
	r.await(g.t)
	g.publish(load{n: handlers + waiting, typ: all(fine)})()
	g.await(patience, "all handlers are at work", func() bool { return inside == handlers })
	began := time.Now()
	end()
	release(func() (n int) {
		g.note(func() { n = len(causes) })
		return n
	})
	close(gate)
	err = r.wait(g.t)
	g.note(func() {
		if inside != handlers {
			g.t.Errorf("%d handlers ran, want %d: none begins after the stop", inside, handlers)
		}
	})
	return causes, time.Since(began), err
}

func shutdown(t *testing.T, at flowConfig) {
	f := newFlow(t, at)
	g := f.group("g")
	causes, took, err := stopped(g, 30*time.Second, func(cut func() int) {
		pause(t.Context(), size(2*time.Second, 20*time.Second)) // the time that handlers take is theirs
		if n := cut(); n > 0 {
			t.Errorf("%d handlers were cut off before DrainTimeout", n)
		}
	})
	if err != nil || len(causes) > 0 {
		t.Errorf("Run() = %v with %d handlers cut off, want nil and none", err, len(causes))
	}
	t.Logf("the drain took %.1f s", took.Seconds())
	f.note(func() {
		if len(g.handled) != handlers {
			t.Errorf("%d messages are handled, want the %d of the running handlers", len(g.handled), handlers)
		}
	})
	stop := g.start(groupConfig{})
	g.verify()
	must(t, stop())
	f.note(func() {
		for id, n := range g.received {
			if n != 1 {
				t.Errorf("message %s was handled %d times, want once: all that was handled was acknowledged", id, n)
			}
		}
	})
}

func drainTimeout(t *testing.T, at flowConfig) {
	f := newFlow(t, at)
	g := f.group("g")
	const drain = time.Second
	causes, took, err := stopped(g, drain, func(cut func() int) {
		eventually(t, patience, "the handlers are told to end", func() bool { return cut() == handlers })
	})
	if !errors.Is(err, messaging.ErrDrain) || took < drain || len(causes) != handlers {
		t.Errorf("Run() = %v after %v with %d handlers cut off, want ErrDrain after %v and %d", err, took, len(causes), drain, handlers)
	}
	for _, cause := range causes {
		if !errors.Is(cause, messaging.ErrDrain) {
			t.Errorf("a handler's context ended with %v, want ErrDrain", cause)
		}
	}
	stop := g.start(groupConfig{})
	g.verify()
	must(t, stop())
}

// cycles also counts connections, by their name.
func cycles(t *testing.T, node *services.Node) {
	label := unique("cycles")
	connections := func() int {
		return strings.Count(control(t, node, "list_connections", "client_properties"), label)
	}
	cfg := rabbitmq.Config{URL: node.URL(), Source: label}
	// One that stays until it is seen shows that they can be: the others may come and
	// go between two looks.
	b := newBroker(t, cfg)
	if err := b.Publish(within(t, patience), label, messaging.NewMessage(fine, nil)); !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() to nobody = %v, want ErrUnroutable", err)
	}
	eventually(t, patience, "connections are seen at the broker", func() bool { return connections() > 0 })
	must(t, b.Close(within(t, patience)))
	goroutines(t, label, 20, func() (messaging.Broker, error) { return rabbitmq.New(cfg) })
	eventually(t, time.Minute, "all connections are gone", func() bool { return connections() == 0 })
}

// goroutines counts those that Brokers and Consumers start, from their beginning to
// their end, five times rounds of them: by a label that goroutines inherit.
func goroutines(t *testing.T, label string, rounds int, open func() (messaging.Broker, error)) {
	const workers = 5
	var running sync.WaitGroup
	var mu sync.Mutex
	seen := 0 // goroutines, at most
	for w := range workers {
		running.Go(func() {
			pprof.Do(t.Context(), pprof.Labels("test", label), func(ctx context.Context) {
				for range rounds {
					if err := cycle(ctx, open, fmt.Sprint(label, "-", w)); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					seen = max(seen, labelled(t, label))
					mu.Unlock()
				}
			})
		})
	}
	running.Wait()
	// Those of the clients beneath end a moment after their connections.
	left := 0
	eventually(t, time.Minute, "all goroutines have ended", func() bool {
		left = labelled(t, label)
		return left == 0
	})
	t.Logf("%d cycles: at most %d goroutines at one time, %d left", workers*rounds, seen, left)
	if seen <= workers { // which carry the label themselves
		t.Error("no goroutine was seen: they are not counted")
	}
}

// cycle has a Consumer receive one message, from its Broker's beginning to end.
func cycle(ctx context.Context, open func() (messaging.Broker, error), topic string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	b, err := open()
	if err != nil {
		return err
	}
	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{})
	if err != nil {
		return err
	}
	consuming, stop := context.WithCancel(ctx)
	defer stop()
	c.Handle(messaging.Subscription{Topic: topic, Group: "g"}, func(context.Context, *messaging.Delivery) error {
		stop()
		return nil
	})
	ran := make(chan error, 1)
	go func() { ran <- c.Run(consuming) }()
	select {
	case <-c.Ready():
	case err := <-ran:
		return fmt.Errorf("Run() = %w before it was ready", err)
	}
	if err := b.Publish(ctx, topic, messaging.NewMessage(fine, nil)); err != nil {
		return fmt.Errorf("Publish() = %w", err)
	}
	if err := <-ran; err != nil {
		return fmt.Errorf("Run() = %w", err)
	}
	if ctx.Err() != nil {
		return errors.New("the message was not received")
	}
	return b.Close(ctx)
}

// labelled counts the goroutines that carry the label.
func labelled(t testing.TB, label string) (n int) {
	t.Helper()
	var b bytes.Buffer
	must(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
	group := 0 // goroutines with one stack, which stand in the line before their labels
	for lines := bufio.NewScanner(&b); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "# labels:") && strings.Contains(line, label) {
			n += group
		}
		if _, err := fmt.Sscanf(line, "%d @", &group); err != nil {
			continue
		}
	}
	return n
}
