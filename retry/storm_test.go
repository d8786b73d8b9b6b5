package retry_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

// storm calls a dependency 1,000 times a second for so long and returns when all
// calls have ended.
func storm(length time.Duration, call func()) (calls int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for start := time.Now(); time.Since(start) < length; time.Sleep(time.Millisecond) {
		calls++
		wg.Go(call)
	}
	return calls
}

func TestAnOutageIsAmplifiedByRatePlusFloorAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const seconds = 10
		b := mustBudget(t, retry.BudgetConfig{})
		p := retry.Policy{Budget: b}
		ctx := t.Context()
		storm(time.Second, func() { _ = p.Do(ctx, func(context.Context) error { return nil }) })

		var requests atomic.Int64
		calls := storm(seconds*time.Second, func() {
			_ = p.Do(ctx, func(context.Context) error { requests.Add(1); return errBoom })
		})
		// The calls of the last instants wait up to 300 ms more.
		most := 1.2*float64(calls) + 10*(seconds+0.3) + 100
		if got := float64(requests.Load()); got > most {
			t.Errorf("%d calls became %v requests, want at most %v", calls, got, most)
		} else if got < 1.15*float64(calls) {
			t.Errorf("%d calls became %v requests: the budget allows a fifth more", calls, got)
		}

		time.Sleep(time.Minute)
		recovered := 0
		for range 100 {
			op := failing(1)
			if p.Do(ctx, op) == nil {
				recovered++
			}
		}
		if recovered != 100 {
			t.Errorf("%d of 100 calls recovered a minute after the outage, want all", recovered)
		}
	})
}

func TestPoliciesInsideOneAnotherDoNotMultiply(t *testing.T) {
	zero := retry.Constant(0)
	nest := func(p retry.Policy, hide bool, op func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			err := p.Do(ctx, op)
			if err != nil && hide {
				return errors.New("hidden: " + err.Error())
			}
			return err
		}
	}
	for name, c := range map[string]struct {
		policy retry.Policy
		hide   bool // each layer hides the errors of the one below
		want   int
	}{
		"naive layers multiply":                        {retry.Policy{Backoff: zero, AllowNested: true}, true, 27},
		"an exhausted error is not retried":            {retry.Policy{Backoff: zero}, false, 3},
		"nor where nesting is allowed":                 {retry.Policy{Backoff: zero, AllowNested: true}, false, 3},
		"hidden errors are retried, by one layer each": {retry.Policy{Backoff: zero}, true, 7},
	} {
		t.Run(name, func(t *testing.T) {
			op := counter{err: errBoom}
			run := nest(c.policy, c.hide, nest(c.policy, c.hide, nest(c.policy, c.hide, op.op)))
			if err := run(t.Context()); err == nil || op.n != c.want {
				t.Errorf("3 layers of 3 attempts made %d requests (%v), want %d", op.n, err, c.want)
			}
		})
	}
}

func TestThreeTiersWithGuardAndBudgetAmplifyByLessThanAThird(t *testing.T) {
	amplification := func(t *testing.T, pass func(error) error) (factor float64) {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			var requests atomic.Int64
			op := func(context.Context) error { requests.Add(1); return errBoom }
			for range 3 {
				p, below := retry.Policy{Budget: mustBudget(t, retry.BudgetConfig{})}, op
				op = func(ctx context.Context) error { return pass(p.Do(ctx, below)) }
			}
			calls := storm(10*time.Second, func() { _ = op(ctx) })
			factor = float64(requests.Load()) / float64(calls)
		})
		return factor
	}
	if got := amplification(t, func(err error) error { return err }); got > 1.3 {
		t.Errorf("amplification = %.3f, want at most 1.3 (27 without guard and budget)", got)
	}
	// As between processes: no tier knows that the one below has tried. Only the
	// budgets and the guard are left, and each tier's share comes on top.
	hidden := func(err error) error { return errors.New(err.Error()) }
	if got := amplification(t, hidden); got > 1.2*1.2*1.2+0.1 {
		t.Errorf("amplification = %.3f where tiers hide their errors, want at most 1.2 for each tier and the floor", got)
	}
}

func TestANestedFailureIsLeftToTheOuterPolicy(t *testing.T) {
	var reasons []retry.Reason
	inner := retry.Policy{OnDone: func(_ context.Context, r retry.Result) { reasons = append(reasons, r.Reason) }}
	outer := retry.Policy{Backoff: retry.Constant(0)}
	n := 0
	err := outer.Do(t.Context(), func(ctx context.Context) error {
		n++
		if n == 1 {
			return errBoom
		}
		return inner.Do(ctx, func(context.Context) error { return errBoom })
	})
	wantError(t, err, 3, retry.ErrExhausted)
	if len(reasons) != 2 || reasons[0] != retry.ErrNested || reasons[1] != retry.ErrNested {
		t.Errorf("inner reasons = %v, want ErrNested twice", reasons)
	}
}
