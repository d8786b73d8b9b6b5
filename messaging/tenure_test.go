package messaging_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/parley-go/parley/messaging"
)

type leaseKey struct{}

// numberedLease returns a lease that knows its number.
func numberedLease(t *testing.T, n int) (lease context.Context, lose context.CancelCauseFunc) {
	t.Helper()
	return context.WithCancelCause(context.WithValue(t.Context(), leaseKey{}, n))
}

// Kafka has a lease for each partition, and they take turns in each lane.
func TestHandlersAndVerdictsAreUnderTheirOwnLeaseThoughManyTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		seen := make(chan context.Context, 1)
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(ctx context.Context, _ *messaging.Delivery) error {
			seen <- ctx
			if ctx.Err() != nil {
				t.Errorf("the handler's context begins with %v, want nil", ctx.Err())
			}
			return nil
		})
		const leases = 20
		var under []context.Context
		for n := range leases {
			lease, lose := numberedLease(t, n)
			defer lose(nil)
			under = append(under, lease)
		}
		for turn := range 5 {
			for n := range leases {
				d := delivery(strconv.Itoa(n), 1).under(under[n])
				d.settle = func(ctx context.Context) error {
					if ctx.Value(leaseKey{}) != n || ctx.Err() != nil {
						t.Errorf("turn %d: the verdict under lease %d has the context of lease %v, which ended with %v", turn, n, ctx.Value(leaseKey{}), ctx.Err())
					}
					return nil
				}
				b.deliver(d)
				if got := <-seen; got.Value(leaseKey{}) != n || d.verdict(t).Kind != messaging.Ack {
					t.Errorf("turn %d: the handler under lease %d had the context of lease %v, and the verdict was %v", turn, n, got.Value(leaseKey{}), d.verdict(t).Kind)
				}
			}
		}
		_ = r.end()
	})
}

// Brokers that lend each message by itself have a lease for each, and what is held
// back comes to its turn after any number of others.
func TestAttemptsInOrderAreUnderTheirOwnLeasesHoweverManyAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		attempts := map[string]int{}
		cfg := messaging.ConsumerConfig{Concurrency: 1, OrderedRetries: true, Backoff: func(int) time.Duration { return time.Second }}
		r := runOne(t, b, cfg, func(ctx context.Context, d *messaging.Delivery) error {
			if got := strconv.Itoa(ctx.Value(leaseKey{}).(int)); got != d.ID || ctx.Err() != nil {
				t.Errorf("the attempt at %s is under lease %s, which ended with %v", d.ID, got, ctx.Err())
			}
			if attempts[d.ID]++; attempts[d.ID] < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		const leases = 20
		var held [leases]*settler
		for n := range leases {
			lease, lose := numberedLease(t, n)
			defer lose(nil)
			held[n] = delivery(strconv.Itoa(n), 1).under(lease)
			held[n].d.Key = "key " + strconv.Itoa(n%5)
			held[n].settle = func(ctx context.Context) error {
				if ctx.Value(leaseKey{}) != n || ctx.Err() != nil {
					t.Errorf("the verdict under lease %d has the context of lease %v, which ended with %v", n, ctx.Value(leaseKey{}), ctx.Err())
				}
				return nil
			}
			b.deliver(held[n])
		}
		pass(time.Minute)
		for n, d := range held {
			if got := d.verdict(t).Kind; got != messaging.Ack || attempts[strconv.Itoa(n)] != 3 {
				t.Errorf("message %d was settled with %v after %d attempts, want ack after 3", n, got, attempts[strconv.Itoa(n)])
			}
		}
		_ = r.end()
	})
}

func TestAFewLeasesThatTakeTurnsKeepTheirContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		seen := make(chan context.Context, 1)
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(ctx context.Context, _ *messaging.Delivery) error {
			seen <- ctx
			return nil
		})
		made := map[context.Context]bool{}
		const leases = 8
		var under []context.Context
		for n := range leases {
			lease, lose := numberedLease(t, n)
			defer lose(nil)
			under = append(under, lease)
		}
		for range 5 {
			for n, lease := range under {
				d := delivery("1", 1).under(lease)
				d.settle = func(ctx context.Context) error {
					if made[ctx] = true; ctx.Value(leaseKey{}) != n {
						t.Errorf("the verdict under lease %d has the context of lease %v", n, ctx.Value(leaseKey{}))
					}
					return nil
				}
				b.deliver(d)
				if got := <-seen; got.Value(leaseKey{}) != n {
					t.Errorf("the handler under lease %d had the context of lease %v", n, got.Value(leaseKey{}))
				}
			}
		}
		if len(made) != leases {
			t.Errorf("%d contexts were made for the verdicts under %d leases, want one for each", len(made), leases)
		}
		_ = r.end()
	})
}

