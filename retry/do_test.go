package retry_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/internal/attempt"
	"github.com/parley-go/parley/retry"
)

func TestZeroPolicyMakesUpToThreeAttemptsWithFullJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := counter{err: errBoom}
		var err error
		took := elapsed(func() { err = retry.Policy{}.Do(t.Context(), c.op) })
		e := wantError(t, err, 3, retry.ErrExhausted, errBoom)
		if c.n != 3 {
			t.Errorf("attempts = %d, want 3", c.n)
		}
		if took < 0 || took >= 300*time.Millisecond {
			t.Errorf("Do() took %v, want less than 100 ms + 200 ms", took)
		}
		if e.Waited != took {
			t.Errorf("Waited = %v, want %v", e.Waited, took)
		}
	})
}

func TestDoStopsAtTheFirstSuccess(t *testing.T) {
	for fails := range 3 {
		t.Run(fmt.Sprintf("after %d failures", fails), func(t *testing.T) {
			n, op := 0, failing(fails)
			err := retry.Policy{Backoff: retry.Constant(0)}.Do(t.Context(), func(ctx context.Context) error {
				n++
				return op(ctx)
			})
			if err != nil || n != fails+1 {
				t.Errorf("Do() = %v after %d attempts, want nil after %d", err, n, fails+1)
			}
		})
	}
}

func TestMaxAttemptsCountsTheFirstAttempt(t *testing.T) {
	for _, most := range []int{1, 2, 7} {
		c := counter{err: errBoom}
		err := retry.Policy{MaxAttempts: most, Backoff: retry.Constant(0)}.Do(t.Context(), c.op)
		wantError(t, err, most, retry.ErrExhausted, errBoom)
		if c.n != most {
			t.Errorf("MaxAttempts %d: attempts = %d", most, c.n)
		}
	}
}

func TestNoWaitFollowsTheLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := counter{err: errBoom}
		took := elapsed(func() {
			wantError(t, retry.Policy{Backoff: constant(time.Hour)}.Do(t.Context(), c.op), 3, retry.ErrExhausted)
		})
		if took != 2*time.Hour {
			t.Errorf("Do() took %v, want the 2 waits between 3 attempts", took)
		}
	})
}

func TestForeverRetriesUntilSomethingElseEndsTheCall(t *testing.T) {
	t.Run("a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c := counter{err: errBoom}
			err := retry.Policy{Forever: true, Backoff: constant(time.Second)}.Do(ctx, c.op)
			wantError(t, err, 60, retry.ErrDeadline, errBoom)
		})
	})
	t.Run("MaxElapsed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := counter{err: errBoom}
			p := retry.Policy{Forever: true, Backoff: constant(time.Second), MaxElapsed: time.Minute}
			wantError(t, p.Do(t.Context(), c.op), 60, retry.ErrDeadline, errBoom)
		})
	})
	t.Run("a budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := counter{err: errBoom}
			p := retry.Policy{Forever: true, Backoff: constant(0), Budget: mustBudget(t, retry.BudgetConfig{Burst: 50})}
			wantError(t, p.Do(t.Context(), c.op), 51, retry.ErrBudget, errBoom)
		})
	})
}

func TestAWaitThatWouldOutlastTheDeadlineIsNotBegun(t *testing.T) {
	const d = 80 * time.Millisecond
	for name, c := range map[string]struct {
		delay time.Duration
		stop  bool
	}{
		"longer than what is left":     {10 * time.Second, true},
		"as long as what is left":      {d, true},
		"a little less than is left":   {d - 1, false},
		"as long as a Duration can be": {1<<63 - 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				op, want := counter{err: errBoom}, 2
				if c.stop {
					want = 1
				}
				var err error
				took := elapsed(func() {
					err = retry.Policy{MaxAttempts: 2, Backoff: constant(c.delay)}.Do(ctx, op.op)
				})
				if e := wantError(t, err, want, errBoom); c.stop && (e.Reason != retry.ErrDeadline || took != 0) {
					t.Errorf("Do() = %v after %v, want ErrDeadline at once", err, took)
				}
			})
		})
	}
}

func TestMaxElapsedBoundsTheStartOfAttempts(t *testing.T) {
	for name, c := range map[string]struct {
		attempt time.Duration // each takes so long
		err     error
		want    int
	}{
		"a long first attempt that succeeds is a success": {time.Hour, nil, 1},
		"a long first attempt that fails is the last":     {time.Hour, errBoom, 1},
		"short attempts go on while there is time":        {10 * time.Second, errBoom, 4}, // at 0, 15, 30, 45 s
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				p := retry.Policy{MaxAttempts: 100, MaxElapsed: time.Minute, Backoff: constant(5 * time.Second)}
				err := p.Do(t.Context(), func(context.Context) error {
					n++
					time.Sleep(c.attempt)
					return c.err
				})
				if n != c.want || !errors.Is(err, c.err) {
					t.Errorf("Do() = %v after %d attempts, want %v after %d", err, n, c.err, c.want)
				}
				if c.err != nil {
					wantError(t, err, c.want, retry.ErrDeadline)
				}
			})
		})
	}
}

func TestAttemptTimeoutEndsEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var causes []error
		p := retry.Policy{AttemptTimeout: time.Second, Backoff: constant(0)}
		var err error
		took := elapsed(func() {
			err = p.Do(t.Context(), func(ctx context.Context) error {
				<-ctx.Done()
				causes = append(causes, context.Cause(ctx))
				return ctx.Err()
			})
		})
		e := wantError(t, err, 3, retry.ErrExhausted, retry.ErrAttemptTimeout, context.DeadlineExceeded)
		if took != 3*time.Second || !e.Timeout() {
			t.Errorf("Do() took %v, Timeout() = %v, want 3s, true", took, e.Timeout())
		}
		for _, cause := range causes {
			if !errors.Is(cause, retry.ErrAttemptTimeout) {
				t.Errorf("cause = %v, want ErrAttemptTimeout", cause)
			}
		}
	})
}

func TestAttemptTimeoutNeverOutlastsTheCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		took := elapsed(func() {
			err = retry.Policy{AttemptTimeout: time.Hour}.Do(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		})
		wantError(t, err, 1, retry.ErrCanceled, context.DeadlineExceeded)
		if took != time.Second || errors.Is(err, retry.ErrAttemptTimeout) {
			t.Errorf("Do() = %v after %v, want the caller's deadline after 1s", err, took)
		}
	})
}

func TestAttemptTimeoutLeavesNoContextBehind(t *testing.T) {
	own, err := retry.Value(t.Context(), retry.Policy{AttemptTimeout: time.Hour}, func(ctx context.Context) (context.Context, error) {
		return ctx, nil
	})
	if err != nil || !errors.Is(own.Err(), context.Canceled) {
		t.Errorf("the attempt's context says %v after the attempt, want that it has ended", own.Err())
	}
}

func TestTheFirstAttemptRunsOnTheCallersContextLaterOnesCarryTheirNumber(t *testing.T) {
	ctx := t.Context()
	var numbers []int
	_ = retry.Policy{Backoff: retry.Constant(0)}.Do(ctx, func(own context.Context) error {
		numbers = append(numbers, retry.AttemptNumber(own))
		if len(numbers) == 1 && own != ctx {
			t.Error("the first attempt got another context than the caller's")
		}
		if got := attempt.From(own); got != len(numbers) {
			t.Errorf("attempt %d carries number %d", len(numbers), got)
		}
		return errBoom
	})
	if fmt.Sprint(numbers) != "[1 2 3]" {
		t.Errorf("numbers = %v, want [1 2 3]", numbers)
	}
}

func TestHooksSeeNumberDelayAndError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []retry.Attempt
		var results []retry.Result
		p := retry.Policy{
			Name: "inventory", Backoff: constant(time.Second),
			OnRetry: func(_ context.Context, a retry.Attempt) { seen = append(seen, a) },
			OnDone:  func(_ context.Context, r retry.Result) { results = append(results, r) },
		}
		_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(time.Second); return errBoom })
		_ = p.Do(t.Context(), func(context.Context) error { return nil })
		_ = p.Do(t.Context(), func(context.Context) error { return retry.Permanent(errBoom) })
		want := "[{inventory 1 1s boom} {inventory 2 1s boom}]"
		if got := fmt.Sprint(seen); got != want {
			t.Errorf("OnRetry saw %v, want %v", got, want)
		}
		want = "[{inventory 3 5s retry: attempts exhausted boom} {inventory 1 0s retry:  <nil>} {inventory 1 0s retry: not retryable boom}]"
		if got := fmt.Sprint(results); got != want {
			t.Errorf("OnDone saw %v, want %v", got, want)
		}
	})
}

