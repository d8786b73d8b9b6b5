package retry_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

// spend makes one call whose first attempt fails, and reports whether the budget
// allowed the retry.
func spend(t testing.TB, b *retry.Budget) bool {
	n := 0
	p := retry.Policy{MaxAttempts: 2, Backoff: retry.Constant(0), Budget: b}
	_ = p.Do(t.Context(), func(context.Context) error { n++; return errBoom })
	return n == 2
}

func earn(t testing.TB, b *retry.Budget, calls int) {
	for range calls {
		_ = retry.Policy{Budget: b}.Do(t.Context(), func(context.Context) error { return nil })
	}
}

func TestABudgetStartsFullAndIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{RetryRate: 1e-9, Burst: 7})
		for i := range 7 {
			if !spend(t, b) {
				t.Fatalf("retry %d was refused, want 7 from the start", i+1)
			}
		}
		if spend(t, b) {
			t.Error("an eighth retry was allowed, want the burst of 7")
		}
		if got := b.Tokens(); got != 0 {
			t.Errorf("Tokens() = %v, want 0", got)
		}
	})
}

func TestCallsEarnTheirShareOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{RetryRate: 0.25, Burst: 5})
		for b.Tokens() > 0 {
			spend(t, b)
		}
		retries := 0
		for range 10_000 {
			earn(t, b, 3)
			if spend(t, b) { // the fourth call
				retries++
			}
		}
		if want := 40_000 / 4; retries < want-5 || retries > want {
			t.Errorf("retries = %d of 40,000 calls, want a quarter", retries)
		}
	})
}

func TestTheFloorWorksAtOneCallASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{})
		for range 1000 {
			op := counter{err: errBoom}
			_ = retry.Policy{Budget: b, Backoff: retry.Constant(0)}.Do(t.Context(), op.op)
			if op.n != 3 {
				t.Fatalf("attempts = %d, want 3: ten retries a second are free", op.n)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestRetriesMakeNoDeposit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{RetryRate: 1, Burst: 10})
		op := counter{err: errBoom}
		p := retry.Policy{MaxAttempts: 1000, Backoff: retry.Constant(0), Budget: b}
		wantError(t, p.Do(t.Context(), op.op), 11, retry.ErrBudget, errBoom)
	})
}

func TestARetryThatIsNotMadeCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		full := b.Tokens()
		p := retry.Policy{Budget: b, Backoff: constant(time.Minute)}
		wantError(t, p.Do(ctx, (&counter{err: errBoom}).op), 1, retry.ErrDeadline)
		if got := b.Tokens(); got != full {
			t.Errorf("Tokens() = %v after a retry that was not made, want %v", got, full)
		}
	})
}

// TestBudgetAgreesWithANaiveTokenBucket plays random calls, failures and pauses
// against a bucket that is counted in floating point and refilled step by step.
func TestBudgetAgreesWithANaiveTokenBucket(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		c := retry.BudgetConfig{RetryRate: 0.01 + 0.99*rnd.Float64(), MinPerSecond: 1 + rnd.IntN(50), Burst: 1 + rnd.IntN(30)}
		synctest.Test(t, func(t *testing.T) {
			b := mustBudget(t, c)
			tokens := float64(c.Burst)
			add := func(n float64) { tokens = min(tokens+n, float64(c.Burst)) }
			for step := range 1000 {
				switch rnd.IntN(3) {
				case 0:
					d := time.Duration(rnd.Int64N(int64(300 * time.Millisecond)))
					time.Sleep(d)
					add(d.Seconds() * float64(c.MinPerSecond))
				case 1:
					earn(t, b, 1)
					add(c.RetryRate)
				case 2:
					add(c.RetryRate)
					allowed := spend(t, b)
					if math.Abs(tokens-1) > 1e-3 && allowed != (tokens >= 1) {
						t.Fatalf("%+v: step %d: a retry was allowed: %v, with %v tokens", c, step, allowed, tokens)
					}
					if allowed {
						tokens--
					}
				}
				if got := b.Tokens(); math.Abs(got-tokens) > 1e-2 {
					t.Fatalf("%+v: step %d: Tokens() = %v, want %v", c, step, got, tokens)
				}
			}
		})
	}
}

func TestRetriesStayWithinTheBudgetUnderContention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{Burst: 50})
		var calls, retries atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5000 {
					calls.Add(1)
					if spend(t, b) {
						retries.Add(1)
					}
				}
			})
		}
		wg.Wait() // in no virtual time at all
		if most := int64(0.2*float64(calls.Load())) + 50; retries.Load() > most || retries.Load() < most-1 {
			t.Errorf("retries = %d of %d calls, want all of %d", retries.Load(), calls.Load(), most)
		}
	})
}

