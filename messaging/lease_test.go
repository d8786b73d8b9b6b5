package messaging_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestHandlerThreeTimesAsLongAsTheLeaseIsInvokedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newLeasing(t, 2*time.Second)
		var calls atomic.Int64
		var live error
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			calls.Add(1)
			time.Sleep(7 * time.Second)
			live = ctx.Err()
			return nil
		})
		publish(t, b, messaging.NewMessage("m", nil))
		pass(time.Hour)
		if calls.Load() != 1 || live != nil || r.c.Stats()[0].Handled != 1 {
			t.Errorf("%d calls, the context ended with %v, %+v; want one call with a live context, handled", calls.Load(), live, r.c.Stats()[0])
		}
		_ = r.end()
	})
}

func TestDeliveriesThatWaitInALaneKeepTheirLeases(t *testing.T) {
	for _, key := range []string{"", "k"} {
		t.Run("key "+strconv.Quote(key), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newLeasing(t, 3*time.Second)
				var order []string
				r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(_ context.Context, d *messaging.Delivery) error {
					time.Sleep(time.Second)
					order = append(order, string(d.Payload))
					return nil
				})
				for n := range 10 {
					publish(t, b, keyed(key, n))
				}
				pass(time.Hour)
				if got := strings.Join(order, " "); got != "0 1 2 3 4 5 6 7 8 9" {
					t.Errorf("handled %s, want 0 to 9, each once", got)
				}
				_ = r.end()
			})
		})
	}
}

func TestHeldDeliveriesKeepTheirLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newLeasing(t, 3*time.Second)
		var order []string
		r := runOne(t, b, messaging.ConsumerConfig{OrderedRetries: true, Backoff: func(int) time.Duration { return time.Minute }}, func(_ context.Context, d *messaging.Delivery) error {
			order = append(order, string(d.Payload))
			if string(d.Payload) == "0" && d.Attempt < 3 {
				return errFailed
			}
			return nil
		})
		publish(t, b, keyed("k", 0), keyed("k", 1))
		pass(time.Hour)
		if got := strings.Join(order, " "); got != "0 0 0 1" {
			t.Errorf("attempts at %s, want three at 0, then one at 1", got)
		}
		_ = r.end()
	})
}

func TestHandlersKeepTheirLeasesWhileTheConsumerDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newLeasing(t, time.Second)
		var live error
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			time.Sleep(10 * time.Second)
			live = ctx.Err()
			return nil
		})
		publish(t, b, messaging.NewMessage("m", nil))
		synctest.Wait()
		if err := r.end(); err != nil || live != nil {
			t.Errorf("Run() = %v, the handler's context ended with %v; want nil, nil", err, live)
		}
		if left := rest(t, b); len(left) != 0 {
			t.Errorf("%d messages were left, want 0", len(left))
		}
	})
}

// leased returns a script whose leases are over after 6s, and so are extended
// every 2s.
func leased() *script {
	b := newScript()
	b.lease = 6 * time.Second
	return b
}

func TestDeliveryThatWaitsForRoomKeepsItsLeaseUntilItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := leased()
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(ctx context.Context, _ *messaging.Delivery) error {
			time.Sleep(20 * time.Second)
			return nil
		})
		for n := range 65 { // one runs, a lane full waits
			b.deliver(delivery(strconv.Itoa(n), 1))
		}
		last := delivery("last", 1)
		var extended atomic.Int64
		last.extend = func(time.Duration) error { extended.Add(1); return nil }
		b.deliver(last)
		pass(9 * time.Second)
		before := extended.Load()
		if before != 4 {
			t.Errorf("it was extended %d times in 9s, want 4", before)
		}
		r.stop()
		pass(8 * time.Second)
		if got := extended.Load(); got != before {
			t.Errorf("it was extended %d times after it was refused, want 0", got-before)
		}
		if err := <-r.ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestLeaseIsExtendedByItsTermUntilTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := leased()
		r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
			time.Sleep(10 * time.Second)
			return nil
		})
		d := delivery("m", 1)
		began := time.Now()
		var at []time.Duration
		d.extend = func(by time.Duration) error {
			if by != 6*time.Second {
				t.Errorf("Extend(%v), want 6s", by)
			}
			at = append(at, time.Since(began))
			return nil
		}
		b.deliver(d)
		pass(time.Hour)
		for i, when := range at {
			if when != time.Duration(i+1)*2*time.Second {
				t.Errorf("extended at %v, want every 2s", at)
			}
		}
		if len(at) < 4 || len(at) > 5 { // the fifth falls together with the end
			t.Errorf("extended %d times, want as often as there are 2s in 10s", len(at))
		}
		_ = r.end()
	})
}