// A broker may have a lease for each message.
func TestLeasesThatAreOverAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(context.Context, *messaging.Delivery) error { return nil })
		var lent []weak.Pointer[[1024]byte]
		for range 47 {
			what := new([1024]byte)
			lent = append(lent, weak.Make(what))
			lease, lose := context.WithCancelCause(context.WithValue(t.Context(), leaseKey{}, what))
			b.deliver(delivery("1", 1).under(lease))
			lose(nil)
		}
		for range 10 {
			runtime.GC()
		}
		kept := 0
		for _, what := range lent {
			if what.Value() != nil {
				kept++
			}
		}
		if kept > 10 {
			t.Errorf("%d of %d leases are kept, want the last few", kept, len(lent))
		}
		_ = r.end()
	})
}

// A handler may hand its context to what goes on for long, and a lease lead to much.
func TestWhoKeepsTheContextOfAHandlerKeepsTheLeaseOfNoOther(t *testing.T) {
	for name, cfg := range map[string]messaging.ConsumerConfig{"without a Timeout": {Concurrency: 1}, "with one": {Concurrency: 1, Timeout: time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			b := newScript()
			contexts := make(chan context.Context, 1)
			r := runOne(t, b, cfg, func(ctx context.Context, d *messaging.Delivery) error {
				if d.ID == "kept" {
					contexts <- context.WithoutCancel(ctx)
				}
				return nil
			})
			deliver := func(id string) weak.Pointer[[1024]byte] {
				what := new([1024]byte)
				lease, lose := context.WithCancelCause(context.WithValue(t.Context(), leaseKey{}, what))
				b.deliver(delivery(id, 1).under(lease))
				synctest.Wait()
				lose(nil)
				return weak.Make(what)
			}
			own := deliver("kept")
			kept := <-contexts
			var others []weak.Pointer[[1024]byte]
			for range 40 {
				others = append(others, deliver("another"))
			}
			deliver("the last, which the script may have")
			_ = r.end()
			for range 10 {
				runtime.GC()
			}
			for n, what := range others {
				if what.Value() != nil {
					t.Errorf("%s: the lease of the handler %d after it is kept, want only its own", name, n+1)
				}
			}
			if own.Value() == nil || kept.Value(leaseKey{}) != own.Value() {
				t.Errorf("%s: the kept context has lost its values", name)
			}
		})
	}
}

// A watched is a lease that counts who waits for its end.
type watched struct {
	context.Context
	end     chan struct{}
	waiting atomic.Int64
}

func (w *watched) Done() <-chan struct{} { return w.end }

// AfterFunc is what contexts made within w call.
func (w *watched) AfterFunc(func()) func() bool {
	w.waiting.Add(1)
	return sync.OnceValue(func() bool {
		w.waiting.Add(-1)
		return true
	})
}

// That of a connection outlives the subscriptions on it.
func TestNothingWaitsForTheEndOfALeaseOnceTheConsumerHasEnded(t *testing.T) {
	for _, cfg := range []messaging.ConsumerConfig{{Concurrency: 1}, {Concurrency: 1, Timeout: time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			b := newScript()
			r := runOne(t, b, cfg, func(ctx context.Context, d *messaging.Delivery) error {
				_ = ctx.Done()
				if d.ID == "9" {
					runtime.Goexit()
				}
				return nil
			})
			leases := [12]*watched{}
			for n := range leases {
				leases[n] = &watched{Context: t.Context(), end: make(chan struct{})}
			}
			const turns = 2
			for range turns {
				for n, lease := range leases {
					for range 2 { // with another context for the second verdict
						b.deliver(delivery(strconv.Itoa(n), 1).under(lease))
						pass(1100 * time.Millisecond)
					}
				}
			}
			if leases[11].waiting.Load() <= 2*turns { // the script waits, for each delivery
				t.Error("nobody waits for the end of the lease while the consumer runs")
			}
			_ = r.end()
			for n, lease := range leases {
				if got := lease.waiting.Load() - 2*turns; got != 0 {
					t.Errorf("%d of a lane wait for the end of lease %d, want none", got, n)
				}
			}
		})
	}
}

