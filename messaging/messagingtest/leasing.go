package messagingtest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

func leasing() []guarantee {
	return []guarantee{
		{name: "a delivery that is neither settled nor extended within Lease comes again", check: leaseExpires, unless: unexpiring},
		{name: "a delivery that is extended does not come again", check: leaseExtended, unless: unexpiring},
		{name: "a Consumer invokes a handler once that takes longer than the lease", check: consumeLonger, unless: unexpiring},
	}
}

// unexpiring excuses a broker whose leases do not expire, or not in the time that
// a test has.
func unexpiring(p messaging.Promises) string {
	switch {
	case p.Lease == 0:
		return "Lease is 0, so deliveries do not expire"
	case p.Lease > patience/6:
		return fmt.Sprintf("Lease is %v, longer than a test can wait for: have open return a Broker with one of at most %v", p.Lease, patience/6)
	}
	return ""
}

func leaseExpires(h *harness) {
	sub, lease := h.group("g"), h.broker.Promises().Lease
	h.publish(message("m"))
	a := sub.receive()
	b := sub.receive()
	if took := b.at.Sub(a.at); took < lease/2 {
		h.Errorf("it came again after %v, and Lease is %v", took, lease)
	}
	if b.ID != a.ID || !b.Redelivered || b.Attempt != 1 && !h.broker.Promises().CountsRelease {
		h.Errorf("received the %s message, Redelivered %t, at attempt %d, want the same again, true, 1", b.Type, b.Redelivered, b.Attempt)
	}
	await(h, a.lease.Done(), "the end of the lease")
	if got := context.Cause(a.lease); !errors.Is(got, messaging.ErrLost) {
		h.Errorf("the lease ended with %v, want ErrLost", got)
	}
	h.lost(a)
	h.ack(b)
	sub.stop()
	h.nothingLeft()
}

// It takes three leases of real time: what must not happen cannot be awaited.
func leaseExtended(h *harness) {
	sub, lease := h.group("g"), h.broker.Promises().Lease
	h.publish(message("m"))
	a := sub.receive()
	tick := time.NewTicker(lease / 4)
	defer tick.Stop()
	for range 12 {
		if err := a.Extend(h.ctx, lease); err != nil {
			h.Fatalf("Extend() = %v, want nil", err)
		}
		select {
		case <-tick.C:
		case again := <-sub.arrivals:
			h.Fatalf("the message came again at attempt %d though it was extended", again.Attempt)
		case <-a.lease.Done():
			h.Fatalf("the lease ended with %v though it was extended", context.Cause(a.lease))
		}
	}
	h.ack(a)
	sub.stop()
	h.nothingLeft()
}

func consumeLonger(h *harness) {
	var calls atomic.Int64
	done := make(chan error, 1)
	stop := h.consume(messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
		calls.Add(1)
		select {
		case <-time.After(h.broker.Promises().Lease * 3 / 2):
		case <-ctx.Done():
		}
		select {
		case done <- context.Cause(ctx):
		default: // a second call, which is counted
		}
		return nil
	})
	h.publish(message("m"))
	if err := await(h, done, "the end of the handler"); err != nil {
		h.Errorf("the handler's context ended with %v, want it alive", err)
	}
	if err := stop(); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
	if got := calls.Load(); got != 1 {
		h.Errorf("the handler was invoked %d times, want once", got)
	}
	h.nothingLeft()
}
