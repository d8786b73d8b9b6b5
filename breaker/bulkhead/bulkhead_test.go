package bulkhead_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

func TestNoMoreThanLimitCallsRunAtOnce(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 3})
	for range 3 {
		mustAcquire(t, b)
	}
	called := false
	err := b.Do(t.Context(), func(context.Context) error { called = true; return nil })
	if !errors.Is(err, bulkhead.ErrFull) || called {
		t.Errorf("Do() beyond the limit = %v, called %t, want ErrFull and false", err, called)
	}
	want := bulkhead.Stats{Limit: 3, Running: 3, Admitted: 3, Rejected: 1}
	if got := b.Stats(); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestTheZeroBulkheadIsThatOfAZeroConfig(t *testing.T) {
	var zero bulkhead.Bulkhead
	for name, b := range map[string]*bulkhead.Bulkhead{"zero": &zero, "made": mustNew(t, bulkhead.Config{})} {
		t.Run(name+" has 64 slots and no queue", func(t *testing.T) {
			wantLimit(t, b, 64)
			var permits []*bulkhead.Permit
			for range 64 {
				permits = append(permits, mustAcquire(t, b))
			}
			if err := b.Do(t.Context(), ok); !errors.Is(err, bulkhead.ErrFull) {
				t.Errorf("65th Do() = %v, want ErrFull", err)
			}
			for _, p := range permits {
				p.Done(nil)
			}
			wantRunning(t, b, 0)
		})
	}
}

func TestAnErrorOfTheCallIsReturnedAsItIs(t *testing.T) {
	b := mustNew(t, bulkhead.Config{})
	if err := b.Do(t.Context(), down); err != errDown { //nolint:errorlint // identity is the point
		t.Errorf("Do() = %v, want the very error of the call", err)
	}
	v, err := bulkhead.Value(t.Context(), b, func(context.Context) (int, error) { return 7, errDown })
	if v != 7 || err != errDown { //nolint:errorlint // identity is the point
		t.Errorf("Value() = %d, %v, want 7 and the very error of the call", v, err)
	}
	wantRunning(t, b, 0)
}

func TestANilFunctionTakesNoSlot(t *testing.T) {
	b := mustNew(t, bulkhead.Config{})
	if err := b.Do(t.Context(), nil); err == nil {
		t.Error("Do(nil) = nil, want an error")
	}
	if v, err := bulkhead.Value[int](t.Context(), b, nil); err == nil || v != 0 {
		t.Errorf("Value(nil) = %d, %v, want 0 and an error", v, err)
	}
	if got := b.Stats().Admitted; got != 0 {
		t.Errorf("Stats().Admitted = %d, want 0", got)
	}
}

func TestWaitersAreServedInTheOrderOfTheirArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1, Queue: 5, Wait: time.Minute})
		p := mustAcquire(t, b)
		var order []int
		for i := range 5 {
			go func() {
				_ = b.Do(t.Context(), func(context.Context) error { order = append(order, i); return nil })
			}()
			synctest.Wait()
		}
		if s := b.Stats(); s.Waiting != 5 {
			t.Errorf("Stats().Waiting = %d, want 5", s.Waiting)
		}
		p.Done(nil)
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(order, want) {
			t.Errorf("calls ran in the order %v, want %v", order, want)
		}
		wantRunning(t, b, 0)
	})
}

func TestNoMoreThanQueueCallsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Name: "stock", Limit: 1, Queue: 2})
		p := mustAcquire(t, b)
		for range 2 {
			go func() { _ = b.Do(t.Context(), ok) }()
		}
		synctest.Wait()
		start := time.Now()
		err := b.Do(t.Context(), ok)
		full, is := errors.AsType[*bulkhead.FullError](err)
		if !is || full.Waited != 0 || time.Since(start) != 0 {
			t.Errorf("Do() with a full queue = %v after %v, want a FullError at once", err, time.Since(start))
		}
		p.Done(nil)
		synctest.Wait()
		wantRunning(t, b, 0)
	})
}

func TestACallWaitsNoLongerThanWait(t *testing.T) {
	for name, c := range map[string]struct{ set, want time.Duration }{
		"as configured":      {50 * time.Millisecond, 50 * time.Millisecond},
		"a second otherwise": {0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, bulkhead.Config{Limit: 1, Queue: 1, Wait: c.set})
				p := mustAcquire(t, b)
				start := time.Now()
				err := b.Do(t.Context(), ok)
				full, is := errors.AsType[*bulkhead.FullError](err)
				if took := time.Since(start); !is || full.Waited != c.want || took != c.want {
					t.Errorf("Do() = %v after %v, want a FullError after %v", err, took, c.want)
				}
				p.Done(nil)
				wantRunning(t, b, 0)
				if err := b.Do(t.Context(), ok); err != nil {
					t.Errorf("Do() when a slot is free again = %v, want nil", err)
				}
			})
		})
	}
}