func TestExtendThatFailsIsRepeatedBeforeTheLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		b := leased()
		r := runOne(t, b, messaging.ConsumerConfig{Logger: log.logger()}, func(context.Context, *messaging.Delivery) error {
			time.Sleep(5 * time.Second)
			return nil
		})
		d := delivery("m", 1)
		began := time.Now()
		var at []time.Duration
		d.extend = func(time.Duration) error {
			if at = append(at, time.Since(began)); len(at) < 3 {
				return errFailed
			}
			return nil
		}
		b.deliver(d)
		pass(time.Minute)
		if len(at) != 3 || at[2] > 4*time.Second || d.verdict(t).Kind != messaging.Ack {
			t.Errorf("extended at %v, settled with %v; want a third try, which succeeds, by 4s, and an Ack", at, d.verdict(t))
		}
		if got := strings.Count(log.String(), "lease not extended"); got != 2 || !strings.Contains(log.String(), "id=m") {
			t.Errorf("log = %q, want the two failures in it", log.String())
		}
		_ = r.end()
	})
}

func TestExtendThatReportsTheLossIsNotRepeatedAndTheLeaseDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := leased()
		var cause error
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil
		})
		lease, lose := context.WithCancelCause(t.Context())
		d := delivery("m", 1).under(lease)
		calls := 0
		d.extend = func(time.Duration) error { calls++; return messaging.ErrLost }
		b.deliver(d)
		pass(time.Minute)
		if calls != 1 || cause != nil {
			t.Errorf("%d calls of Extend, the handler's context ended with %v; want one, and a live context while the lease is", calls, cause)
		}
		lose(messaging.ErrLost)
		synctest.Wait()
		if !errors.Is(cause, messaging.ErrLost) || len(d.verdicts) != 0 {
			t.Errorf("the handler's context ended with %v, %d verdicts; want ErrLost and none", cause, len(d.verdicts))
		}
		_ = r.end()
	})
}

func TestLostDeliveryIsExtendedNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := leased()
		release := make(chan struct{})
		r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
			<-release
			return nil
		})
		lease, lose := context.WithCancelCause(t.Context())
		d := delivery("m", 1).under(lease)
		d.extend = func(time.Duration) error {
			t.Error("Extend was called for what the broker has taken back")
			return nil
		}
		b.deliver(d)
		lose(messaging.ErrLost)
		pass(time.Minute)
		close(release)
		_ = r.end()
	})
}

func TestExtendThatHangsCostsNoOtherItsLeaseAndCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 50
		b := leased()
		release := make(chan struct{})
		var mu sync.Mutex
		running, most := 0, 0
		over := map[int]time.Time{} // when each lease would be, without an extension
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: all}, func(context.Context, *messaging.Delivery) error {
			<-release
			return nil
		})
		for n := range all {
			d := delivery(strconv.Itoa(n), 1)
			over[n] = time.Now().Add(b.lease)
			d.extendCtx = func(ctx context.Context) error {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				var err error
				if n == 0 {
					<-ctx.Done()
					err = ctx.Err()
				} else {
					time.Sleep(10 * time.Millisecond)
				}
				mu.Lock()
				defer mu.Unlock()
				if running--; err == nil {
					if time.Now().After(over[n]) {
						t.Errorf("lease %d was extended %v too late", n, time.Since(over[n]))
					}
					over[n] = time.Now().Add(b.lease)
				}
				return err
			}
			b.deliver(d)
		}
		pass(time.Minute)
		mu.Lock()
		for n, at := range over {
			if n > 0 && time.Now().After(at) {
				t.Errorf("lease %d was over at %v ago", n, time.Since(at))
			}
		}
		if most != 8 {
			t.Errorf("at most %d calls of Extend ran at one time, want 8", most)
		}
		mu.Unlock()
		close(release)
		_ = r.end()
	})
}

func TestExtendHasAThirdOfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := leased()
		release := make(chan struct{})
		r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
			<-release
			return nil
		})
		d := delivery("m", 1)
		var left time.Duration
		d.extendCtx = func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return nil
		}
		b.deliver(d)
		pass(4 * time.Second)
		if left != 2*time.Second {
			t.Errorf("Extend has %v, want 2s", left)
		}
		close(release)
		_ = r.end()
	})
}
