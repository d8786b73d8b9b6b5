package messagingtest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

// patience bounds every wait. It asserts nothing about speed.
const patience = 30 * time.Second

// Run holds the brokers that open returns to the guarantees of package messaging
// and to their own Promises. Each call of open returns a new Broker on the same
// server, where what is durable stays. Run closes it.
func Run(t *testing.T, open func(t *testing.T) messaging.Broker) {
	t.Helper()
	for _, group := range [][]guarantee{publishing(), subscribing(), settling(), leasing(), deadLettering(), closing(), consuming()} {
		for _, g := range group {
			t.Run(g.name, func(t *testing.T) {
				t.Parallel()
				h := newHarness(t, open)
				if g.unless != nil {
					if reason := g.unless(h.broker.Promises()); reason != "" {
						t.Skip("not promised: " + reason)
					}
				}
				g.check(h)
			})
		}
	}
}

// A guarantee is one subtest.
type guarantee struct {
	name string
	// unless returns why a broker that makes these promises is excused, or "".
	unless func(messaging.Promises) string
	check  func(*harness)
}

// A harness is what one subtest works with.
type harness struct {
	*testing.T
	broker messaging.Broker
	open   func(t *testing.T) messaging.Broker
	topic  string
	ctx    context.Context //nolint:containedctx // the context of the subtest, as in testing.T

	running sync.WaitGroup // one for each goroutine of the subtest
}

func newHarness(t *testing.T, open func(t *testing.T) messaging.Broker) *harness {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	h := &harness{T: t, open: open, topic: "conformance-" + rand.Text(), ctx: ctx}
	t.Cleanup(func() { // after the Close of each Broker
		cancel()
		ended := make(chan struct{})
		go func() {
			h.running.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("calls of the Broker are still running after its Close")
		}
	})
	h.broker = h.another()
	return h
}

// another opens a Broker that is closed when the subtest ends.
func (h *harness) another() messaging.Broker {
	h.Helper()
	b := h.open(h.T)
	h.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			h.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}

// each calls do in n goroutines, and returns what waits for them.
func (h *harness) each(n int, do func(i int)) (wait func()) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	h.running.Go(all.Wait)
	return all.Wait
}

// await waits for a value, or until c is closed.
func await[T any](h *harness, c <-chan T, what string) (v T) {
	h.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		h.Fatalf("%s does not happen", what)
	}
	return v
}

// publish publishes msgs, which must succeed.
func (h *harness) publish(msgs ...messaging.Message) {
	h.Helper()
	if err := h.broker.Publish(h.ctx, h.topic, msgs...); err != nil {
		h.Fatalf("Publish() = %v, want nil", err)
	}
}

// An arrival is a delivery on its way through a subtest.
type arrival struct {
	*messaging.Delivery
	messaging.Settler
	lease context.Context //nolint:containedctx // what deliver was called with
	at    time.Time
}

// settle settles a, which must succeed.
func (h *harness) settle(a arrival, v messaging.Verdict) {
	h.Helper()
	if err := a.Settle(h.ctx, v); err != nil {
		h.Fatalf("Settle(%v) = %v, want nil", v.Kind, err)
	}
}

func (h *harness) ack(a arrival) {
	h.Helper()
	h.settle(a, messaging.Verdict{Kind: messaging.Ack})
}

// A subscription is a running Subscribe.
type subscription struct {
	h        *harness
	cancel   context.CancelFunc
	arrivals chan arrival
	done     chan struct{} // closed when Subscribe has returned err
	err      error
}

// subscribe runs Subscribe until the subtest ends, and returns when it is ready.
// A nil deliver accepts everything, for receive.
func (h *harness) subscribe(s messaging.Subscription, deliver messaging.Deliver) *subscription {
	h.Helper()
	ctx, cancel := context.WithCancel(h.ctx)
	sub := &subscription{h: h, cancel: cancel, arrivals: make(chan arrival, 10_000), done: make(chan struct{})}
	if deliver == nil {
		deliver = func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
			sub.arrivals <- arrival{d, set, lease, time.Now()}
			return nil
		}
	}
	ready := make(chan struct{})
	var once sync.Once
	s.Topic = h.topic
	s.OnReady = func() { once.Do(func() { close(ready) }) }
	broker := h.broker
	h.running.Go(func() {
		defer close(sub.done)
		sub.err = broker.Subscribe(ctx, s, deliver)
	})
	h.Cleanup(cancel)
	select {
	case <-ready:
	case <-sub.done:
		h.Fatalf("Subscribe() = %v before it called OnReady", sub.err)
	case <-time.After(patience):
		h.Fatal("Subscribe() does not call OnReady")
	}
	return sub
}

// group subscribes with a group name alone.
func (h *harness) group(name string) *subscription {
	h.Helper()
	return h.subscribe(messaging.Subscription{Group: name}, nil)
}

// receive waits for the next delivery.
func (s *subscription) receive() arrival {
	s.h.Helper()
	select {
	case a := <-s.arrivals:
		return a
	case <-s.done:
		s.h.Fatalf("Subscribe() = %v while a delivery was awaited", s.err)
	case <-time.After(patience):
		s.h.Fatal("the delivery that was awaited does not come")
	}
	return arrival{}
}

// returned waits until Subscribe has returned, and returns its error.
func (s *subscription) returned() error {
	s.h.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.h.Fatal("Subscribe() does not return")
	}
	return s.err
}

// stop ends the subscription, whose deliveries must all be settled.
func (s *subscription) stop() {
	s.h.Helper()
	s.cancel()
	if err := s.returned(); err != nil {
		s.h.Fatalf("Subscribe() = %v after its context had ended, want nil", err)
	}
}

// nothingLeft asserts that group g holds no message but what is published from
// now on: a new subscriber receives that and nothing before it.
func (h *harness) nothingLeft() {
	h.Helper()
	sub := h.group("g")
	marker := message("marker")
	h.publish(marker)
	a := sub.receive()
	if a.ID != marker.ID {
		h.Errorf("the group received %s (attempt %d) again, want nothing", a.Type, a.Attempt)
	}
	h.ack(a)
	sub.stop()
}

func message(typ string) messaging.Message {
	return messaging.NewMessage(typ, []byte("payload of "+typ))
}
