package memory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

func newBroker(t testing.TB, cfg memory.Config) *memory.Broker {
	t.Helper()
	b, err := memory.New(cfg)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	return b
}

func numbered(n int) messaging.Message {
	return messaging.NewMessage("m", []byte{byte(n >> 8), byte(n)})
}

func number(m messaging.Message) int { return int(m.Payload[0])<<8 | int(m.Payload[1]) }

func publish(t *testing.T, b *memory.Broker, msgs ...messaging.Message) {
	t.Helper()
	if err := b.Publish(t.Context(), "t", msgs...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
}

// An arrival is a delivery that a test settles.
type arrival struct {
	*messaging.Delivery
	messaging.Settler
	lease context.Context
	at    time.Time
}

func (a arrival) settle(t *testing.T, v messaging.Verdict) {
	t.Helper()
	if err := a.Settle(t.Context(), v); err != nil {
		t.Fatalf("Settle(%v) = %v, want nil", v.Kind, err)
	}
}

func (a arrival) ack(t *testing.T) {
	t.Helper()
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

// A subscription is a running Subscribe within a synctest bubble.
type subscription struct {
	t        *testing.T
	cancel   context.CancelFunc
	arrivals chan arrival
	done     chan error
}

// subscribe runs Subscribe for a group of topic t. A nil deliver accepts all.
func subscribe(t *testing.T, b *memory.Broker, group string, prefetch int, deliver messaging.Deliver) *subscription {
	t.Helper()
	return subscribeTo(t, b, messaging.Subscription{Topic: "t", Group: group, Prefetch: prefetch}, deliver)
}

// subscribeTo runs Subscribe. A nil deliver accepts all.
func subscribeTo(t *testing.T, b *memory.Broker, sub messaging.Subscription, deliver messaging.Deliver) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &subscription{t: t, cancel: cancel, arrivals: make(chan arrival, 10_000), done: make(chan error, 1)}
	if deliver == nil {
		deliver = func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
			s.arrivals <- arrival{d, set, lease, time.Now()}
			return nil
		}
	}
	go func() { s.done <- b.Subscribe(ctx, sub, deliver) }()
	synctest.Wait()
	return s
}

// receive returns the next delivery. Where none comes, the bubble deadlocks,
// which fails the test.
func (s *subscription) receive() arrival {
	s.t.Helper()
	return <-s.arrivals
}

// none asserts that nothing has arrived.
func (s *subscription) none() {
	s.t.Helper()
	synctest.Wait()
	if n := len(s.arrivals); n != 0 {
		s.t.Errorf("%d deliveries have arrived, want 0", n)
	}
}

// stop ends the subscription, whose deliveries are all settled.
func (s *subscription) stop() {
	s.t.Helper()
	s.cancel()
	if err := <-s.done; err != nil {
		s.t.Errorf("Subscribe() = %v, want nil", err)
	}
}

// declare makes a group without keeping a subscriber.
func declare(t *testing.T, b *memory.Broker, group string) {
	t.Helper()
	subscribe(t, b, group, 0, nil).stop()
}
