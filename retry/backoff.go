package retry

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Backoff says how long to wait before a retry.
//
// Implementations keep no state about a call: one value serves all calls of a
// policy, from several goroutines at once. Everything a sequence needs to know
// comes in as an argument.
type Backoff interface {
	// Delay returns the wait before retry n of a call, where 1 is the wait
	// between the first attempt and the second. Previous is what Delay returned
	// for retry n-1, 0 for the first. A negative result counts as 0.
	Delay(n int, previous time.Duration) time.Duration
}

// BackoffFunc is a function as a [Backoff]. It is called once before each retry
// and may be called by several goroutines.
type BackoffFunc func(n int, previous time.Duration) time.Duration

// Delay calls f.
func (f BackoffFunc) Delay(n int, previous time.Duration) time.Duration { return f(n, previous) }

// Constant waits equally long before every retry, without jitter; 0 does not
// wait at all. Negative is a fault of the policy. Prefer [Exponential] with
// Factor 1 for calls over a network, where callers that failed together should
// not come back together.
type Constant time.Duration

// Delay returns c.
func (c Constant) Delay(int, time.Duration) time.Duration { return time.Duration(c) }

// Exponential multiplies the wait by Factor with each retry, up to Cap, and
// spreads it by Jitter. No wait is negative or longer than Cap, whatever the
// jitter and however many retries there were. The zero Exponential is the
// default of [Policy].
type Exponential struct {
	// Base is the wait before the first retry, before jitter. Default 100 ms.
	// Negative is a fault.
	Base time.Duration

	// Factor is what the wait grows by with each retry. Default 2; 1 keeps it
	// at Base. Less than 1, infinite and NaN are faults.
	Factor float64

	// Cap is the longest wait, after jitter. Default 10 s. Negative is a fault.
	Cap time.Duration

	// Jitter is how the waits of callers that failed together are spread.
	// Default [FullJitter].
	Jitter Jitter

	// JitterRate is the part of the wait, 0 to 1, by which [ProportionalJitter]
	// deviates on either side; the other jitters do not read it. Default 0.2.
	JitterRate float64
}

const (
	defaultBase       = 100 * time.Millisecond
	defaultFactor     = 2
	defaultCap        = 10 * time.Second
	defaultJitterRate = 0.2
)

// Jitter is a way to spread waits. The first three of the names are those of
// Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
type Jitter int

const (
	// FullJitter takes any wait from 0 to the exponential one. It spreads best
	// and is the default.
	FullJitter Jitter = iota

	// EqualJitter takes any wait from half of the exponential one to all of it,
	// where at least some wait is wanted.
	EqualJitter

	// DecorrelatedJitter takes any wait from Base to three times the wait
	// before, so that it grows without counting. It does not read Factor.
	DecorrelatedJitter

	// ProportionalJitter takes any wait that deviates from the exponential one
	// by at most JitterRate.
	ProportionalJitter

	// NoJitter takes the exponential wait itself. It is for tests and for
	// callers that cannot fail together.
	NoJitter
)

// Delay returns the wait before retry n. It is safe for concurrent use.
func (e Exponential) Delay(n int, previous time.Duration) time.Duration {
	return e.delay(n, previous, rand.Float64())
}

// delay is Delay for u, a random number in [0, 1). All arithmetic is in float64
// and is capped before it becomes a Duration: powers overflow to +Inf, which the
// cap takes care of, and never wrap to a negative wait or to a hot loop.
func (e Exponential) delay(n int, previous time.Duration, u float64) time.Duration {
	base := float64(or(e.Base, defaultBase))
	limit := float64(or(e.Cap, defaultCap))
	raw := min(base*math.Pow(or(e.Factor, defaultFactor), float64(max(n, 1)-1)), limit)
	lo, hi := raw, raw
	switch e.Jitter {
	case FullJitter:
		lo = 0
	case EqualJitter:
		lo = raw / 2
	case DecorrelatedJitter:
		lo, hi = base, max(base, 3*float64(previous))
	case ProportionalJitter:
		spread := raw * or(e.JitterRate, defaultJitterRate)
		lo, hi = raw-spread, raw+spread
	case NoJitter:
	}
	// The range is capped, not the number drawn from it: at the cap the waits
	// stay spread instead of all becoming the cap.
	lo, hi = min(lo, limit), min(hi, limit)
	if d := lo + u*(hi-lo); d < limit {
		return time.Duration(d)
	}
	return or(e.Cap, defaultCap) // and not limit, which may have been rounded up past the largest Duration
}

func or[T int | float64 | time.Duration](v, fallback T) T {
	if v == 0 {
		return fallback
	}
	return v
}

// backoffFaults knows the backoffs of this package; those of others are theirs
// to check.
func backoffFaults(b Backoff) []string {
	var faults []string
	switch b := b.(type) {
	case *Exponential:
		if b == nil {
			return []string{"Backoff: *Exponential is nil"}
		}
		return backoffFaults(*b)
	case *Constant:
		if b == nil {
			return []string{"Backoff: *Constant is nil"}
		}
		return backoffFaults(*b)
	case BackoffFunc:
		if b == nil {
			return []string{"Backoff: BackoffFunc is nil"}
		}
	case Constant:
		faults = negative(faults, "Backoff: Constant", time.Duration(b))
	case Exponential:
		faults = negative(faults, "Backoff: Base", b.Base)
		faults = negative(faults, "Backoff: Cap", b.Cap)
		if b.Factor != 0 && !(b.Factor >= 1 && b.Factor <= math.MaxFloat64) {
			faults = append(faults, fmt.Sprintf("Backoff: Factor %v is not a number from 1", b.Factor))
		}
		if b.Jitter < FullJitter || b.Jitter > NoJitter {
			faults = append(faults, fmt.Sprintf("Backoff: Jitter %d is none of the constants", b.Jitter))
		}
		if !(b.JitterRate >= 0 && b.JitterRate <= 1) {
			faults = append(faults, fmt.Sprintf("Backoff: JitterRate %v is outside [0, 1]", b.JitterRate))
		}
	}
	return faults
}
