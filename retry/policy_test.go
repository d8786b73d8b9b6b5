package retry_test

import (
	"errors"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/parley-go/parley/retry"
)

func TestAFaultyPolicyReportsAllItsFaultsBeforeTheFirstAttempt(t *testing.T) {
	for want, p := range map[string]retry.Policy{
		"retry: faulty policy: MaxAttempts -1 is negative; MaxElapsed -1ns is negative; AttemptTimeout -2s is negative; MaxRetryAfter -1m0s is negative; Backoff: Constant -1s is negative": {
			MaxAttempts: -1, MaxElapsed: -1, AttemptTimeout: -2 * time.Second, MaxRetryAfter: -time.Minute, Backoff: retry.Constant(-time.Second),
		},
		`retry "x": faulty policy: Forever and MaxAttempts 3 contradict each other`: {
			Name: "x", Forever: true, MaxAttempts: 3, MaxElapsed: time.Second,
		},
		"retry: faulty policy: Backoff: Base -1s is negative; Backoff: Cap -2s is negative; Backoff: Factor 0.5 is not a number from 1; Backoff: Jitter 17 is none of the constants; Backoff: JitterRate 2 is outside [0, 1]": {
			Backoff: retry.Exponential{Base: -time.Second, Cap: -2 * time.Second, Factor: 0.5, Jitter: 17, JitterRate: 2},
		},
		"retry: faulty policy: Backoff: Factor NaN is not a number from 1; Backoff: Jitter -1 is none of the constants; Backoff: JitterRate NaN is outside [0, 1]": {
			Backoff: retry.Exponential{Factor: math.NaN(), Jitter: -1, JitterRate: math.NaN()},
		},
		"retry: faulty policy: Backoff: Factor +Inf is not a number from 1": {Backoff: retry.Exponential{Factor: math.Inf(1)}},
	} {
		op := counter{}
		err := p.Do(t.Context(), op.op)
		if e := wantError(t, err, 0, retry.ErrPolicy); e.Error() != want || op.n != 0 {
			t.Errorf("Do() = %v after %d attempts\n want %v after 0", err, op.n, want)
		}
		if got := p.Validate(); got == nil || got.Error() != want {
			t.Errorf("Validate() = %v, want %v", got, want)
		}
		if _, err := p.Transport(stub(200)).RoundTrip(httpRequest(t, http.MethodGet, "")); err == nil || err.Error() != want {
			t.Errorf("RoundTrip() = %v, want %v", err, want)
		}
	}
}

func TestForeverWithoutABoundIsAFault(t *testing.T) {
	op := counter{}
	p := retry.Policy{Forever: true, MaxRetryAfter: -1}
	err := p.Do(t.Context(), op.op)
	wantError(t, err, 0, retry.ErrPolicy)
	const want = "retry: faulty policy: MaxRetryAfter -1ns is negative; Forever needs a deadline on the context, MaxElapsed or a Budget"
	if err.Error() != want || op.n != 0 {
		t.Errorf("Do() = %v after %d attempts, want %v after 0", err, op.n, want)
	}
}

func TestValidateAcceptsWhatDoAccepts(t *testing.T) {
	for _, p := range []retry.Policy{
		{},
		{Forever: true},
		{MaxAttempts: 1, Backoff: retry.Constant(0)},
		{Backoff: retry.Exponential{Base: 1, Cap: math.MaxInt64, Factor: 1, Jitter: retry.NoJitter, JitterRate: 1}},
		{Backoff: retry.BackoffFunc(func(int, time.Duration) time.Duration { return -1 })},
	} {
		if err := p.Validate(); err != nil {
			t.Errorf("Validate() of %+v = %v, want nil", p, err)
		}
	}
}

func TestANegativeDelayOfACustomBackoffCountsAsZero(t *testing.T) {
	op := counter{err: errBoom}
	p := retry.Policy{Backoff: retry.BackoffFunc(func(n int, previous time.Duration) time.Duration {
		if n != op.n || previous != 0 {
			t.Errorf("Delay(%d, %v) after %d attempts, want (%d, 0)", n, previous, op.n, op.n)
		}
		return -time.Hour
	})}
	if err := p.Do(t.Context(), op.op); !errors.Is(err, retry.ErrExhausted) || op.n != 3 {
		t.Errorf("Do() = %v after %d attempts, want ErrExhausted after 3", err, op.n)
	}
}
