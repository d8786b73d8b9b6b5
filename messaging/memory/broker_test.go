package memory_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := memory.New(memory.Config{MaxBacklog: -1, MaxDeadLetters: 1_000_001, MaxPayload: -2, Lease: time.Microsecond})
	want := "memory: config: MaxBacklog -1 is outside 1..1000000; MaxDeadLetters 1000001 is outside 1..1000000; MaxPayload -2 is negative; Lease 1µs is below 1ms"
	if err == nil || err.Error() != want {
		t.Errorf("New() = %v, want %s", err, want)
	}
}

func TestPublishWaitsWhileAGroupIsFullUntilAMessageIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxBacklog: 2})
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0), numbered(1))
		for n, settle := range []messaging.Verdict{{Kind: messaging.Ack}, {Kind: messaging.DeadLetter}} {
			published := make(chan error, 1)
			go func() { published <- b.Publish(t.Context(), "t", numbered(2+n)) }()
			synctest.Wait()
			if len(published) != 0 {
				t.Fatalf("Publish() = %v while the group is full, want it to wait", <-published)
			}
			s.receive().settle(t, settle)
			if err := <-published; err != nil {
				t.Errorf("Publish() = %v after a message was settled with %v, want nil", err, settle.Kind)
			}
		}
		s.receive().ack(t)
		s.receive().ack(t)
		s.stop()
	})
}

func TestRetryAndReleaseKeepTheirPlaceInTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxBacklog: 1})
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0))
		s.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Publish(ctx, "t", numbered(1)); !errors.Is(err, messaging.ErrRefused) {
			t.Errorf("Publish() = %v while a retry waits, want ErrRefused", err)
		}
		s.receive().settle(t, messaging.Verdict{Kind: messaging.Release})
		s.receive().ack(t)
		publish(t, b, numbered(2))
		s.receive().ack(t)
		s.stop()
	})
}

func TestPublishToAFullGroupEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxBacklog: 2})
		declare(t, b, "g")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		err := b.Publish(ctx, "t", numbered(0), numbered(1), numbered(2), numbered(3))
		batch, ok := errors.AsType[*messaging.BatchError](err)
		if !ok || batch.Errs[0] != nil || batch.Errs[1] != nil {
			t.Fatalf("Publish() = %v, want a *BatchError for the last two messages alone", err)
		}
		if !errors.Is(batch.Errs[2], messaging.ErrRefused) || !errors.Is(batch.Errs[2], context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("error = %v after %v, want ErrRefused and the cause after 5s", batch.Errs[2], time.Since(began))
		}
		if !errors.Is(batch.Errs[3], context.DeadlineExceeded) || !strings.HasPrefix(batch.Errs[3].Error(), "memory: publish to t: ") {
			t.Errorf("error = %v, want the cause behind the name of the package", batch.Errs[3])
		}
	})
}

func TestMessageGoesToAllGroupsOrToNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxBacklog: 1})
		a := subscribe(t, b, "a", 0, nil)
		full := subscribe(t, b, "full", 0, nil)
		publish(t, b, numbered(0))
		a.receive().ack(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Publish(ctx, "t", numbered(1)); !errors.Is(err, messaging.ErrRefused) {
			t.Errorf("Publish() = %v, want ErrRefused", err)
		}
		a.none()
		full.receive().ack(t)
		publish(t, b, numbered(2)) // the places that were taken are free again
		a.receive().ack(t)
		full.receive().ack(t)
		a.stop()
		full.stop()
	})
}

func TestMessageCostsOneCopyForTheBrokerAndOneForEachDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		allocated := func() uint64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.TotalAlloc
		}
		b := newBroker(t, memory.Config{})
		for _, group := range []string{"idle", "absent"} {
			declare(t, b, group)
		}
		sub := subscribe(t, b, "g", 0, nil)
		m := numbered(0)
		m.Payload = make([]byte, size)
		before := allocated()
		publish(t, b, m)
		a := sub.receive()
		if got := float64(allocated()-before) / size; got < 2 || got > 2.5 {
			t.Errorf("a message of three groups with one delivery has taken %.1f times its payload, want twice", got)
		}
		a.ack(t)
		sub.stop()
	})
}

