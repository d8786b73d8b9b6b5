package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
)

// timeoutError is a cause such as a layer outside gives a context that it ends
// because it waited for too long.
type timeoutError struct{}

func (timeoutError) Error() string { return "attempt timed out" }
func (timeoutError) Timeout() bool { return true }

// notRejectedError has the method and says no.
type notRejectedError struct{}

func (notRejectedError) Error() string  { return "not rejected" }
func (notRejectedError) Rejected() bool { return false }

func TestDefaultClassify(t *testing.T) {
	cause := errors.New("the caller's own reason")
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-1))
	defer cancel()
	status := func(code int) error { return &breaker.StatusError{Response: &http.Response{StatusCode: code}} }
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want breaker.Outcome
	}{
		"no error":                                       {t.Context(), nil, breaker.Success},
		"no error for a caller that left":                {ended(nil), nil, breaker.Success},
		"any error":                                      {t.Context(), errDown, breaker.Failure},
		"any error without a context":                    {nil, errDown, breaker.Failure},
		"a caller that left":                             {ended(nil), context.Canceled, breaker.Ignored},
		"a caller that left, whatever the error":         {ended(nil), errDown, breaker.Ignored},
		"a caller that left with a cause of its own":     {ended(cause), cause, breaker.Ignored},
		"a cancellation inside, while the caller waits":  {t.Context(), context.Canceled, breaker.Failure},
		"a deadline of the context":                      {late, context.DeadlineExceeded, breaker.Failure},
		"a context ended for taking too long":            {ended(timeoutError{}), context.Canceled, breaker.Failure},
		"a context ended with DeadlineExceeded as cause": {ended(context.DeadlineExceeded), context.Canceled, breaker.Failure},
		"a timeout inside, while the caller waits":       {t.Context(), context.DeadlineExceeded, breaker.Failure},
		"a call that was refused further in":             {t.Context(), fmt.Errorf("bulkhead: %w", refusedError{}), breaker.Ignored},
		"a refusal among other errors":                   {t.Context(), errors.Join(errDown, refusedError{}), breaker.Ignored},
		"a refusal behind an error that says no":         {t.Context(), errors.Join(notRejectedError{}, fmt.Errorf("b: %w", refusedError{})), breaker.Ignored},
		"an error that says it was not refused":          {t.Context(), notRejectedError{}, breaker.Failure},
		"a status of the server":                         {t.Context(), fmt.Errorf("get: %w", status(503)), breaker.Failure},
		"a status of the client":                         {t.Context(), status(404), breaker.Success},
		"a status error without a response":              {t.Context(), &breaker.StatusError{}, breaker.Success},
	} {
		t.Run(name, func(t *testing.T) {
			if got := breaker.DefaultClassify(c.ctx, c.err); got != c.want {
				t.Errorf("DefaultClassify() = %v, want %v", got, c.want)
			}
		})
	}
}

func TestIgnoreDeadlinesDiffersInDeadlinesOnly(t *testing.T) {
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-1))
	defer cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want breaker.Outcome
	}{
		{late, context.DeadlineExceeded, breaker.Ignored},
		{late, nil, breaker.Success},
		{t.Context(), context.DeadlineExceeded, breaker.Failure},
		{t.Context(), errDown, breaker.Failure},
		{t.Context(), refusedError{}, breaker.Ignored},
		{nil, errDown, breaker.Failure},
	} {
		if got := breaker.IgnoreDeadlines(c.ctx, c.err); got != c.want {
			t.Errorf("IgnoreDeadlines(%v, %v) = %v, want %v", c.ctx, c.err, got, c.want)
		}
	}
}

func TestClassifyStatus(t *testing.T) {
	failures := map[int]bool{429: true, 500: true, 502: true, 503: true, 504: true}
	for code := 100; code < 600; code++ {
		if got := breaker.ClassifyStatus(code) == breaker.Failure; got != failures[code] {
			t.Errorf("ClassifyStatus(%d) is a failure: %v, want %v", code, got, failures[code])
		}
	}
}

func TestACallerThatGoesAwayCountsNeitherWay(t *testing.T) {
	b := mustNew(t, breaker.Config{MinCalls: 1})
	for range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		_ = b.Do(ctx, func(ctx context.Context) error { cancel(); return ctx.Err() })
	}
	wantState(t, b, breaker.Closed)
	if got := b.Stats(); got.Ignored != 1000 || got.Failures != 0 || got.Counts != (breaker.Counts{}) {
		t.Errorf("Stats() = %+v, want 1000 ignored and nothing else", got)
	}
}

func TestAContextThatHasEndedMakesNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := halfOpen(t, quick())
		cause := errors.New("the caller's own reason")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		called := func(context.Context) (int, error) { t.Errorf("the function was called"); return 1, nil }
		if err := b.Do(ctx, func(ctx context.Context) error { _, err := called(ctx); return err }); !errors.Is(err, cause) {
			t.Errorf("Do() = %v, want %v", err, cause)
		}
		if v, err := breaker.Value(ctx, b, called); v != 0 || !errors.Is(err, cause) {
			t.Errorf("Value() = %v, %v, want 0, %v", v, err, cause)
		}
		instead := func(context.Context, error) (int, error) { return 2, nil }
		if v, err := breaker.Fallback(ctx, b, called, instead); v != 0 || !errors.Is(err, cause) {
			t.Errorf("Fallback() = %v, %v, want 0, %v", v, err, cause)
		}
		wantState(t, b, breaker.HalfOpen)
		if got := b.Stats(); got.Probes != 0 || got.Ignored != 0 {
			t.Errorf("Stats() = %+v, want no probe burnt", got)
		}
	})
}

