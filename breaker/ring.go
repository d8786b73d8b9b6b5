package breaker

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// ring is a window of the last size calls: two bits for each, in a circle. A
// success writes its bits only where an earlier call left one set.
type ring struct {
	size   uint64
	failed []atomic.Uint64
	slow   []atomic.Uint64
	_      [cacheLine]byte
	calls  atomic.Uint64 // booked so far; the next one's place is this modulo size
	_      [cacheLine]byte
}

func newRing(size int) *ring {
	words := (size + 63) / 64
	both := make([]atomic.Uint64, 2*words)
	return &ring{size: uint64(size), failed: both[:words], slow: both[words:]}
}

func (r *ring) success(time.Duration) { r.book(false, false) }

func (r *ring) trouble(_ time.Duration, failed, slow bool) Counts {
	r.book(failed, slow)
	return r.counts(0)
}

func (r *ring) book(failed, slow bool) {
	place := (r.calls.Add(1) - 1) % r.size
	word, bit := place/64, uint64(1)<<(place%64)
	mark(&r.failed[word], bit, failed)
	mark(&r.slow[word], bit, slow)
}

// mark sets or clears a bit, and writes only where that changes it.
func mark(word *atomic.Uint64, bit uint64, set bool) {
	switch is := word.Load()&bit != 0; {
	case is == set:
	case set:
		word.Or(bit)
	default:
		word.And(^bit)
	}
}

func (r *ring) counts(time.Duration) Counts {
	// Read first: the bits of calls that come meanwhile are at most too many.
	calls := min(r.calls.Load(), r.size)
	c := Counts{Failures: min(ones(r.failed), calls), Slow: min(ones(r.slow), calls)}
	c.Successes = calls - c.Failures
	return c
}

func ones(words []atomic.Uint64) uint64 {
	n := 0
	for i := range words {
		n += bits.OnesCount64(words[i].Load())
	}
	return uint64(n)
}

// streak counts the failures since the last success. A success that follows a
// success writes nothing, so that callers of a healthy dependency share no
// memory that changes.
type streak struct{ failures atomic.Uint64 }

func (s *streak) success(time.Duration) {
	if s.failures.Load() != 0 {
		s.failures.Store(0)
	}
}

func (s *streak) trouble(time.Duration, bool, bool) Counts {
	return Counts{Failures: s.failures.Add(1)}
}

func (s *streak) counts(time.Duration) Counts {
	return Counts{Failures: s.failures.Load()}
}
