package bulkhead_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

// batch makes n calls at once that each take d and end with err.
func batch(b *bulkhead.Bulkhead, n int, d time.Duration, err error) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_ = b.Do(context.Background(), func(context.Context) error { time.Sleep(d); return err })
		})
	}
	wg.Wait()
}

func TestASlowCallLowersTheLimitByAQuarterDownToMin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 16, Min: 3, SlowCall: time.Second})
		for _, want := range []int{12, 9, 7, 6, 5, 4, 3, 3, 3} {
			batch(b, 1, time.Second, nil)
			wantLimit(t, b, want)
		}
		if got := b.Stats().Lowered; got != 7 {
			t.Errorf("Stats().Lowered = %d, want 7", got)
		}
	})
}

func TestSlowCallsThatRanTogetherLowerTheLimitOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 16, SlowCall: time.Second})
		batch(b, 16, time.Minute, errDown)
		wantLimit(t, b, 12)
		batch(b, 12, time.Minute, errDown)
		wantLimit(t, b, 9)
	})
}

func TestGoodCallsRaiseTheLimitByOneARoundUpToMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 2, Max: 4, SlowCall: time.Second})
		for _, want := range []int{3, 4, 4, 4} {
			// A call that is alone is not enough use; two of four are.
			for b.Stats().Limit < want {
				batch(b, b.Stats().Limit, time.Millisecond, nil)
			}
			wantLimit(t, b, want)
		}
		for range 100 {
			batch(b, 4, time.Millisecond, nil)
		}
		wantLimit(t, b, 4)
	})
}

func TestALimitThatIsNotInUseDoesNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 10, SlowCall: time.Second})
		for range 1000 {
			batch(b, 4, time.Millisecond, nil)
		}
		wantLimit(t, b, 10)
	})
}

func TestQuickCallsLowerTheLimitOnlyIfTheDependencyAsksForThat(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"success raises it":                           {nil, 3},
		"a failure leaves it":                         {errDown, 2},
		"a caller who leaves leaves it":               {context.Cause(gone), 2},
		"a deadline that was short leaves it":         {context.DeadlineExceeded, 2},
		"a call that never got there leaves it":       {shedding{rejected: true}, 2},
		"a rejection by a bulkhead below leaves it":   {&bulkhead.FullError{}, 2},
		"a dependency that wants less traffic lowers": {errors.Join(errDown, shedding{}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, bulkhead.Config{Limit: 2, SlowCall: time.Hour})
			for range 2 {
				batch(b, 1, 0, c.err)
			}
			wantLimit(t, b, c.want)
		})
	}
	t.Run("a panic of a quick call leaves it", func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1, SlowCall: time.Hour})
		_ = panicOf(func() { _ = b.Do(t.Context(), func(context.Context) error { panic("boom") }) })
		wantLimit(t, b, 1)
		wantRunning(t, b, 0)
	})
}

func TestTimeInTheQueueIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1, Max: 1, Queue: 9, Wait: time.Hour, SlowCall: time.Second})
		batch(b, 10, 900*time.Millisecond, nil)
		if got := b.Stats().Lowered; got != 0 {
			t.Errorf("Stats().Lowered = %d after calls that only waited long, want 0", got)
		}
	})
}

func TestARaisedLimitLetsAWaiterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1, Queue: 2, Wait: time.Hour, SlowCall: time.Second})
		p := mustAcquire(t, b)
		for range 2 {
			go func() {
				_ = b.Do(t.Context(), func(context.Context) error { time.Sleep(time.Millisecond); return nil })
			}()
		}
		synctest.Wait()
		p.Done(nil) // frees a slot, and makes another one
		synctest.Wait()
		wantRunning(t, b, 2)
		time.Sleep(time.Minute)
		wantRunning(t, b, 0)
	})
}

func TestALoweredLimitInterruptsNothingAndAdmitsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 4, SlowCall: time.Second})
		var permits []*bulkhead.Permit
		for range 4 {
			permits = append(permits, mustAcquire(t, b))
		}
		time.Sleep(time.Second)
		permits[0].Done(nil)
		wantLimit(t, b, 3)
		wantRunning(t, b, 3)
		if err := b.Do(t.Context(), ok); !errors.Is(err, bulkhead.ErrFull) {
			t.Errorf("Do() at the lowered limit = %v, want ErrFull", err)
		}
		permits[1].Done(nil)
		if err := b.Do(t.Context(), ok); err != nil {
			t.Errorf("Do() below the lowered limit = %v, want nil", err)
		}
	})
}

// A dependency that works on 8 calls at a time and queues the rest: with n calls
// at once, each takes n/8 times what it would alone.
func TestTheLimitFindsWhatTheDependencyCanTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 40 calls at once take 50 ms each. The clients would have 80.
		b := mustNew(t, bulkhead.Config{Limit: 80, SlowCall: 50 * time.Millisecond})
		workers := make(chan struct{}, 8)
		var work atomic.Int64
		op := func(context.Context) error {
			workers <- struct{}{}
			defer func() { <-workers }()
			time.Sleep(time.Duration(work.Load()))
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		work.Store(int64(10 * time.Millisecond))
		for range 80 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if b.Do(ctx, op) != nil {
						time.Sleep(7 * time.Millisecond)
					}
				}
			})
		}
		for _, phase := range []struct {
			name        string
			work        time.Duration
			least, most int
		}{
			{"in the steady state", 10 * time.Millisecond, 20, 48},
			{"of a dependency that is always too slow", 60 * time.Millisecond, 1, 1},
			{"after it recovered", 10 * time.Millisecond, 20, 48},
		} {
			work.Store(int64(phase.work))
			time.Sleep(3 * time.Second)
			for range 20 {
				time.Sleep(37 * time.Millisecond)
				if got := b.Stats().Limit; got < phase.least || got > phase.most {
					t.Errorf("limit %s = %d, want %d to %d", phase.name, got, phase.least, phase.most)
				}
			}
		}
	})
}
