package retry_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/parley-go/parley/retry"
)

var errBoom = errors.New("boom")

// roundTrip is a function as a RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func mustBudget(t testing.TB, c retry.BudgetConfig) *retry.Budget {
	t.Helper()
	b, err := retry.NewBudget(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustThrottle(t testing.TB, c retry.ThrottleConfig) *retry.Budget {
	t.Helper()
	b, err := retry.NewThrottle(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counter counts the attempts of an operation that returns err.
type counter struct {
	n   int
	err error
}

func (c *counter) op(context.Context) error {
	c.n++
	return c.err
}

// wantError checks what kind of *Error err is.
func wantError(t *testing.T, err error, attempts int, is ...error) *retry.Error {
	t.Helper()
	e, ok := errors.AsType[*retry.Error](err)
	if !ok {
		t.Fatalf("error = %v (%T), want a *retry.Error", err, err)
	}
	if e.Attempts != attempts {
		t.Errorf("error %q has Attempts = %d, want %d", err, e.Attempts, attempts)
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			t.Errorf("errors.Is(%q, %q) = false, want true", err, target)
		}
	}
	return e
}

// rejection is the error of a call that never reached its dependency.
type rejection struct{ after time.Duration }

func (rejection) Error() string               { return "breaker: open" }
func (rejection) Rejected() bool              { return true }
func (r rejection) RetryAfter() time.Duration { return r.after }
func elapsed(f func()) time.Duration          { start := time.Now(); f(); return time.Since(start) }
func constant(d time.Duration) retry.Backoff  { return retry.Constant(d) }

// same reports whether two errors are one and the same, where errors.Is would
// accept a wrapped one.
func same(a, b any) bool { return a == b }
