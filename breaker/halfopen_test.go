package breaker_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

func TestNoProbeCanHoldTheBreaker(t *testing.T) {
	for name, probe := range map[string]func(*testing.T, *breaker.Breaker){
		"one that panics": func(t *testing.T, b *breaker.Breaker) {
			if got := panicOf(func() { _ = b.Do(t.Context(), explode("boom")) }); got != "boom" {
				t.Errorf("recover() = %v, want boom", got)
			}
		},
		"one that calls Goexit": func(t *testing.T, b *breaker.Breaker) {
			var wg sync.WaitGroup
			wg.Go(func() { _ = b.Do(t.Context(), func(context.Context) error { runtime.Goexit(); return nil }) })
			wg.Wait()
		},
		"one that fails": func(t *testing.T, b *breaker.Breaker) { fail(t, b, 1) },
	} {
		bubble(t, name+" opens it again and lets the next one in", func(t *testing.T) {
			b := halfOpen(t, quick())
			probe(t, b)
			wantState(t, b, breaker.Open)
			time.Sleep(2 * time.Second)
			succeed(t, b, 1)
			wantState(t, b, breaker.Closed)
		})
	}
	bubble(t, "one that is abandoned counts as failed when its time is over", func(t *testing.T) {
		c := quick()
		c.ProbeTimeout = 10 * time.Second
		b := halfOpen(t, c)
		allow(t, b)
		time.Sleep(10*time.Second - time.Nanosecond)
		if got := wantRejected(t, b); got.State != breaker.HalfOpen || got.RetryAfter() != 1 {
			t.Errorf("rejected with %v and RetryAfter %v, want half-open and 1ns", got.State, got.RetryAfter())
		}
		time.Sleep(1 * time.Nanosecond)
		if got := wantRejected(t, b); got.State != breaker.Open || got.RetryAfter() != 2*time.Second {
			t.Errorf("rejected with %v and RetryAfter %v, want open and 2s", got.State, got.RetryAfter())
		}
		time.Sleep(2 * time.Second)
		succeed(t, b, 1)
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "the open time of an abandoned one counts from when its time was over", func(t *testing.T) {
		c := quick()
		var heard recorder
		c.OnChange = heard.hear
		b := halfOpen(t, c)
		allow(t, b)
		time.Sleep(time.Hour)
		allow(t, b).Done(breaker.Success)
		wantState(t, b, breaker.Closed)
		var why []breaker.Reason
		for _, c := range heard.all() {
			why = append(why, c.Reason)
		}
		want := []breaker.Reason{
			breaker.ConsecutiveReached, breaker.OpenTimeOver, breaker.ProbeTimedOut, breaker.OpenTimeOver, breaker.ProbesSucceeded,
		}
		if !equal(why, want) {
			t.Errorf("reasons = %v, want %v", why, want)
		}
	})
	bubble(t, "and what a late one brings is dropped, whether or not a call came before", func(t *testing.T) {
		c := quick()
		c.ProbeTimeout = time.Second
		b := halfOpen(t, c)
		p := allow(t, b)
		time.Sleep(time.Second)
		p.Done(breaker.Success)
		wantState(t, b, breaker.Open)
		if got := b.Stats().Stale; got != 1 {
			t.Errorf("Stale = %d, want 1", got)
		}
	})
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestAtMostProbesCallsAreAdmittedAtOnceWhileHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick()
		c.Probes = 3
		b := halfOpen(t, c)
		var admitted, rejected atomic.Int32
		answer := make(chan error)
		for range 1000 {
			go func() {
				err := b.Do(t.Context(), func(context.Context) error {
					admitted.Add(1)
					return <-answer
				})
				if errors.Is(err, breaker.ErrOpen) {
					rejected.Add(1)
				}
			}()
		}
		synctest.Wait()
		if admitted.Load() != 3 || rejected.Load() != 997 {
			t.Errorf("admitted %d and rejected %d, want 3 and 997", admitted.Load(), rejected.Load())
		}
		if got := b.Stats(); got.Probes != 3 || got.Rejected != 997 {
			t.Errorf("Stats() = %+v, want 3 probes and 997 rejected", got)
		}
		for range 3 {
			answer <- nil
		}
		synctest.Wait()
		wantState(t, b, breaker.Closed)
	})
}

func TestTheCallThatComesFirstAfterTheOpenTimeIsAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := halfOpen(t, quick())
		p := allow(t, b)
		wantRejected(t, b)
		p.Done(breaker.Failure)
		wantState(t, b, breaker.Open)
	})
}

func TestAnIgnoredProbeFreesItsSlotWithoutAVerdict(t *testing.T) {
	refusal := errors.Join(errors.New("no room"), refusedError{})
	for name, end := range map[string]func(*testing.T, *breaker.Breaker){
		"whose caller left": func(t *testing.T, b *breaker.Breaker) {
			ctx, cancel := context.WithCancel(t.Context())
			_ = b.Do(ctx, func(context.Context) error { cancel(); return ctx.Err() })
		},
		"that was refused further in": func(t *testing.T, b *breaker.Breaker) {
			_ = b.Do(t.Context(), func(context.Context) error { return refusal })
		},
		"by the caller's word": func(t *testing.T, b *breaker.Breaker) { allow(t, b).Done(breaker.Ignored) },
	} {
		bubble(t, name, func(t *testing.T) {
			b := halfOpen(t, quick())
			for range 100 {
				end(t, b)
				wantState(t, b, breaker.HalfOpen)
			}
			if got := b.Stats(); got.Ignored != 100 || got.Rejected != 0 {
				t.Errorf("Stats() = %+v, want 100 ignored and none rejected", got)
			}
			succeed(t, b, 1)
			wantState(t, b, breaker.Closed)
		})
	}
}

