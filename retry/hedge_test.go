package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

// attempts scripts the attempts of a hedged call, first to last.
type attempts struct {
	mu     sync.Mutex
	n      int
	script []func(ctx context.Context) (string, error)
	starts []time.Duration
	begun  time.Time
}

func script(fs ...func(context.Context) (string, error)) *attempts {
	return &attempts{script: fs, begun: time.Now()}
}

func (a *attempts) op(ctx context.Context) (string, error) {
	a.mu.Lock()
	f := a.script[a.n]
	a.n++
	a.starts = append(a.starts, time.Since(a.begun))
	a.mu.Unlock()
	return f(ctx)
}

// answer returns after d, or when its context ends.
func answer(d time.Duration, v string, err error) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		select {
		case <-time.After(d):
			return v, err
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// stubborn returns after d whatever its context does.
func stubborn(d time.Duration, v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { time.Sleep(d); return v, nil }
}

const never = 24 * time.Hour

func TestHedgeTakesTheFirstSuccess(t *testing.T) {
	for name, c := range map[string]struct {
		hedging retry.Hedging
		script  []func(context.Context) (string, error)
		want    string
		took    time.Duration
		starts  string
	}{
		"a quick first attempt stays alone": {
			retry.Hedging{},
			[]func(context.Context) (string, error){answer(10*time.Millisecond, "a", nil)},
			"a", 10 * time.Millisecond, "[0s]",
		},
		"a slow first attempt loses to the second": {
			retry.Hedging{},
			[]func(context.Context) (string, error){answer(never, "a", nil), answer(10*time.Millisecond, "b", nil)},
			"b", 110 * time.Millisecond, "[0s 100ms]",
		},
		"a slow first attempt may still win": {
			retry.Hedging{},
			[]func(context.Context) (string, error){answer(150*time.Millisecond, "a", nil), answer(never, "b", nil)},
			"a", 150 * time.Millisecond, "[0s 100ms]",
		},
		"attempts start one delay apart": {
			retry.Hedging{MaxAttempts: 4, Delay: time.Second},
			[]func(context.Context) (string, error){answer(never, "a", nil), answer(never, "b", nil), answer(never, "c", nil), answer(time.Second, "d", nil)},
			"d", 4 * time.Second, "[0s 1s 2s 3s]",
		},
		"a failure starts the next attempt at once": {
			retry.Hedging{MaxAttempts: 3, Delay: time.Second},
			[]func(context.Context) (string, error){answer(10*time.Millisecond, "", errBoom), answer(never, "b", nil), answer(0, "c", nil)},
			"c", 1010 * time.Millisecond, "[0s 10ms 1.01s]",
		},
		"RetryAfter delays the next attempt": {
			retry.Hedging{MaxAttempts: 3, Delay: time.Second},
			[]func(context.Context) (string, error){answer(0, "", retry.After(errBoom, 5*time.Second)), answer(0, "b", nil)},
			"b", 5 * time.Second, "[0s 5s]",
		},
		"a negative RetryAfter stops new attempts, not those that run": {
			retry.Hedging{MaxAttempts: 3, Delay: time.Second},
			[]func(context.Context) (string, error){answer(never/2, "a", nil), answer(0, "", retry.After(errBoom, -1))},
			"a", never / 2, "[0s 1s]",
		},
		"a rejected attempt does not harm those that run": {
			retry.Hedging{MaxAttempts: 3, Delay: time.Second},
			[]func(context.Context) (string, error){answer(never/2, "a", nil), answer(0, "", rejection{})},
			"a", never / 2, "[0s 1s]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := script(c.script...)
				var got string
				var err error
				took := elapsed(func() { got, err = retry.Hedge(t.Context(), c.hedging, a.op, nil) })
				if got != c.want || err != nil || took != c.took {
					t.Errorf("Hedge() = %q, %v after %v, want %q, nil after %v", got, err, took, c.want, c.took)
				}
				if fmt.Sprint(a.starts) != c.starts {
					t.Errorf("attempts started at %v, want %v", a.starts, c.starts)
				}
			})
		})
	}
}

