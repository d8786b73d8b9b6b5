package bulkhead

import (
	"errors"
	"time"
)

// verdict is what a call says about the limit.
type verdict uint8

const (
	unknown  verdict = iota // nothing, as any call does while the limit is fixed
	good                    // quick and successful
	overload                // slow, or the dependency asked for less
)

// verdict judges a call that began at start and has ended with err, for a limit
// that adapts. It calls methods of err, so mu must not be held.
func (b *Bulkhead) verdict(start time.Duration, err error) verdict {
	switch {
	case b.now()-start >= b.slow, asksForLess(err):
		return overload
	case err != nil:
		// A failure that is quick says nothing: neither that there is room for
		// more, nor that there is not. So does a caller that left early.
		return unknown
	default:
		return good
	}
}

// asksForLess reports whether err comes from the dependency and says when to come
// back. What was rejected before it got there says nothing about it.
func asksForLess(err error) bool {
	if err == nil {
		return false
	}
	if r, ok := errors.AsType[interface {
		error
		Rejected() bool
	}](err); ok && r.Rejected() {
		return false
	}
	r, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	return ok && r.RetryAfter() > 0
}

// adapt is additive increase, multiplicative decrease, with the two rules by
// which TCP keeps it stable: the window shrinks once per round trip (RFC 6582),
// and does not grow while it is not used (RFC 7661).
func (b *Bulkhead) adapt(h hold, v verdict) {
	if h.lowered != b.lowered {
		return // admitted under a higher limit, which has been judged already
	}
	if v == overload {
		b.good = 0
		if to := max(b.config.Min, b.limit-max(b.limit/4, 1)); to < b.limit {
			b.limit = to
			b.lowered++
		}
		return
	}
	if 2*b.running < b.limit || b.limit == b.config.Max {
		return
	}
	if b.good++; b.good >= b.limit {
		b.good = 0
		b.limit++
	}
}