// refusedError is what a bulkhead or a limiter returns.
type refusedError struct{}

func (refusedError) Error() string  { return "refused" }
func (refusedError) Rejected() bool { return true }

func TestOneSuccessDoesNotCloseWhileAnotherProbeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick()
		c.Probes = 2
		b := halfOpen(t, c)
		first, second := allow(t, b), allow(t, b)
		first.Done(breaker.Success)
		wantState(t, b, breaker.HalfOpen)
		second.Done(breaker.Failure)
		wantState(t, b, breaker.Open)
	})
}

func TestProbeSuccessesAreNeededApartFromProbes(t *testing.T) {
	bubble(t, "more than run at once", func(t *testing.T) {
		c := quick()
		c.ProbeSuccesses = 5
		b := halfOpen(t, c)
		succeed(t, b, 4)
		wantState(t, b, breaker.HalfOpen)
		succeed(t, b, 1)
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "fewer than run at once", func(t *testing.T) {
		c := quick()
		c.Probes, c.ProbeSuccesses = 5, 2
		b := halfOpen(t, c)
		a, z := allow(t, b), allow(t, b)
		late := allow(t, b)
		a.Done(breaker.Success)
		z.Done(breaker.Success)
		wantState(t, b, breaker.Closed)
		late.Done(breaker.Failure)
		wantState(t, b, breaker.Closed)
	})
}

func TestAFailedProbeOpensAgainWhateverMinCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{MinCalls: 10, OpenFor: time.Second, DisableJitter: true, Probes: 2})
		fail(t, b, 10)
		time.Sleep(time.Second)
		succeed(t, b, 1)
		fail(t, b, 1)
		wantState(t, b, breaker.Open)
		if got := wantRejected(t, b).RetryAfter(); got != 2*time.Second {
			t.Errorf("RetryAfter() = %v, want 2s", got)
		}
	})
}

func TestClassifyAppliesToProbesAsToOtherCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notFound := errors.New("not found")
		c := quick()
		c.Classify = func(ctx context.Context, err error) breaker.Outcome {
			if errors.Is(err, notFound) {
				return breaker.Success
			}
			return breaker.DefaultClassify(ctx, err)
		}
		b := mustNew(t, c)
		missing := func(context.Context) error { return notFound }
		_ = b.Do(t.Context(), missing)
		wantState(t, b, breaker.Closed)
		fail(t, b, 1)
		time.Sleep(time.Second)
		_ = b.Do(t.Context(), missing)
		wantState(t, b, breaker.Closed)
	})
}

func TestReadingTheStateConsumesNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := halfOpen(t, quick())
		for range 10 {
			wantState(t, b, breaker.HalfOpen)
			if got := b.Stats(); got.State != breaker.HalfOpen || got.Probes != 0 || got.RetryAfter != 0 {
				t.Errorf("Stats() = %+v, want half-open with no probe", got)
			}
		}
		succeed(t, b, 1)
	})
}

func TestARejectionSaysWhenToComeBack(t *testing.T) {
	bubble(t, "computed when it is asked", func(t *testing.T) {
		c := quick()
		c.Name = "inventory"
		b := mustNew(t, c)
		fail(t, b, 1)
		err := b.Do(t.Context(), ok)
		open, is := errors.AsType[*breaker.OpenError](err)
		if !is || !errors.Is(err, breaker.ErrOpen) || !open.Rejected() || open.Name != "inventory" || open.State != breaker.Open {
			t.Fatalf("Do() = %#v, want an OpenError of inventory", err)
		}
		for left := time.Second; left > 0; left -= 250 * time.Millisecond {
			if got := open.RetryAfter(); got != left {
				t.Errorf("RetryAfter() = %v, want %v", got, left)
			}
			if got, want := open.Error(), `breaker "inventory": open, call rejected, retry after `+left.String(); got != want {
				t.Errorf("Error() = %q, want %q", got, want)
			}
			time.Sleep(250 * time.Millisecond)
		}
		if got, want := open.Error(), `breaker "inventory": open, call rejected, retry now`; open.RetryAfter() != 0 || got != want {
			t.Errorf("Error() = %q with RetryAfter %v, want %q with 0", got, open.RetryAfter(), want)
		}
	})
	bubble(t, "as when the first of several probes is given up", func(t *testing.T) {
		c := quick()
		c.Probes, c.ProbeTimeout = 2, 10*time.Second
		b := halfOpen(t, c)
		first := allow(t, b)
		time.Sleep(3 * time.Second)
		allow(t, b)
		if got := wantRejected(t, b); got.RetryAfter() != 7*time.Second || got.Error() != "breaker: half-open, call rejected, retry after 7s" {
			t.Errorf("rejected with %v, want retry after 7s", got)
		}
		first.Done(breaker.Success)
		allow(t, b)
		if got := wantRejected(t, b).RetryAfter(); got != 10*time.Second {
			t.Errorf("RetryAfter() = %v, want 10s", got)
		}
	})
	t.Run("unless an operator opened it, where nobody knows", func(t *testing.T) {
		b := mustNew(t, breaker.Config{})
		b.ForceOpen()
		got := wantRejected(t, b)
		if got.RetryAfter() != 0 || got.State != breaker.ForcedOpen || got.Error() != "breaker: forced open, call rejected until Reset" {
			t.Errorf("rejected with %v and RetryAfter %v, want forced open and 0", got, got.RetryAfter())
		}
	})
}
