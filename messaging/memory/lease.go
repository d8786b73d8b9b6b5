package memory

import (
	"context"
	"math"
	"time"

	"github.com/parley-go/parley/messaging"
)

// An expiry is the one timer by which a subscriber takes back the deliveries
// whose leases are over. It is set for a lease when it is granted, and not again
// when it is extended or settled, so that those cost nothing: when the time has
// come, expire looks at what is open.
type expiry struct {
	timer *time.Timer
	at    time.Duration // when it fires, since group.base; 0 when it does not
}

// by has expire called by the given time.
func (x *expiry) by(until, now time.Duration, expire func()) {
	if x.at != 0 && x.at <= until {
		return
	}
	x.at = until
	if x.timer == nil {
		x.timer = time.AfterFunc(until-now, expire)
	} else {
		x.timer.Reset(until - now)
	}
}

func (x *expiry) stop() {
	if x.timer != nil {
		x.timer.Stop()
	}
}

// grant gives h a lease of its own within that of the subscriber. The caller
// holds s.mu.
func (s *subscriber) grant(lease context.Context, h *handout) context.Context {
	lease, h.end = context.WithCancelCause(lease)
	now := s.now()
	h.until = now + s.broker.cfg.Lease
	s.expiry.by(h.until, now, s.expire)
	return lease
}

func (s *subscriber) now() time.Duration { return time.Since(s.group.base) }

// expire takes back what was not settled in time. It looks at all that is open,
// which is at most prefetch, and so as not to do that for each of them, at most
// 32 times in a lease.
func (s *subscriber) expire() {
	now := s.now()
	next := time.Duration(math.MaxInt64)
	var over []*handout
	s.mu.Lock()
	s.expiry.at = 0
	for h := range s.open {
		switch {
		case h.until > now:
			next = min(next, h.until)
		case h.state.CompareAndSwap(held, lost):
			delete(s.open, h)
			over = append(over, h)
		}
	}
	if next < math.MaxInt64 {
		s.expiry.by(max(next, now+s.broker.cfg.Lease/32), now, s.expire)
	}
	s.mu.Unlock()
	if over == nil {
		return
	}
	entries := make([]*entry, len(over))
	for i, h := range over {
		h.end(messaging.ErrLost)
		entries[i] = h.entry
	}
	s.group.release(entries...)
	s.free()
}

// Extend implements [messaging.Settler]. It never waits.
func (h *handout) Extend(_ context.Context, d time.Duration) error {
	if h.end == nil {
		return nil // it does not expire
	}
	s := h.sub
	select {
	case <-s.over:
		return lostOrNot(&h.state)
	default:
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.state.Load() == lost {
		return messaging.ErrLost
	}
	h.until = max(h.until, now+min(d, math.MaxInt64-now)) // without an overflow
	return nil
}
