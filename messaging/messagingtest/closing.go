package messagingtest

import (
	"context"
	"errors"

	"github.com/parley-go/parley/messaging"
)

func closing() []guarantee {
	return []guarantee{
		{name: "Close of a Broker that was not used succeeds, also twice", check: closeUnused},
		{name: "Close ends Subscribe and later calls with ErrClosed and leases with ErrLost", check: closeUsed},
		{name: "what is published outlives the Broker", check: durable, unless: volatile},
	}
}

func volatile(p messaging.Promises) string {
	if p.Durable {
		return ""
	}
	return "Durable"
}

func (h *harness) close(b messaging.Broker) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		h.Fatalf("Close() = %v, want nil", err)
	}
}

func closeUnused(h *harness) {
	h.close(h.broker)
	h.close(h.broker)
}

func closeUsed(h *harness) {
	sub := h.group("g")
	h.publish(message("m"))
	a := sub.receive()
	h.close(h.broker)
	if err := sub.returned(); !errors.Is(err, messaging.ErrClosed) {
		h.Errorf("Subscribe() = %v, want ErrClosed", err)
	}
	if got := context.Cause(a.lease); !errors.Is(got, messaging.ErrLost) {
		h.Errorf("the lease ended with %v, want ErrLost", got)
	}
	h.lost(a)
	if err := h.broker.Publish(h.ctx, h.topic, message("m")); !errors.Is(err, messaging.ErrClosed) {
		h.Errorf("Publish() = %v, want ErrClosed", err)
	}
	err := h.broker.Subscribe(h.ctx, messaging.Subscription{Topic: h.topic, Group: "g"},
		func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })
	if !errors.Is(err, messaging.ErrClosed) {
		h.Errorf("Subscribe() = %v, want ErrClosed", err)
	}
}

// lost asserts that a, whose lease has ended, can no longer be settled.
func (h *harness) lost(a arrival) {
	h.Helper()
	for range 2 {
		if err := a.Settle(h.ctx, messaging.Verdict{Kind: messaging.Ack}); !errors.Is(err, messaging.ErrLost) {
			h.Errorf("Settle() of a lost delivery = %v, want ErrLost", err)
		}
	}
}

func durable(h *harness) {
	sub := h.group("g")
	held, waiting := message("held"), message("waiting")
	h.publish(held)
	sub.receive() // and never settled
	h.publish(waiting)
	h.close(h.broker)
	h.broker = h.another()
	next := h.group("g")
	got := map[string]bool{}
	for range 2 {
		a := next.receive()
		got[a.ID] = true
		h.ack(a)
	}
	if !got[held.ID] || !got[waiting.ID] {
		h.Errorf("received %v, want both messages", got)
	}
}
