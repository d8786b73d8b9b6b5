package messagingtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

func leasing() []guarantee {
	return []guarantee{
		{name: "OnReady comes before the first delivery and OnLost only after it", check: hooks},
		{name: "a delivery that is neither settled nor extended within Lease comes again", check: leaseExpires, unless: unexpiring},
		{name: "a delivery that is extended does not come again", check: leaseExtended, unless: unexpiring},
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

func hooks(h *harness) {
	var mu sync.Mutex
	var log []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, s)
	}
	ready, arrivals := make(chan struct{}), make(chan arrival, 1)
	once := sync.OnceFunc(func() { close(ready) })
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	h.group("g").stop()
	h.publish(message("m")) // which waits for whoever comes too early
	ended := make(chan error, 1)
	h.running.Go(func() {
		ended <- h.broker.Subscribe(ctx, messaging.Subscription{
			Topic: h.topic, Group: "g",
			OnReady: func() { note("ready"); once() },
			OnLost: func(err error) {
				if err == nil {
					h.Error("OnLost was called without a reason")
				}
				note("lost")
			},
		}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			note("delivery")
			arrivals <- arrival{d, s, lease, time.Now()}
			return nil
		})
	})
	await(h, ready, "the call of OnReady")
	h.ack(await(h, arrivals, "the delivery"))
	cancel()
	if err := await(h, ended, "the end of Subscribe"); err != nil {
		h.Errorf("Subscribe() = %v, want nil", err)
	}
	// A connection may come and go while the test runs; the end of ctx is no
	// interruption.
	up := false
	for i, s := range log {
		if up == (s == "ready") {
			h.Fatalf("call %d is out of order in %s", i, strings.Join(log, ", "))
		}
		if s != "delivery" {
			up = s == "ready"
		}
	}
	if !up {
		h.Errorf("OnLost was the last call in %s, though ctx ended the subscription", strings.Join(log, ", "))
	}
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
