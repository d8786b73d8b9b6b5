package faults

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/messaging"
)

// A broker short of memory reads nothing from those who publish. Consumers have
// connections of their own, so their acknowledgements pass. Retries do not, so
// what waits for one must not be acknowledged: the second group loses its
// connections just then.
func memoryAlarm(t *testing.T, node *services.Node) {
	f := newFlow(t, flowConfig{url: node.URL()})
	g := f.group("g")
	gate := make(chan struct{})
	const prefetch, n = 10, 300
	stop := g.start(groupConfig{prefetch: prefetch, before: func(ctx context.Context, _ *messaging.Delivery) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}})
	failing := f.group("failing")
	stopFailing := failing.start(groupConfig{before: func(ctx context.Context, d *messaging.Delivery) error {
		select {
		case <-gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if d.Attempt == 1 {
			return errTry
		}
		return nil
	}})
	f.publish(load{n: n, typ: all(fine)})()

	control(t, node, "set_vm_memory_high_watermark", "0.000001")
	off := sync.OnceFunc(func() { control(t, node, "set_vm_memory_high_watermark", "0.4") })
	defer off()
	for !f.publishWithin(t, time.Second, 256) { // the broker looks at its memory from time to time
	}
	var large sync.WaitGroup
	for range 4 { // more than the sockets take
		large.Go(func() { f.publishWithin(t, 500*time.Millisecond, 1<<20) })
	}
	large.Wait()

	wait := f.publish(load{n: size(1000, 10_000)}) // with contexts that outlast the alarm
	var before int
	f.note(func() { before = len(f.confirmed) })
	close(gate)
	// More than prefetch arrive only when the acknowledgements of others do.
	f.await(time.Minute, "consumers acknowledge while publishers are blocked", func() bool { return len(g.handled) >= before })
	f.await(time.Minute, "all handlers of the second group have failed", func() bool { return failing.retries >= concurrency })
	control(t, node, "close_all_connections", "the alarm goes on")
	pause(t.Context(), size(0, 30*time.Second))
	f.note(func() {
		if len(f.confirmed) != before {
			t.Errorf("%d messages were confirmed in spite of the alarm", len(f.confirmed)-before)
		}
	})
	off()
	wait()
	g.verify()
	failing.verify()
	must(t, stop())
	must(t, stopFailing())
}

// publishWithin publishes a message with a context that is short, reports whether
// that ended the call, and checks that it did in time.
func (f *flow) publishWithin(t *testing.T, short time.Duration, size int) (ended bool) {
	t.Helper()
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), short, enough)
	defer cancel()
	m := messaging.NewMessage(fine, make([]byte, size))
	began := time.Now()
	err := f.out.Publish(ctx, f.topic, m)
	took := time.Since(began)
	if err == nil {
		f.note(func() { f.confirmed = append(f.confirmed, m.ID) })
		return false
	}
	f.note(func() { f.uncertain[m.ID] = true })
	if !errors.Is(err, enough) || took > short+time.Second {
		t.Errorf("Publish() of %d bytes with a context of %v = %v after %v, want its cause in time", size, short, err, took)
	}
	t.Logf("Publish() of %d bytes with a context of %v returned after %v", size, short, took.Round(time.Millisecond))
	return true
}

// RabbitMQ ends a channel on which a delivery is unacknowledged for too long. All
// that came by it comes again.
func consumerTimeout(t *testing.T, node *services.Node) {
	// A channel takes the settings over when it is opened; by default it looks at
	// its deliveries once a minute.
	control(t, node, "eval", "application:set_env(rabbit, consumer_timeout, 2000), application:set_env(rabbit, channel_tick_interval, 200).")
	f := newFlow(t, flowConfig{url: node.URL()})
	g := f.group("g")
	var slow string      // the message that takes too long
	var cause error      // with which its context ended
	ready, calls := 0, 0 // calls of the handler for it
	stop := g.start(groupConfig{onReady: func() { f.note(func() { ready++ }) }, before: func(ctx context.Context, d *messaging.Delivery) error {
		first := false
		f.note(func() {
			if slow == "" {
				slow = d.ID
			}
			if d.ID == slow {
				calls++
				first = calls == 1
			}
		})
		if first {
			select {
			case <-ctx.Done():
			case <-time.After(patience):
			}
			f.note(func() { cause = context.Cause(ctx) })
			// It has taken no notice, and is done; too late.
			f.await(patience, "the message is delivered again", func() bool { return calls == 2 })
		}
		return nil
	}})
	began := time.Now()
	f.publish(load{n: size(500, 5000), typ: all(fine)})()
	f.await(patience, "the subscription is made again, and the message delivered again", func() bool { return ready >= 2 && calls >= 2 })
	t.Logf("delivered again after %.1f s", time.Since(began).Seconds())
	g.verify()
	f.note(func() {
		if !errors.Is(cause, messaging.ErrLost) {
			t.Errorf("the context of the slow handler ended with %v, want ErrLost", cause)
		}
		if ready != 2 || calls != 2 {
			t.Errorf("the subscription was made %d times and the slow message delivered %d times, want 2 and 2: its late acknowledgement does no harm", ready, calls)
		}
	})
	f.publish(load{n: 100})()
	g.verify()
	must(t, stop())
	control(t, node, "eval", "application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000).")
}
