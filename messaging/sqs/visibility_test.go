package sqs_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
)

func TestAHandlerThatTakesLongerThanTheVisibilityIsInvokedOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), Visibility: 2 * time.Second})
	topic := unique()
	var calls atomic.Int64
	done := make(chan error, 10)
	stop := consume(t, b, messaging.ConsumerConfig{}, messaging.Subscription{Topic: topic, Group: "g"}, func(ctx context.Context, _ *messaging.Delivery) error {
		calls.Add(1)
		select {
		case <-time.After(7 * time.Second):
		case <-ctx.Done():
		}
		done <- context.Cause(ctx)
		return nil
	})
	publish(t, b, topic, message("", 1))
	if err := receive(t, done); err != nil {
		t.Errorf("the handler's context ended with %v, want it alive", err)
	}
	stop()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 2))
	if d := sub.receive(); string(d.Payload) != "2" {
		t.Errorf("the message came again after its handler, at attempt %d", d.Attempt)
	} else {
		d.ack(t)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("the handler was invoked %d times, want once", n)
	}
}

func TestPrefetchedMessagesThatWaitLongerThanTheVisibilityAreHandledOnce(t *testing.T) {
	t.Parallel()
	const total = 10
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), Visibility: 3 * time.Second})
	topic := unique()
	var mu sync.Mutex
	seen := map[string]int{}
	all := make(chan struct{})
	stop := consume(t, b, messaging.ConsumerConfig{Concurrency: 1}, messaging.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *messaging.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		seen[d.ID]++
		time.Sleep(time.Second) // which is what the handler takes
		if len(seen) == total {
			close(all)
		}
		return nil
	})
	var msgs []messaging.Message
	for i := range total {
		msgs = append(msgs, message("", i))
	}
	publish(t, b, topic, msgs...)
	receive(t, all)
	stop()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("message %s was handled %d times, want once", id, n)
		}
	}
}

// A deliver that blocks holds up messages that nobody has accepted, which only the
// Broker can extend. The one that it has in hand is its own to extend.
func TestMessagesThatWaitForDeliverKeepTheirVisibility(t *testing.T) {
	t.Parallel()
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), Visibility: 2 * time.Second})
	topic := unique()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, come, ended := make(chan struct{}), make(chan *messaging.Delivery, 100), make(chan error, 1)
	blocked := ""
	go func() {
		ended <- b.Subscribe(ctx, messaging.Subscription{Topic: topic, Group: "g", OnReady: sync.OnceFunc(func() { close(ready) })},
			func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
				if blocked == "" {
					blocked = d.ID
					<-lease.Done() // for one visibility
					time.Sleep(3 * time.Second)
					return nil
				}
				come <- d
				return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
			})
	}()
	receive(t, ready)
	publish(t, b, topic, message("", 0), message("", 1), message("", 2))
	for range 3 {
		if d := receive(t, come); d.Redelivered != (d.ID == blocked) {
			t.Errorf("message %s came with Redelivered %t, want it of the one alone that was in hand", d.Payload, d.Redelivered)
		}
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Errorf("Subscribe() = %v, want nil", err)
	}
}

func TestStoppingWithUnstartedMessagesGivesThemBackAtOnce(t *testing.T) {
	t.Parallel()
	const total = 10
	// Nothing but being given back brings them to the next in time.
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), Visibility: 10 * time.Minute})
	topic := unique()
	started, finish := make(chan string, total), make(chan struct{})
	stop := consume(t, b, messaging.ConsumerConfig{Concurrency: 1}, messaging.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *messaging.Delivery) error {
		started <- d.ID
		<-finish
		return nil
	})
	var msgs []messaging.Message
	for i := range total {
		msgs = append(msgs, message("", i))
	}
	publish(t, b, topic, msgs...)
	first := receive(t, started)
	close(finish)
	stop()
	handled := map[string]bool{first: true}
	for len(started) > 0 { // those that began before stop
		handled[<-started] = true
	}
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	for range total - len(handled) {
		d := sub.receive()
		if handled[d.ID] {
			t.Errorf("message %s was handled and came again", d.ID)
		}
		d.ack(t)
	}
}