func TestADeadlineOfTheCallerThatPassesDuringTheCallOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{MinCalls: 5, Window: time.Minute})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_ = b.Do(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			cancel()
		}
		wantState(t, b, breaker.Open)
	})
}

func TestValueReturnsWhatTheFunctionReturns(t *testing.T) {
	b := mustNew(t, breaker.Config{Consecutive: 1})
	v, err := breaker.Value(t.Context(), b, func(context.Context) (string, error) { return "partial", errDown })
	if v != "partial" || !errors.Is(err, errDown) {
		t.Errorf("Value() = %q, %v, want the value with the error", v, err)
	}
	v, err = breaker.Value(t.Context(), b, func(context.Context) (string, error) { return "called", nil })
	if v != "" || !errors.Is(err, breaker.ErrOpen) {
		t.Errorf("Value() = %q, %v, want nothing and ErrOpen", v, err)
	}
}

func TestOnlyRejectedCallsAreRedirectedToTheFallback(t *testing.T) {
	b := mustNew(t, breaker.Config{Consecutive: 2})
	inner := mustNew(t, breaker.Config{})
	inner.ForceOpen()
	redirected := 0
	instead := func(_ context.Context, err error) (string, error) {
		redirected++
		if open, is := errors.AsType[*breaker.OpenError](err); !is || open.State != breaker.Open {
			t.Errorf("the fallback got %v, want the OpenError of the open breaker", err)
		}
		return "instead", errors.New("stale")
	}
	try := func(err error) (string, error) {
		return breaker.Fallback(t.Context(), b, func(context.Context) (string, error) { return "own", err }, instead)
	}
	for name, own := range map[string]error{"none": nil, "any": errDown, "that of a breaker further in": inner.Do(t.Context(), ok)} {
		if v, err := try(own); v != "own" || !errors.Is(err, own) || redirected != 0 {
			t.Errorf("Fallback() with the error %s = %q, %v, want the function's own results", name, v, err)
		}
	}
	b.Reset()
	fail(t, b, 2)
	if v, err := try(nil); v != "instead" || err == nil || err.Error() != "stale" || redirected != 1 {
		t.Errorf("Fallback() = %q, %v, want what the fallback returned", v, err)
	}
}

func TestARejectionIsNotRetriedUnlessAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, quick())
		fail(t, b, 1)
		attempts := 0
		call := func(ctx context.Context) error { attempts++; return b.Do(ctx, ok) }
		if err := (retry.Policy{}).Do(t.Context(), call); !errors.Is(err, breaker.ErrOpen) || attempts != 1 {
			t.Errorf("Do() = %v after %d attempts, want ErrOpen after 1", err, attempts)
		}
		start := time.Now()
		err := retry.Policy{RetryRejected: true}.Do(t.Context(), call)
		if took := time.Since(start); err != nil || attempts != 3 || took < time.Second {
			t.Errorf("Do() = %v after %d attempts and %v, want nil after the open time of 1s", err, attempts-1, took)
		}
	})
}

func TestAnAttemptThatTimesOutIsAFailure(t *testing.T) {
	policy := retry.Policy{MaxAttempts: 3, AttemptTimeout: time.Second, Backoff: retry.Constant(0)}
	hang := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	bubble(t, "of a function", func(t *testing.T) {
		b := mustNew(t, breaker.Config{Consecutive: 3})
		_ = policy.Do(t.Context(), func(ctx context.Context) error { return b.Do(ctx, hang) })
		wantState(t, b, breaker.Open)
	})
	bubble(t, "of a request", func(t *testing.T) {
		b := mustNew(t, breaker.Config{Consecutive: 3})
		silent := roundTrip(func(req *http.Request) (*http.Response, error) { return nil, hang(req.Context()) })
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://inventory/stock", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = policy.Transport(b.Transport(silent)).RoundTrip(req)
		wantState(t, b, breaker.Open)
	})
	bubble(t, "but one that lost against another is not", func(t *testing.T) {
		b := mustNew(t, breaker.Config{Consecutive: 1})
		var attempts atomic.Int32
		_, err := retry.Hedge(t.Context(), retry.Hedging{MaxAttempts: 2, Delay: time.Second}, func(ctx context.Context) (int, error) {
			first := attempts.Add(1) == 1
			return breaker.Value(ctx, b, func(ctx context.Context) (int, error) {
				if first {
					return 0, hang(ctx)
				}
				return 1, nil
			})
		}, nil)
		if err != nil {
			t.Errorf("Hedge() = %v, want nil", err)
		}
		synctest.Wait()
		wantState(t, b, breaker.Closed)
	})
}