func TestHedgeFails(t *testing.T) {
	own := retry.Permanent(errBoom)
	for name, c := range map[string]struct {
		hedging  retry.Hedging
		timeout  time.Duration
		script   []func(context.Context) (string, error)
		attempts int // 0: the error itself is wanted
		is       []error
		took     time.Duration
	}{
		"when every attempt has failed": {
			retry.Hedging{Name: "x"},
			never,
			[]func(context.Context) (string, error){answer(time.Second, "", errBoom), answer(time.Second, "", io.EOF)},
			2,
			[]error{retry.ErrExhausted, io.EOF},
			1100 * time.Millisecond,
		},
		"at once with a permanent error": {
			retry.Hedging{},
			never,
			[]func(context.Context) (string, error){answer(never/2, "", nil), answer(0, "", own)},
			0,
			[]error{own},
			100 * time.Millisecond,
		},
		"at once with an error that Retryable refuses": {
			retry.Hedging{Retryable: func(error) bool { return false }},
			never,
			[]func(context.Context) (string, error){answer(time.Millisecond, "", errBoom)},
			0,
			[]error{errBoom},
			time.Millisecond,
		},
		"with the rejection when nothing else runs": {
			retry.Hedging{},
			never,
			[]func(context.Context) (string, error){answer(0, "", rejection{})},
			0,
			[]error{rejection{}},
			0,
		},
		"when every attempt has failed, the last started by the failure alone": {
			retry.Hedging{Delay: time.Minute},
			time.Second,
			[]func(context.Context) (string, error){answer(time.Millisecond, "", errBoom), answer(time.Millisecond, "", errBoom)},
			2,
			[]error{retry.ErrExhausted, errBoom},
			2 * time.Millisecond,
		},
		"when the caller's context ends": {
			retry.Hedging{Delay: time.Second},
			90 * time.Second,
			[]func(context.Context) (string, error){answer(never, "", nil), answer(never, "", nil)},
			2,
			[]error{retry.ErrCanceled, context.DeadlineExceeded},
			90 * time.Second,
		},
		"when the caller's context ends in the wait that was asked for": {
			retry.Hedging{MaxAttempts: 3},
			0, // ended by the test, so that there is no deadline to see coming
			[]func(context.Context) (string, error){answer(0, "", retry.After(errBoom, time.Minute))},
			1,
			[]error{retry.ErrCanceled, errShutdown, errBoom},
			time.Second,
		},
		"without a wait that would outlast the deadline": {
			retry.Hedging{},
			time.Second,
			[]func(context.Context) (string, error){answer(0, "", retry.After(errBoom, time.Minute))},
			1,
			[]error{retry.ErrDeadline, errBoom},
			0,
		},
		"without a wait that is too long": {
			retry.Hedging{},
			never,
			[]func(context.Context) (string, error){answer(0, "", retry.After(errBoom, time.Hour))},
			1,
			[]error{retry.ErrRetryAfter, errBoom},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if c.timeout > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, c.timeout)
					defer stop()
				} else {
					time.AfterFunc(time.Second, func() { cancel(errShutdown) })
				}
				a := script(c.script...)
				var err error
				took := elapsed(func() { _, err = retry.Hedge(ctx, c.hedging, a.op, nil) })
				if c.attempts == 0 {
					if !same(err, c.is[0]) {
						t.Errorf("Hedge() = %v, want the error itself: %v", err, c.is[0])
					}
				} else {
					wantError(t, err, c.attempts, c.is...)
				}
				if took != c.took || a.n != len(c.script) {
					t.Errorf("Hedge() took %v with %d attempts, want %v with %d", took, a.n, c.took, len(c.script))
				}
			})
		})
	}
}

func TestHedgeStartsNothingOnAnEndedContextOrAFaultyHedging(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errShutdown)
	a := script()
	_, err := retry.Hedge(ctx, retry.Hedging{}, a.op, nil)
	wantError(t, err, 0, retry.ErrCanceled, errShutdown)
	_, err = retry.Hedge(t.Context(), retry.Hedging{MaxAttempts: -1, Delay: -1}, a.op, nil)
	e := wantError(t, err, 0, retry.ErrPolicy)
	if want := "retry: faulty policy: MaxAttempts -1 is negative; Delay -1ns is negative"; e.Error() != want {
		t.Errorf("Hedge() = %v, want %v", e, want)
	}
}

func TestNoHedgeStartsWhereTheDeadlineIsNearerThanDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		a := script(answer(never, "", nil))
		_, err := retry.Hedge(ctx, retry.Hedging{}, a.op, nil)
		wantError(t, err, 1, retry.ErrCanceled, context.DeadlineExceeded)
	})
}

