package retry_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/parley-go/parley/retry"
)

func allocs(t *testing.T, want float64, f func()) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	if got := testing.AllocsPerRun(1000, f); got > want {
		t.Errorf("allocations = %v, want at most %v", got, want)
	}
}

func TestAllocsOfAFirstTryAreNone(t *testing.T) {
	ctx := t.Context()
	budget := mustBudget(t, retry.BudgetConfig{})
	for name, p := range map[string]retry.Policy{
		"of the zero policy":    {},
		"with a backoff":        {Backoff: retry.Exponential{Jitter: retry.EqualJitter}},
		"with a budget":         {Budget: budget},
		"with OnDone":           {OnDone: func(context.Context, retry.Result) {}},
		"with every other knob": {Name: "x", MaxAttempts: 9, MaxElapsed: 1e12, MaxRetryAfter: 1e12, Retryable: func(error) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			allocs(t, 0, func() { _ = p.Do(ctx, func(context.Context) error { return nil }) })
		})
	}
}

func TestAllocsOfValueAreNone(t *testing.T) {
	ctx := t.Context()
	allocs(t, 0, func() {
		_, _ = retry.Value(ctx, retry.Policy{}, func(context.Context) (int, error) { return 1, nil })
	})
}

// A wait of zero uses no timer: one would be three allocations more.
func TestAllocsOfAThirdTryWithoutDelayAreTwo(t *testing.T) {
	ctx, op := t.Context(), failing(2)
	p := retry.Policy{Backoff: retry.Constant(0)}
	allocs(t, 2, func() { _ = p.Do(ctx, op) })
}

func TestAllocsOfATransportWhoseFirstAttemptSucceedsAreNone(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://inventory/stock", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	rt := retry.Policy{}.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil }))
	allocs(t, 0, func() { _, _ = rt.RoundTrip(req) })
}

func TestAllocsOfABudgetAreNone(t *testing.T) {
	ctx, op := t.Context(), failing(1)
	p := retry.Policy{Backoff: retry.Constant(0), Budget: mustBudget(t, retry.BudgetConfig{})}
	allocs(t, 1, func() { _ = p.Do(ctx, op) }) // the second attempt's context
}