func TestABudgetOfAHealthyDependencyDoesNotRunAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{RetryRate: 0.5, MinPerSecond: 1, Burst: 3})
		time.Sleep(24 * 365 * time.Hour)
		earn(t, b, 100_000)
		if got := b.Tokens(); got != 3 {
			t.Errorf("Tokens() = %v after a good year, want Burst", got)
		}
		retries := 0
		for spend(t, b) {
			retries++
		}
		if retries != 5 { // 3, and half a one from each call but the first, which found it full
			t.Errorf("retries = %d, want 5", retries)
		}
	})
}

func TestThrottleFollowsA6(t *testing.T) {
	th := mustThrottle(t, retry.ThrottleConfig{})
	want := func(tokens float64) {
		t.Helper()
		if got := th.Tokens(); math.Abs(got-tokens) > 1e-9 {
			t.Fatalf("Tokens() = %v, want %v", got, tokens)
		}
	}
	want(10)
	p := retry.Policy{MaxAttempts: 100, Backoff: retry.Constant(0), Budget: th}
	// Failures 1 to 4 leave 9 to 6 tokens; the fifth leaves half, and that stops.
	wantError(t, p.Do(t.Context(), (&counter{err: errBoom}).op), 5, retry.ErrBudget, errBoom)
	want(5)
	if spend(t, th) {
		t.Error("a retry was allowed below half of MaxTokens")
	}
	want(4)
	earn(t, th, 10)
	want(5)
	earn(t, th, 20)
	want(7)
	if !spend(t, th) {
		t.Error("a retry was refused above half of MaxTokens")
	}
	earn(t, th, 1000)
	want(10)
	for range 20 {
		spend(t, th)
	}
	want(0)
}

func TestThrottleIgnoresWhatIsNotRetryable(t *testing.T) {
	th := mustThrottle(t, retry.ThrottleConfig{})
	for _, err := range []error{retry.Permanent(errBoom), rejection{}} {
		_ = retry.Policy{Budget: th}.Do(t.Context(), (&counter{err: err}).op)
	}
	if got := th.Tokens(); got != 10 {
		t.Errorf("Tokens() = %v, want 10: neither error says that the dependency is overloaded", got)
	}
}

func TestThrottleCountsUnderContention(t *testing.T) {
	th := mustThrottle(t, retry.ThrottleConfig{MaxTokens: 1000, TokenRatio: 0.0019})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				_ = retry.Policy{MaxAttempts: 1, Budget: th}.Do(t.Context(), func(context.Context) error { return errBoom })
				earn(t, th, 100)
			}
		})
	}
	wg.Wait()
	// 400 failures cost 400, 40,000 successes earn 0.001 each: at most 1,000 is
	// never reached from below, so nothing is lost to the bound but at the start.
	if got := th.Tokens(); got < 640-1e-9 || got > 640.3 {
		t.Errorf("Tokens() = %v, want 1000 - 400 + 40", got)
	}
}

func TestAFaultyBudgetReportsAllItsFaults(t *testing.T) {
	for want, c := range map[string]retry.BudgetConfig{
		"retry: budget: RetryRate -1 is outside (0, 1]; MinPerSecond -1 is outside 1 to 1000000; Burst -1 is outside 1 to 1000000000": {RetryRate: -1, MinPerSecond: -1, Burst: -1},
		"retry: budget: RetryRate 1.5 is outside (0, 1]; MinPerSecond 1000001 is outside 1 to 1000000":                                {RetryRate: 1.5, MinPerSecond: 1e6 + 1},
		"retry: budget: RetryRate NaN is outside (0, 1]":                                                                              {RetryRate: math.NaN()},
		"retry: budget: Burst 1000000001 is outside 1 to 1000000000":                                                                  {Burst: 1e9 + 1},
	} {
		if b, err := retry.NewBudget(c); b != nil || err == nil || err.Error() != want {
			t.Errorf("NewBudget(%+v) = %v, %v\n want nil, %v", c, b, err, want)
		}
	}
	for want, c := range map[string]retry.ThrottleConfig{
		"retry: throttle: MaxTokens 1001 is outside 1 to 1000; TokenRatio -0.1 is not a number from 0.001": {MaxTokens: 1001, TokenRatio: -0.1},
		"retry: throttle: TokenRatio NaN is not a number from 0.001":                                       {TokenRatio: math.NaN()},
		"retry: throttle: TokenRatio 0.0001 is not a number from 0.001":                                    {TokenRatio: 0.0001},
	} {
		if b, err := retry.NewThrottle(c); b != nil || err == nil || err.Error() != want {
			t.Errorf("NewThrottle(%+v) = %v, %v\n want nil, %v", c, b, err, want)
		}
	}
}

func TestTheLargestBudgetCounts(t *testing.T) {
	for _, c := range []retry.BudgetConfig{{MinPerSecond: 1, Burst: 1e9}, {MinPerSecond: 1e6, Burst: 1e9}} {
		t.Run(fmt.Sprint(c.MinPerSecond), func(t *testing.T) {
			b := mustBudget(t, c)
			if got := b.Tokens(); got != 1e9 || !spend(t, b) {
				t.Errorf("Tokens() = %v, want 1e9 and a retry", got)
			}
		})
	}
}