func TestAFailedHeadBlocksItsOwnFIFOGroupOnly(t *testing.T) {
	t.Parallel()
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), FIFO: true, Visibility: 20 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("a", 1), message("a", 2), message("a", 3), message("b", 1), message("b", 2), message("b", 3))
	var order []string
	failures := 0
	for len(order) < 6 {
		d := sub.receive()
		if d.Key == "a" && string(d.Payload) == "1" && failures < 2 {
			failures++
			d.settle(t, messaging.Verdict{Kind: messaging.Retry, After: 2 * time.Second})
			continue
		}
		if d.Attempt != 1 && string(d.Payload) != "1" {
			t.Errorf("message %s of %s, which no handler has had, is at attempt %d, want 1", d.Payload, d.Key, d.Attempt)
		}
		order = append(order, d.Key+string(d.Payload))
		d.ack(t)
	}
	if want := []string{"b1", "b2", "b3", "a1", "a2", "a3"}; !slices.Equal(order, want) {
		t.Errorf("handled %v, want %v: a waits for its head, b does not", order, want)
	}
}

func TestReleasingTheHeadOfAFIFOGroupKeepsItsOrder(t *testing.T) {
	t.Parallel()
	const total = 12
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), FIFO: true, Visibility: 20 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	var msgs []messaging.Message
	for i := range total {
		msgs = append(msgs, message("k", i))
	}
	publish(t, b, topic, msgs...)
	released := 0
	for next := 0; next < total; {
		d := sub.receive()
		if got := string(d.Payload); got != strconv.Itoa(next) {
			t.Fatalf("message %s came where %d was next", got, next)
		}
		if next%3 == 1 && released <= next/3 {
			released++
			d.settle(t, messaging.Verdict{Kind: messaging.Release})
			continue
		}
		d.ack(t)
		next++
	}
}

func TestALeaseEndsBeforeTheVisibilityDoes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), Visibility: 10 * time.Second}) // of which a second is for the answer's way
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1))
	first := sub.receive()
	select {
	case again := <-sub.come:
		t.Errorf("attempt %d came before the lease of the first had ended", again.Attempt)
	case <-first.lease.Done():
	}
	if got := context.Cause(first.lease); !errors.Is(got, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", got)
	}
	for _, v := range []messaging.Kind{messaging.Ack, messaging.Retry, messaging.Release} {
		if err := first.Settle(t.Context(), messaging.Verdict{Kind: v}); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Settle(%v) of a lost delivery = %v, want ErrLost", v, err)
		}
	}
	if err := first.Extend(t.Context(), time.Second); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Extend() of a lost delivery = %v, want ErrLost", err)
	}
	second := sub.receive()
	if second.ID != first.ID || second.Attempt != 2 || !second.Redelivered {
		t.Errorf("received %s at attempt %d, Redelivered %t, want the same at 2, true", second.Payload, second.Attempt, second.Redelivered)
	}
	second.ack(t)
}

func TestARetryComesBackNoEarlierThanAsked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, sqs.Config{Client: client(serverURL(t)), Visibility: 20 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1), message("", 2))
	for _, after := range []time.Duration{2300 * time.Millisecond, 300 * time.Millisecond} {
		sub.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: after})
	}
	began := time.Now() // a moment after the first was settled
	first, second := sub.receive(), sub.receive()
	if took := time.Since(began); took < 2*time.Second || first.Attempt != 2 || second.Attempt != 2 {
		t.Errorf("the second came after %v at attempts %d and %d, want more than 2s, 2 and 2", took, first.Attempt, second.Attempt)
	}
	first.ack(t)
	second.ack(t)
}
