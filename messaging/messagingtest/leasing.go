package messagingtest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

// longestLease is what the suite is willing to wait for. An adapter whose leases
// can be set should have short ones under test.
const longestLease = 10 * time.Second

func leasing() []guarantee {
	return []guarantee{
		{name: "an unsettled delivery comes again when its lease is over", check: leaseEnds, unless: unleased},
		{name: "Extend keeps a delivery beyond its lease", check: leaseExtended, unless: unleased},
		{name: "a Consumer invokes a handler once that takes longer than the lease", check: consumeLonger, unless: unleased},
	}
}

func unleased(p messaging.Promises) string {
	switch {
	case p.Lease == 0:
		return "leases do not expire"
	case p.Lease > longestLease:
		return fmt.Sprintf("leases of %v are longer than the %v that the suite waits", p.Lease, longestLease)
	}
	return ""
}

func leaseEnds(h *harness) {
	sub := h.group("g")
	m := message("m")
	h.publish(m)
	a := sub.receive()
	b := sub.receive()
	if b.ID != m.ID || !b.Redelivered {
		h.Errorf("received %s, Redelivered %t, want %s again, true", b.ID, b.Redelivered, m.ID)
	}
	if got := context.Cause(a.lease); !errors.Is(got, messaging.ErrLost) {
		h.Errorf("the lease of what was taken back ended with %v, want ErrLost", got)
	}
	if err := a.Settle(h.ctx, messaging.Verdict{Kind: messaging.Ack}); !errors.Is(err, messaging.ErrLost) {
		h.Errorf("Settle() of what was taken back = %v, want ErrLost", err)
	}
	h.ack(b)
	sub.stop()
	h.nothingLeft()
}

func leaseExtended(h *harness) {
	term := h.broker.Promises().Lease
	sub := h.group("g")
	h.publish(message("m"))
	a := sub.receive()
	for range 4 { // which together are longer than the lease
		select {
		case <-time.After(term / 3):
		case <-a.lease.Done():
		}
		if err := a.Extend(h.ctx, term); err != nil {
			h.Errorf("Extend() = %v, want nil", err)
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