func TestLosersEndWithErrLostAndTheirResultsAreDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		a := script(
			func(ctx context.Context) (string, error) {
				<-ctx.Done()
				cause = context.Cause(ctx)
				return "", ctx.Err()
			},
			stubborn(5*time.Second, "late"),
			answer(time.Second, "won", nil),
		)
		var discarded []string
		before := runtime.NumGoroutine()
		got, err := retry.Hedge(t.Context(), retry.Hedging{MaxAttempts: 3}, a.op, func(v string) { discarded = append(discarded, v) })
		if got != "won" || err != nil {
			t.Errorf("Hedge() = %q, %v, want won, nil", got, err)
		}
		if !errors.Is(cause, retry.ErrLost) || fmt.Sprint(discarded) != "[late]" {
			t.Errorf("cause = %v, discarded = %v, want ErrLost, [late]", cause, discarded)
		}
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("goroutines = %d, want %d as before", after, before)
		}
	})
}

func TestHedgeNumbersItsAttemptsAndDoesNotHedgeInsideARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var numbers []int
		var results []retry.Result
		h := retry.Hedging{
			Name: "x", MaxAttempts: 3,
			OnDone: func(_ context.Context, r retry.Result) { results = append(results, r) },
		}
		op := func(ctx context.Context) (string, error) {
			numbers = append(numbers, retry.AttemptNumber(ctx))
			return "", errBoom
		}
		p := retry.Policy{MaxAttempts: 2, Backoff: retry.Constant(0), Retryable: func(error) bool { return true }}
		err := p.Do(t.Context(), func(ctx context.Context) error {
			_, err := retry.Hedge(ctx, h, op, nil)
			return errors.New(err.Error()) // hidden, so that the outer policy goes on
		})
		wantError(t, err, 2, retry.ErrExhausted)
		if fmt.Sprint(numbers) != "[1 2 3 2]" {
			t.Errorf("numbers = %v, want [1 2 3 2]", numbers)
		}
		want := "[{x 3 0s retry: attempts exhausted boom} {x 1 0s retry: left to the policy outside boom}]"
		if got := fmt.Sprint(results); got != want {
			t.Errorf("OnDone saw %v, want %v", got, want)
		}
	})
}

func TestASpentBudgetSuppressesOnlyNewHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{RetryRate: 1e-9, MinPerSecond: 1, Burst: 1})
		a := script(answer(2*time.Hour, "a", nil), answer(time.Hour, "b", nil))
		h := retry.Hedging{MaxAttempts: 5, Budget: b}
		got, err := retry.Hedge(t.Context(), h, a.op, nil)
		if got != "b" || err != nil || a.n != 2 {
			t.Errorf("Hedge() = %q, %v after %d attempts, want b, nil after 2", got, err, a.n)
		}
		spend(t, b)
		a = script(answer(time.Millisecond, "", errBoom))
		_, err = retry.Hedge(t.Context(), h, a.op, nil)
		wantError(t, err, 1, retry.ErrBudget, errBoom)
	})
}

func TestHedgesStayWithinTheBudgetWhenEveryCallBecomesSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var started atomic.Int64
		h := retry.Hedging{Budget: mustBudget(t, retry.BudgetConfig{})}
		ctx := t.Context()
		calls := storm(5*time.Second, func() {
			_, _ = retry.Hedge(ctx, h, func(ctx context.Context) (string, error) {
				started.Add(1)
				return answer(time.Second, "slow", nil)(ctx)
			}, nil)
		})
		hedges, most := float64(started.Load())-float64(calls), 0.2*float64(calls)+10*6+100
		if hedges > most {
			t.Errorf("hedges = %v for %d calls, want at most %v", hedges, calls, most)
		}
	})
}