func TestAContextThatHasEndedFailsEvenIfASlotIsFree(t *testing.T) {
	cause := errors.New("caller left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	b := mustNew(t, bulkhead.Config{Name: "stock", Queue: 1})
	err := b.Do(ctx, func(context.Context) error { t.Error("the call was made"); return nil })
	if !errors.Is(err, cause) || errors.Is(err, bulkhead.ErrFull) {
		t.Errorf("Do() = %v, want the context's cause and not ErrFull", err)
	}
	wantRejected(t, err)
	if want := `bulkhead "stock": call not made, its context ended first: caller left`; err.Error() != want {
		t.Errorf("error = %q, want %q", err, want)
	}
	if got, want := b.Stats(), (bulkhead.Stats{Limit: 64, Canceled: 1}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestAContextThatEndsInTheQueueEndsTheWaitAndTakesNoSlot(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(context.Context, error) (context.Context, func())
		want error
	}{
		"by its caller": {func(ctx context.Context, cause error) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { time.Sleep(time.Second); cancel(cause) }
		}, errDown},
		"by its deadline": {func(ctx context.Context, _ error) (context.Context, func()) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, bulkhead.Config{Limit: 1, Queue: 1, Wait: time.Minute})
				p := mustAcquire(t, b)
				ctx, end := c.end(t.Context(), c.want)
				go end()
				start := time.Now()
				err := b.Do(ctx, ok)
				if took := time.Since(start); !errors.Is(err, c.want) || took != time.Second {
					t.Errorf("Do() = %v after %v, want %v after 1s", err, took, c.want)
				}
				wantRejected(t, err) // so that the deadline is no failure to a breaker
				wantRunning(t, b, 1)
				p.Done(nil)
				wantRunning(t, b, 0)
				if got := b.Stats(); got.Canceled != 1 || got.Admitted != 1 {
					t.Errorf("Stats() = %+v, want 1 admitted and 1 canceled", got)
				}
			})
		})
	}
}

// late is a context that has ended as soon as gone is set, without waking anyone:
// what a waiter sees that gets its slot at the very moment its context ends.
type late struct {
	context.Context
	gone atomic.Bool
}

func (l *late) Err() error {
	if l.gone.Load() {
		return context.Canceled
	}
	return nil
}

func TestASlotThatComesTogetherWithTheEndOfTheContextGoesToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1, Queue: 2})
		p := mustAcquire(t, b)
		ctx := &late{Context: t.Context()}
		called, served := false, errDown
		go func() { _ = b.Do(ctx, func(context.Context) error { called = true; return nil }) }()
		synctest.Wait()
		go func() { served = b.Do(t.Context(), ok) }()
		synctest.Wait()
		ctx.gone.Store(true)
		p.Done(nil)
		synctest.Wait()
		if called || served != nil {
			t.Errorf("the first call was made: %t, Do() of the second = %v, want false and nil", called, served)
		}
		want := bulkhead.Stats{Limit: 1, Admitted: 2, Canceled: 1}
		if got := b.Stats(); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	})
}

func TestAPanicFreesTheSlotAndGoesOn(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 1})
	v := panicOf(func() { _ = b.Do(t.Context(), func(context.Context) error { panic("boom") }) })
	if v != "boom" {
		t.Errorf("panic = %v, want boom", v)
	}
	wantRunning(t, b, 0)
	if err := b.Do(t.Context(), ok); err != nil {
		t.Errorf("Do() after a panic = %v, want nil", err)
	}
}

func TestGoexitFreesTheSlotAndGoesOn(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 1})
	var wg sync.WaitGroup
	returned := false
	wg.Go(func() {
		_ = b.Do(t.Context(), func(context.Context) error { runtime.Goexit(); return nil })
		returned = true
	})
	wg.Wait()
	if returned {
		t.Error("Do() returned from a call that ended its goroutine")
	}
	wantRunning(t, b, 0)
	if err := b.Do(t.Context(), ok); err != nil {
		t.Errorf("Do() after Goexit = %v, want nil", err)
	}
}

func TestASlowCallThatIgnoresItsContextHoldsItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var took time.Duration
		go func() {
			start := time.Now()
			_ = b.Do(ctx, func(context.Context) error { time.Sleep(time.Minute); return nil })
			took = time.Since(start)
		}()
		time.Sleep(30 * time.Second)
		wantRunning(t, b, 1)
		if err := b.Do(t.Context(), ok); !errors.Is(err, bulkhead.ErrFull) {
			t.Errorf("Do() beside it = %v, want ErrFull", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if took != time.Minute {
			t.Errorf("Do() returned after %v, want 1m0s, with its call", took)
		}
		wantRunning(t, b, 0)
	})
}

func TestAPermitFreesItsSlotOnce(t *testing.T) {
	for name, again := range map[string]func(p, copied *bulkhead.Permit){
		"done twice":          func(p, _ *bulkhead.Permit) { p.Done(nil); p.Done(nil) },
		"done after its copy": func(p, c *bulkhead.Permit) { c.Done(nil); p.Done(nil) },
		"done before, by two": func(p, c *bulkhead.Permit) { d := copyOf(c); p.Done(nil); c.Done(nil); d.Done(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, bulkhead.Config{Limit: 2})
			other, p := mustAcquire(t, b), mustAcquire(t, b)
			again(p, copyOf(p))
			wantRunning(t, b, 1)
			mustAcquire(t, b)
			if _, err := b.Acquire(t.Context()); !errors.Is(err, bulkhead.ErrFull) {
				t.Errorf("Acquire() beyond the limit = %v, want ErrFull", err)
			}
			other.Done(nil)
			wantRunning(t, b, 1)
		})
	}
	t.Run("a copy does not free the slot of a later call", func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1})
		p := mustAcquire(t, b)
		old := copyOf(p)
		p.Done(nil)
		mustAcquire(t, b) // has the same slot
		old.Done(nil)
		wantRunning(t, b, 1)
	})
	t.Run("the zero permit belongs to no bulkhead", func(*testing.T) {
		var p bulkhead.Permit
		p.Done(nil)
	})
}

func TestABulkheadHasNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	kept := make([]*bulkhead.Bulkhead, 1000)
	for i := range kept {
		kept[i] = mustNew(t, bulkhead.Config{Name: fmt.Sprint(i), Limit: 1, Queue: 1, Wait: time.Hour, SlowCall: time.Hour})
		p := mustAcquire(t, kept[i])
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = kept[i].Do(ctx, ok)
		p.Done(nil)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines after use of 1000 bulkheads, %d before", after, before)
	}
	runtime.KeepAlive(kept)
}
