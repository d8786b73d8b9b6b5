package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

var errShutdown = errors.New("shutdown")

// TestWhenTheContextEndsNoFurtherAttemptStarts ends the context at every point
// of the loop at which something can happen.
func TestWhenTheContextEndsNoFurtherAttemptStarts(t *testing.T) {
	type env struct {
		policy retry.Policy
		op     func(n int)
		cancel func()
	}
	for name, c := range map[string]struct {
		arrange  func(e *env)
		attempts int
		took     time.Duration
	}{
		"before the first attempt": {func(e *env) { e.cancel() }, 0, 0},
		"during the first attempt": {func(e *env) {
			e.op = func(int) { e.cancel() }
		}, 1, 0},
		"in Retryable": {func(e *env) {
			e.policy.Retryable = func(error) bool { e.cancel(); return true }
		}, 1, 0},
		"in the backoff": {func(e *env) {
			e.policy.Backoff = retry.BackoffFunc(func(int, time.Duration) time.Duration { e.cancel(); return time.Second })
		}, 1, 0},
		"in the backoff, without a wait": {func(e *env) {
			e.policy.Backoff = retry.BackoffFunc(func(int, time.Duration) time.Duration { e.cancel(); return 0 })
		}, 1, 0},
		"in OnRetry": {func(e *env) {
			e.policy.OnRetry = func(context.Context, retry.Attempt) { e.cancel() }
		}, 1, 0},
		"in OnRetry, without a wait": {func(e *env) {
			e.policy.Backoff = retry.Constant(0)
			e.policy.OnRetry = func(context.Context, retry.Attempt) { e.cancel() }
		}, 1, 0},
		"during the first wait": {func(e *env) {
			time.AfterFunc(time.Second/2, e.cancel)
		}, 1, time.Second / 2},
		"during the second attempt": {func(e *env) {
			e.op = func(n int) {
				if n == 2 {
					e.cancel()
				}
			}
		}, 2, time.Second},
		"during the second wait": {func(e *env) {
			time.AfterFunc(3*time.Second/2, e.cancel)
		}, 2, 3 * time.Second / 2},
		"during the last attempt": {func(e *env) {
			e.op = func(n int) {
				if n == 3 {
					e.cancel()
				}
			}
		}, 3, 2 * time.Second},
	} {
		for mode, adjust := range map[string]func(p *retry.Policy){
			"":                     func(*retry.Policy) {},
			" of a watched policy": func(p *retry.Policy) { p.OnDone = func(context.Context, retry.Result) {} },
			" with a timeout":      func(p *retry.Policy) { p.AttemptTimeout = time.Hour },
		} {
			t.Run(name+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					e := &env{policy: retry.Policy{Backoff: constant(time.Second)}, op: func(int) {}}
					e.cancel = func() { cancel(errShutdown) }
					adjust(&e.policy)
					c.arrange(e)
					n := 0
					var err error
					took := elapsed(func() {
						err = e.policy.Do(ctx, func(context.Context) error {
							n++
							e.op(n)
							return errBoom
						})
					})
					wantError(t, err, c.attempts, retry.ErrCanceled, errShutdown)
					if c.attempts > 0 && !errors.Is(err, errBoom) {
						t.Errorf("Do() = %v, which lost the operation's own error", err)
					}
					if n != c.attempts || took != c.took {
						t.Errorf("%d attempts in %v, want %d in %v", n, took, c.attempts, c.took)
					}
				})
			})
		}
	}
}

// endingContext has ended from a point in time on, but its channel tells nobody:
// it is what a context looks like to a wait whose timer fires at the very same
// instant, and wins the select.
type endingContext struct {
	context.Context
	at time.Time
}

func (c endingContext) Err() error {
	if time.Now().Before(c.at) {
		return nil
	}
	return context.Canceled
}

func TestNoAttemptStartsWhenContextAndWaitEndAtTheSameInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := endingContext{context.Background(), time.Now().Add(time.Second)}
		op := counter{err: errBoom}
		err := retry.Policy{Backoff: constant(time.Second)}.Do(ctx, op.op)
		wantError(t, err, 1, retry.ErrCanceled, context.Canceled, errBoom)
		if op.n != 1 {
			t.Errorf("attempts = %d, want 1", op.n)
		}
	})
}

func TestASuccessStandsAlthoughTheContextEndedMeanwhile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := (retry.Policy{}).Do(ctx, func(context.Context) error { cancel(); return nil }); err != nil {
		t.Errorf("Do() = %v, want nil", err)
	}
}

// A goroutine that is left when the bubble ends fails the test.
func TestACallThatWaitsEndsWithItsContextAndLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		p := retry.Policy{Backoff: constant(time.Hour), AttemptTimeout: 2 * time.Hour}
		start := time.Now()
		wantError(t, p.Do(ctx, (&counter{err: errBoom}).op), 1, retry.ErrCanceled)
		synctest.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("the call ended after %v, want 1s", took)
		}
	})
}