// The bubble does not end before the goroutines in it do.
func TestIdleBrokerHasNoGoroutineButThoseThatCallSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: time.Minute})
		sub := subscribe(t, b, "g", 0, nil)
		for n := range 4 {
			publish(t, b, numbered(n))
		}
		sub.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: time.Hour})
		sub.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter})
		sub.receive().ack(t)
		sub.cancel()
		sub.receive().settle(t, messaging.Verdict{Kind: messaging.Release})
		sub.stop()
	})
}

func TestReceiverSeesNothingOfThePublishersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		b := newBroker(t, memory.Config{})
		sub := subscribe(t, b, "g", 0, nil)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "the publisher's"))
		if err := b.Publish(ctx, "t", numbered(0)); err != nil {
			t.Fatal(err)
		}
		cancel()
		a := sub.receive()
		if got, err := a.lease.Value(key{}), a.lease.Err(); got != nil || err != nil {
			t.Errorf("the lease has the value %v and has ended with %v, want neither", got, err)
		}
		a.ack(t)
		sub.stop()
	})
}

func TestStuckGroupHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		never := make(chan struct{})
		stuck := subscribe(t, b, "stuck", 0, func(context.Context, *messaging.Delivery, messaging.Settler) error {
			<-never
			return errors.New("too late")
		})
		free := subscribe(t, b, "free", 0, nil)
		for n := range 1000 {
			publish(t, b, numbered(n))
			free.receive().ack(t)
		}
		free.stop()
		stuck.cancel()
		close(never)
		if err := <-stuck.done; err != nil {
			t.Errorf("Subscribe() = %v, want nil", err)
		}
	})
}

func TestDeadLettersKeepTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxDeadLetters: 3})
		s := subscribe(t, b, "g", 0, nil)
		for n := range 5 {
			publish(t, b, numbered(n))
			s.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: "why"})
		}
		dead := b.DeadLetters("t", "g")
		if len(dead) != 3 || number(dead[0]) != 2 || number(dead[2]) != 4 {
			t.Fatalf("DeadLetters() = %v, want messages 2, 3 and 4", dead)
		}
		dead[0].Payload[0], dead[0].Headers[messaging.HeaderDeadReason] = 'X', "X"
		if again := b.DeadLetters("t", "g"); number(again[0]) != 2 || again[0].Headers[messaging.HeaderDeadReason] != "why" {
			t.Error("a change of what DeadLetters returned changed what the group keeps")
		}
		if got := b.DeadLetters("t", "other"); got != nil {
			t.Errorf("DeadLetters() of a group that does not exist = %v, want nil", got)
		}
		s.stop()
	})
}

func TestDeadLetterPublishedAgainBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(7))
		s.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: "why"})
		publish(t, b, b.DeadLetters("t", "g")...)
		a := s.receive()
		if number(a.Message) != 7 || len(a.Headers) != 0 || a.Attempt != 1 {
			t.Errorf("received message %d with headers %v at attempt %d, want 7, none, 1", number(a.Message), a.Headers, a.Attempt)
		}
		a.ack(t)
		s.stop()
	})
}

func TestCloseEndsCallsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxBacklog: 1})
		s := subscribe(t, b, "g", 1, nil)
		idle := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0))
		synctest.Wait()
		published := make(chan error, 1)
		go func() { published <- b.Publish(t.Context(), "t", numbered(1)) }()
		synctest.Wait()
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := <-published; !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Publish() = %v, want ErrClosed", err)
		}
		for _, s := range []*subscription{s, idle} {
			if err := <-s.done; !errors.Is(err, messaging.ErrClosed) {
				t.Errorf("Subscribe() = %v, want ErrClosed", err)
			}
		}
	})
}

func TestCloseReportsACallThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		never := make(chan struct{})
		s := subscribe(t, b, "g", 0, func(context.Context, *messaging.Delivery, messaging.Settler) error {
			<-never
			return nil
		})
		publish(t, b, numbered(0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "calls are still running") {
			t.Errorf("Close() = %v, want the cause of its context", err)
		}
		close(never)
		if err := <-s.done; !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Subscribe() = %v, want ErrClosed", err)
		}
	})
}
