package breaker

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// settings are a Config with its defaults, ready for use. The breakers of a Group
// share them; they never change.
type settings struct {
	Config
	failureRate  uint64 // in millionths
	slowCallRate uint64 // in millionths
}

const million = 1_000_000

func newSettings(c Config) (*settings, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return &settings{Config: c, failureRate: millionths(c.FailureRate), slowCallRate: millionths(c.SlowCallRate)}, nil
}

// millionths rounds down, so that calls that meet a rate such as 2/3 exactly
// meet what became of it.
func millionths(rate float64) uint64 { return max(uint64(rate*million), 1) }

// newWindow returns an empty window of the configured kind.
func (s *settings) newWindow() window {
	switch {
	case s.Consecutive > 0:
		return &streak{}
	case s.WindowCalls > 0:
		return newRing(s.WindowCalls)
	default:
		return newBuckets(s.Window)
	}
}

// verdict returns the reason to open a breaker whose window holds c, or "". It
// multiplies integers, so that a rate that is met exactly is met.
func (s *settings) verdict(c Counts) Reason {
	calls := c.Calls()
	switch {
	case s.Consecutive > 0:
		if c.Failures >= uint64(s.Consecutive) {
			return ConsecutiveReached
		}
	case calls < uint64(s.MinCalls):
	case c.Failures*million >= s.failureRate*calls:
		return FailureRateReached
	case s.SlowCall > 0 && c.Slow*million >= s.slowCallRate*calls:
		return SlowCallRateReached
	}
	return ""
}

func (s *settings) classify(ctx context.Context, err error) Outcome {
	if s.Classify == nil {
		return DefaultClassify(ctx, err)
	}
	return s.Classify(ctx, err)
}

// openTime returns how long to stay open after so many open phases in a row, if
// the dependency asked for a wait of at least asked. The jitter on what was asked
// for only adds to it.
func (s *settings) openTime(reopens int, asked time.Duration) time.Duration {
	d := s.OpenFor
	for ; reopens > 0 && d < s.MaxOpenFor; reopens-- {
		d = min(2*d, s.MaxOpenFor)
	}
	asked = min(asked, s.MaxOpenFor)
	if s.DisableJitter {
		return max(d, asked)
	}
	d += time.Duration(jitter * (2*rand.Float64() - 1) * float64(d))
	asked += time.Duration(jitter * rand.Float64() * float64(asked))
	return max(d, asked)
}

const jitter = 0.1

// retryAfter returns how long err asks to stay away, 0 if it does not.
func retryAfter(err error) time.Duration {
	r, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	if !ok {
		return 0
	}
	return r.RetryAfter()
}
