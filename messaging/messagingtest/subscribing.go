package messagingtest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

func subscribing() []guarantee {
	return []guarantee{
		{name: "Subscribe refuses an invalid subscription", check: invalidSubscription},
		{name: "OnReady comes before the first delivery and OnLost only after it", check: hooks},
		{name: "the subscribers of a group share its messages", check: sharing},
		{name: "no more than Prefetch deliveries are unsettled", check: prefetch},
		{name: "a delivery that is not accepted comes again", check: notAccepted},
		{name: "a deliver that ends its goroutine loses nothing that it has accepted", check: endedDeliver},
		{name: "Subscribe returns when what it accepted is settled and leaves the rest", check: drain},
	}
}

func invalidSubscription(h *harness) {
	for name, s := range map[string]messaging.Subscription{
		"no topic":          {Group: "g"},
		"no group":          {Topic: h.topic},
		"a bad topic":       {Topic: "no spaces", Group: "g"},
		"a bad group":       {Topic: h.topic, Group: "a/b"},
		"a long group":      {Topic: h.topic, Group: strings.Repeat("x", 129)},
		"negative Prefetch": {Topic: h.topic, Group: "g", Prefetch: -1},
		"a huge Prefetch":   {Topic: h.topic, Group: "g", Prefetch: 65536},
	} {
		err := h.broker.Subscribe(h.ctx, s, func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })
		if !errors.Is(err, messaging.ErrInvalid) {
			h.Errorf("Subscribe() with %s = %v, want ErrInvalid", name, err)
		}
	}
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

func sharing(h *harness) {
	// The first settles nothing, so with a Prefetch of 1 it gets one message, and
	// the second must get the others.
	first := h.subscribe(messaging.Subscription{Group: "g", Prefetch: 1}, nil)
	h.publish(message("m"))
	held := first.receive()
	second := h.group("g")
	seen := map[string]bool{held.ID: true}
	for range 10 {
		h.publish(message("m"))
	}
	for range 10 {
		a := second.receive()
		if seen[a.ID] {
			h.Errorf("message %s arrived twice", a.ID)
		}
		seen[a.ID] = true
		h.ack(a)
	}
	h.ack(held)
}

func prefetch(h *harness) {
	const limit, total = 3, 12
	var open, most atomic.Int64
	arrivals := make(chan arrival, total)
	h.subscribe(messaging.Subscription{Group: "g", Prefetch: limit}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		arrivals <- arrival{d, s, lease, time.Now()}
		return nil
	})
	witness := h.group("witness")
	for range total {
		h.publish(message("m"))
	}
	for range total { // by then, whoever sends too many has had the time to
		h.ack(witness.receive())
	}
	for range total {
		select {
		case a := <-arrivals:
			open.Add(-1)
			h.ack(a)
		case <-time.After(patience):
			h.Fatal("the delivery that was awaited does not come")
		}
	}
	if got := most.Load(); got != limit {
		h.Errorf("at most %d deliveries were unsettled, want %d", got, limit)
	}
}

func notAccepted(h *harness) {
	refused := false
	arrivals := make(chan arrival, 10)
	h.subscribe(messaging.Subscription{Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if !refused {
			refused = true
			return errors.New("no room")
		}
		arrivals <- arrival{d, s, lease, time.Now()}
		return nil
	})
	m := message("m")
	h.publish(m)
	select {
	case a := <-arrivals:
		if a.ID != m.ID || a.Attempt != 1 && !h.broker.Promises().CountsRelease {
			h.Errorf("received %s at attempt %d, want %s at attempt 1", a.ID, a.Attempt, m.ID)
		}
		h.ack(a)
	case <-time.After(patience):
		h.Error("the delivery that was not accepted does not come again")
	}
}

// runtime.Goexit stands for a panic too, which would end the process where the
// broker calls deliver from goroutines of its own.
func endedDeliver(h *harness) {
	const total = 3
	calls, arrivals := 0, make(chan arrival, total)
	h.subscribe(messaging.Subscription{Group: "g", Prefetch: total}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if calls++; calls == total {
			runtime.Goexit()
		}
		arrivals <- arrival{d, s, lease, time.Now()}
		return nil
	})
	want := map[string]bool{}
	for range total {
		m := message("m")
		want[m.ID] = true
		h.publish(m)
	}
	for range total - 1 {
		a := await(h, arrivals, "the first delivery")
		await(h, a.lease.Done(), "the end of the lease")
		h.lost(a)
	}
	next := h.group("g")
	for range total {
		a := next.receive()
		if !want[a.ID] || !a.Redelivered || a.Attempt != 1 && !h.broker.Promises().CountsRelease {
			h.Errorf("received %s, Redelivered %t, at attempt %d, want each message once more at attempt 1", a.ID, a.Redelivered, a.Attempt)
		}
		delete(want, a.ID)
		h.ack(a)
	}
	next.stop()
	h.nothingLeft()
}

func drain(h *harness) {
	sub := h.subscribe(messaging.Subscription{Group: "g", Prefetch: 1}, nil)
	first, second := message("first"), message("second")
	h.publish(first)
	a := sub.receive()
	h.publish(second)
	sub.cancel()
	select {
	case <-sub.done:
		h.Fatalf("Subscribe() = %v before the delivery that it accepted was settled", sub.err)
	case <-time.After(100 * time.Millisecond): // enough to catch one that does not wait at all
	}
	if err := context.Cause(a.lease); err != nil {
		h.Errorf("the lease ended with %v when the context of Subscribe ended, want it alive", err)
	}
	h.ack(a)
	if err := sub.returned(); err != nil {
		h.Errorf("Subscribe() = %v, want nil", err)
	}
	b := h.group("g").receive()
	if b.ID != second.ID {
		h.Errorf("the next subscriber received the %s message, want the second alone", b.Type)
	}
	h.ack(b)
}