func TestPanicsGoOnAndAreReported(t *testing.T) {
	boom := func() { panic("boom") }
	for name, run := range map[string]func(p retry.Policy){
		"in the operation": func(p retry.Policy) {
			_ = p.Do(context.Background(), func(context.Context) error { boom(); return nil })
		},
		"in the operation's second attempt, with a timeout": func(p retry.Policy) {
			n := 0
			p.AttemptTimeout = time.Hour
			_ = p.Do(context.Background(), func(context.Context) error {
				if n++; n == 2 {
					boom()
				}
				return errBoom
			})
		},
		"in Retryable": func(p retry.Policy) {
			p.Retryable = func(error) bool { boom(); return true }
			_ = p.Do(context.Background(), func(context.Context) error { return errBoom })
		},
		"in the backoff": func(p retry.Policy) {
			p.Backoff = retry.BackoffFunc(func(int, time.Duration) time.Duration { boom(); return 0 })
			_ = p.Do(context.Background(), func(context.Context) error { return errBoom })
		},
		"in OnRetry": func(p retry.Policy) {
			p.OnRetry = func(context.Context, retry.Attempt) { boom() }
			_ = p.Do(context.Background(), func(context.Context) error { return errBoom })
		},
		"in an operation that nothing watches": func(retry.Policy) {
			_ = retry.Policy{}.Do(context.Background(), func(context.Context) error { boom(); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []retry.Reason
				p := retry.Policy{
					Backoff: retry.Constant(time.Second),
					OnDone:  func(_ context.Context, r retry.Result) { got = append(got, r.Reason) },
				}
				defer func() {
					if v := recover(); v != "boom" {
						t.Errorf("recover() = %v, want the operation's own value", v)
					}
					if !strings.HasSuffix(name, "nothing watches") && fmt.Sprint(got) != "["+retry.ErrPanicked.Error()+"]" {
						t.Errorf("OnDone saw %v, want one ErrPanicked", got)
					}
				}()
				run(p)
			})
		})
	}
}

func TestGoexitIsReported(t *testing.T) {
	var got retry.Reason
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := retry.Policy{OnDone: func(_ context.Context, r retry.Result) { got = r.Reason }}
		_ = p.Do(context.Background(), func(context.Context) error { runtime.Goexit(); return nil })
		t.Error("Do() returned")
	}()
	<-done
	if got != retry.ErrPanicked {
		t.Errorf("OnDone saw %q, want ErrPanicked", got)
	}
}

func TestValueReturnsTheLastValueWithTheError(t *testing.T) {
	n := 0
	op := func(context.Context) (int, error) {
		if n++; n == 5 {
			return n, nil
		}
		return n, errBoom
	}
	p := retry.Policy{Backoff: retry.Constant(0)}
	v, err := retry.Value(t.Context(), p, op)
	if wantError(t, err, 3, retry.ErrExhausted, errBoom); v != 3 {
		t.Errorf("Value() = %d, want 3, that of the last attempt", v)
	}
	if v, err := retry.Value(t.Context(), p, op); v != 5 || err != nil {
		t.Errorf("Value() = %d, %v, want 5, nil", v, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if v, err := retry.Value(ended, p, op); v != 0 || err == nil {
		t.Errorf("Value() = %d, %v, want the zero value and an error where no attempt was made", v, err)
	}
}

func TestOnePolicyServesAHundredGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := retry.Policy{MaxAttempts: 5, Backoff: retry.Exponential{Jitter: retry.DecorrelatedJitter}}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				n := 0
				var previous []time.Duration
				own := p
				own.OnRetry = func(_ context.Context, a retry.Attempt) { previous = append(previous, a.Delay) }
				err := own.Do(t.Context(), func(context.Context) error {
					if n++; n < 5 {
						return errBoom
					}
					return nil
				})
				if err != nil || n != 5 {
					t.Errorf("Do() = %v after %d attempts, want nil after 5", err, n)
				}
				// The sequence is the call's own: it starts at Base and grows at most threefold.
				last := 100 * time.Millisecond / 3
				for i, d := range previous {
					if d < 100*time.Millisecond || d > max(3*last, 100*time.Millisecond) {
						t.Errorf("delay %d = %v after %v, want 100 ms to three times that", i, d, last)
					}
					last = d
				}
			})
		}
		wg.Wait()
	})
}

func TestMemoryStaysFlatOverAHundredThousandAttempts(t *testing.T) {
	var early, late runtime.MemStats
	n := 0
	p := retry.Policy{MaxAttempts: 100_000, Backoff: retry.Constant(0)}
	err := p.Do(t.Context(), func(context.Context) error {
		n++
		switch n {
		case 1000:
			runtime.GC()
			runtime.ReadMemStats(&early)
		case 100_000:
			runtime.GC()
			runtime.ReadMemStats(&late)
		}
		return fmt.Errorf("attempt %d: %w", n, errBoom)
	})
	e := wantError(t, err, 100_000, retry.ErrExhausted, errBoom)
	if grown := int64(late.HeapAlloc) - int64(early.HeapAlloc); grown > 1<<20 {
		t.Errorf("live memory grew by %d bytes between attempts 1,000 and 100,000", grown)
	}
	if len(e.Recent) != 8 || e.Recent[0].Error() != "attempt 99993: boom" || !same(e.Recent[7], e.Last) {
		t.Errorf("Recent = %v, want the last 8 errors, oldest first", e.Recent)
	}
	if e.First.Error() != "attempt 1: boom" {
		t.Errorf("First = %v, want that of attempt 1", e.First)
	}
}