func TestAPanicOfAnAttemptIsCarriedToTheCaller(t *testing.T) {
	for name, c := range map[string]struct {
		script    []func(context.Context) (string, error)
		discarded string
	}{
		"of the only attempt": {
			[]func(context.Context) (string, error){func(context.Context) (string, error) { panic(errBoom) }}, "[]",
		},
		"of a hedge": {
			[]func(context.Context) (string, error){answer(never, "", nil), func(context.Context) (string, error) { panic(errBoom) }}, "[]",
		},
		"of a loser, with the winner's result discarded": {
			[]func(context.Context) (string, error){
				func(ctx context.Context) (string, error) { <-ctx.Done(); panic(errBoom) }, answer(0, "won", nil),
			}, "[won]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var discarded []string
				var reason retry.Reason
				defer func() {
					p, ok := recover().(*retry.PanicError)
					if !ok || !same(p.Value, errBoom) || !errors.Is(p, errBoom) {
						t.Fatalf("recover() = %v, want a PanicError of boom", p)
					}
					if text := p.Error(); !strings.Contains(text, "boom") || !strings.Contains(text, "hedge_test.go") {
						t.Errorf("the panic says %q, want the value and the stack of the operation", text)
					}
					if fmt.Sprint(discarded) != c.discarded || reason != retry.ErrPanicked {
						t.Errorf("discarded = %v, reason = %q, want %v, ErrPanicked", discarded, string(reason), c.discarded)
					}
				}()
				h := retry.Hedging{OnDone: func(_ context.Context, r retry.Result) { reason = r.Reason }}
				_, _ = retry.Hedge(t.Context(), h, script(c.script...).op, func(v string) { discarded = append(discarded, v) })
				t.Error("Hedge() returned")
			})
		})
	}
	if (&retry.PanicError{Value: "text"}).Unwrap() != nil {
		t.Error("Unwrap() of a text is not nil")
	}
}

func TestGoexitOfAnAttemptEndsTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reason retry.Reason
		done := make(chan struct{})
		go func() {
			defer close(done)
			h := retry.Hedging{OnDone: func(_ context.Context, r retry.Result) { reason = r.Reason }}
			_, _ = retry.Hedge(t.Context(), h, func(context.Context) (string, error) { runtime.Goexit(); return "", nil }, nil)
			t.Error("Hedge() returned")
		}()
		<-done
		if reason != retry.ErrPanicked {
			t.Errorf("OnDone saw %q, want ErrPanicked", reason)
		}
	})
}

// TestNoAttemptOutlivesAPanicOfRetryable relies on the bubble, which fails the
// test when a goroutine is left.
func TestNoAttemptOutlivesAPanicOfRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("recover() = %v, want boom", v)
			}
		}()
		h := retry.Hedging{Retryable: func(error) bool { panic("boom") }}
		_, _ = retry.Hedge(t.Context(), h, script(answer(never, "", nil), answer(0, "", errBoom)).op, nil)
	})
}

// body is a response body that knows its context and whether it was closed.
type body struct {
	io.Reader
	ctx    context.Context
	closed atomic.Int32
}

func (b *body) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	return b.Reader.Read(p)
}

func (b *body) Close() error { b.closed.Add(1); return nil }

func TestTheWinnersContextLivesUntilItsBodyIsClosed(t *testing.T) {
	const size = 512 << 10
	synctest.Test(t, func(t *testing.T) {
		var bodies [2]*body // by attempt
		resp, err := retry.Hedge(t.Context(), retry.Hedging{}, func(ctx context.Context) (*http.Response, error) {
			n := retry.AttemptNumber(ctx)
			bodies[n-1] = &body{Reader: strings.NewReader(strings.Repeat("x", size)), ctx: ctx}
			if n == 1 {
				time.Sleep(time.Second) // a loser that answers all the same
			}
			return &http.Response{Body: bodies[n-1]}, nil
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := bodies[0].closed.Load(); got != 1 {
			t.Errorf("the loser's body was closed %d times, want once", got)
		}
		time.Sleep(time.Hour)
		if got, err := io.ReadAll(io.LimitReader(resp.Body, size)); len(got) != size || err != nil {
			t.Errorf("read %d bytes, %v, want %d, nil", len(got), err, size)
		}
		if err := bodies[1].ctx.Err(); err != nil {
			t.Errorf("the winner's context ended before the body was closed: %v", err)
		}
		resp.Body.Close()
		if bodies[1].ctx.Err() == nil || bodies[1].closed.Load() != 1 {
			t.Error("closing the body did not release the winner's context")
		}
	})
}

func TestTheWinnersContextEndsWithTheCallWhereThereIsNoBody(t *testing.T) {
	ctx, _ := retry.Hedge(t.Context(), retry.Hedging{}, func(ctx context.Context) (context.Context, error) { return ctx, nil }, nil)
	if ctx.Err() == nil {
		t.Error("the winner's context is left, want it ended")
	}
}

func TestAHedgedThrottleLearnsFromOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := mustThrottle(t, retry.ThrottleConfig{})
		_, _ = retry.Hedge(t.Context(), retry.Hedging{Budget: th}, script(answer(0, "", errBoom), answer(0, "b", nil)).op, nil)
		if got := th.Tokens(); got != 9.1 {
			t.Errorf("Tokens() = %v after a failure and a success, want 9.1", got)
		}
	})
}
