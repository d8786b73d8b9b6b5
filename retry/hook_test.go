package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

func TestABackoffIsToldItsPreviousDelayNotWhatWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		p := retry.Policy{MaxAttempts: 4, Backoff: retry.BackoffFunc(func(n int, previous time.Duration) time.Duration {
			got = append(got, fmt.Sprint(n, " ", previous))
			return time.Duration(n) * time.Second
		})}
		_ = p.Do(t.Context(), func(context.Context) error { return retry.After(errBoom, 30*time.Second) })
		if want := "[1 0s 2 1s 3 2s]"; fmt.Sprint(got) != want {
			t.Errorf("Delay(n, previous) was called with %v, want %v", got, want)
		}
	})
}

func TestAWaitThatWouldOutlastMaxElapsedIsNotBegun(t *testing.T) {
	const most = 10 * time.Second
	for d, attempts := range map[time.Duration]int{most + 1: 1, most: 1, most - 1: 2} {
		synctest.Test(t, func(t *testing.T) {
			p := retry.Policy{MaxElapsed: most, Backoff: constant(d)}
			var err error
			took := elapsed(func() { err = p.Do(t.Context(), (&counter{err: errBoom}).op) })
			wantError(t, err, attempts, retry.ErrDeadline, errBoom)
			if want := time.Duration(attempts-1) * d; took != want {
				t.Errorf("a wait of %v: Do() took %v, want %v", d, took, want)
			}
		})
	}
}

func TestAWaitThatASlowHookHasDoomedIsNotBegun(t *testing.T) {
	const wait, hook, bound = 80 * time.Millisecond, 60 * time.Millisecond, 100 * time.Millisecond
	slow := retry.Policy{Backoff: constant(wait), OnRetry: func(context.Context, retry.Attempt) { time.Sleep(hook) }}
	bounded := slow
	bounded.MaxElapsed = bound
	for name, c := range map[string]struct {
		policy retry.Policy
		within func(context.Context) (context.Context, context.CancelFunc)
	}{
		"by the deadline": {slow, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, bound)
		}},
		"by MaxElapsed": {bounded, context.WithCancel},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := c.within(t.Context())
				defer cancel()
				var err error
				if took := elapsed(func() { err = c.policy.Do(ctx, (&counter{err: errBoom}).op) }); took != hook || !errors.Is(err, retry.ErrDeadline) {
					t.Errorf("Do() = %v after %v, want ErrDeadline after %v", err, took, hook)
				}
				ctx, cancel = c.within(t.Context())
				defer cancel()
				s := &server{statuses: []int{503}}
				var resp *http.Response
				took := elapsed(func() {
					resp, err = c.policy.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, "").WithContext(ctx))
				})
				if wantReturned(t, s, resp, err, 503); took != hook {
					t.Errorf("RoundTrip() took %v, want %v", took, hook)
				}
			})
		})
	}
}

func TestCallersToldTheSameRetryAfterDoNotComeBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, asked = 1000, 5 * time.Second
		returns := make(chan time.Duration, callers)
		start := time.Now()
		for range callers {
			go func() {
				_ = retry.Policy{MaxAttempts: 2}.Do(t.Context(), func(ctx context.Context) error {
					if retry.AttemptNumber(ctx) == 2 {
						returns <- time.Since(start)
					}
					return retry.After(errBoom, asked)
				})
			}()
		}
		at := map[time.Duration]bool{}
		for range callers {
			took := <-returns
			if took < asked {
				t.Errorf("a caller came back after %v, want no earlier than %v", took, asked)
			}
			at[took] = true
		}
		if len(at) < callers/2 {
			t.Errorf("%d callers came back at %d instants, want them spread", callers, len(at))
		}
	})
}

func TestAPanicInOnDoneClosesTheResponse(t *testing.T) {
	s := &server{statuses: []int{200}}
	p := quick
	p.OnDone = func(context.Context, retry.Result) { panic("boom") }
	defer func() {
		if v := recover(); v != "boom" || s.bodies[0].closes.Load() != 1 {
			t.Errorf("recover() = %v, body closed %d times, want boom, once", v, s.bodies[0].closes.Load())
		}
	}()
	_, _ = p.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
}

func TestAFaultyPartOfAPolicyIsAnErrorAndNoPanic(t *testing.T) {
	negative := retry.Constant(-1)
	for name, p := range map[string]retry.Policy{
		"a Budget of no constructor": {Budget: &retry.Budget{}},
		"a nil BackoffFunc":          {Backoff: retry.BackoffFunc(nil)},
		"a nil *Constant":            {Backoff: (*retry.Constant)(nil)},
		"a negative *Constant":       {Backoff: &negative},
	} {
		t.Run(name, func(t *testing.T) {
			op := counter{err: errBoom}
			if err := p.Do(t.Context(), op.op); !errors.Is(err, retry.ErrPolicy) || op.n != 0 {
				t.Errorf("Do() = %v after %d attempts, want ErrPolicy after none", err, op.n)
			}
			if err := p.Validate(); !errors.Is(err, retry.ErrPolicy) {
				t.Errorf("Validate() = %v, want ErrPolicy", err)
			}
		})
	}
	if got := new(retry.Budget).Tokens(); got != 0 {
		t.Errorf("Tokens() of a Budget of no constructor = %v, want 0", got)
	}
}