func TestOnlyHandlersUnderALostLeaseAreToldOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		contexts := make(chan context.Context, 2)
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			contexts <- ctx
			<-ctx.Done()
			return context.Cause(ctx)
		})
		lost, lose := numberedLease(t, 1)
		kept, end := numberedLease(t, 2)
		defer end(nil)
		b.deliver(delivery("1", 1).under(lost))
		first := <-contexts
		b.deliver(delivery("2", 1).under(kept))
		second := <-contexts
		lose(messaging.ErrLost)
		synctest.Wait()
		if !errors.Is(context.Cause(first), messaging.ErrLost) || second.Err() != nil {
			t.Errorf("the causes are %v and %v, want ErrLost for the lost lease only", context.Cause(first), context.Cause(second))
		}
		end(messaging.ErrLost)
		_ = r.end()
	})
}

func TestAVerdictHasItsTimeHoweverLongTheLaneWasIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(context.Context, *messaging.Delivery) error { return nil })
		for _, idle := range []time.Duration{0, 900 * time.Millisecond, 200 * time.Millisecond, 45 * time.Second, time.Hour} {
			pass(idle)
			d := delivery("1", 1)
			d.settle = func(ctx context.Context) error {
				if end, ok := ctx.Deadline(); !ok || time.Until(end) < 30*time.Second || ctx.Err() != nil {
					t.Errorf("idle for %v: the verdict has %v, and its context %v, want 30s", idle, time.Until(end), ctx.Err())
				}
				return nil
			}
			b.deliver(d)
			if d.verdict(t).Kind != messaging.Ack {
				t.Errorf("idle for %v: settled with %v, want ack", idle, d.verdict(t).Kind)
			}
		}
		_ = r.end()
	})
}

// Backoff is other people's code, and runs between the handler and the verdict.
func TestAVerdictHasItsTimeHoweverLongBackoffTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1, Backoff: func(int) time.Duration {
			pass(time.Minute)
			return 0
		}}, func(_ context.Context, d *messaging.Delivery) error {
			if d.ID == "fails" {
				return errors.New("no")
			}
			return nil
		})
		b.deliver(delivery("is done", 1)) // for which the lane makes what serves for verdicts
		d := delivery("fails", 1)
		d.settle = func(ctx context.Context) error {
			if end, ok := ctx.Deadline(); !ok || time.Until(end) < 30*time.Second || ctx.Err() != nil {
				t.Errorf("the verdict has %v, and its context %v, want 30s", time.Until(end), ctx.Err())
			}
			return nil
		}
		b.deliver(d)
		pass(2 * time.Minute)
		if got := d.verdict(t).Kind; got != messaging.Retry {
			t.Errorf("settled with %v, want retry", got)
		}
		_ = r.end()
	})
}

func TestTheHandlersContextEndsWithTheHandler(t *testing.T) {
	for name, cfg := range map[string]messaging.ConsumerConfig{"without a Timeout": {}, "with one": {Timeout: time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			b := newScript()
			seen := make(chan context.Context, 1)
			r := runOne(t, b, cfg, func(ctx context.Context, _ *messaging.Delivery) error {
				seen <- ctx
				return nil
			})
			b.deliver(delivery("1", 1))
			if kept := <-seen; !errors.Is(kept.Err(), context.Canceled) {
				t.Errorf("%s: Err() = %v once the handler has returned, want context.Canceled", name, kept.Err())
			}
			_ = r.end()
		})
	}
}

// Several are made at one time.
func TestEachHandlerHasAContextOfItsOwn(t *testing.T) {
	for name, cfg := range map[string]messaging.ConsumerConfig{"without a Timeout": {Concurrency: 1}, "with one": {Concurrency: 1, Timeout: time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			b := newScript()
			seen := map[context.Context]bool{}
			r := runOne(t, b, cfg, func(ctx context.Context, d *messaging.Delivery) error {
				if seen[ctx] || ctx.Err() != nil {
					t.Errorf("%s: the handler of %s has a context that another had, or that ended with %v", name, d.ID, ctx.Err())
				}
				for before := range seen {
					if before.Err() == nil {
						t.Errorf("%s: the context of a handler that has returned goes on with that of %s", name, d.ID)
					}
				}
				seen[ctx] = true
				if len(seen)%3 == 0 {
					_ = ctx.Done() // as those do who wait for it
				}
				return nil
			})
			for n := range 40 {
				b.deliver(delivery(strconv.Itoa(n), 1))
				synctest.Wait()
			}
			_ = r.end()
			if len(seen) != 40 {
				t.Errorf("%s: 40 handlers had %d contexts", name, len(seen))
			}
		})
	}
}
