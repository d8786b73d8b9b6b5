package breaker

import "time"

// Stats describe a Breaker at one moment, for dashboards. The totals never
// decrease. There is none of successes: for its sake every call to a healthy
// dependency would have to write to memory that all calls share.
type Stats struct {
	State      State
	Counts     Counts        // what the window holds; zero unless closed
	Probes     int           // running; 0 unless half-open
	RetryAfter time.Duration // as that of an OpenError

	Opened   uint64 // total of changes to Open
	Failures uint64 // total of calls that failed, probes included
	Ignored  uint64 // total of calls whose outcome was Ignored
	Rejected uint64 // total of calls that were not admitted
	Stale    uint64 // total of calls that ended too late to count
}

// Stats returns the present figures. It only reads.
func (b *Breaker) Stats() Stats {
	s := Stats{
		Opened:   b.opened.Load(),
		Failures: b.failures.Load(),
		Ignored:  b.ignored.Load(),
		Rejected: b.rejected.Load(),
		Stale:    b.stale.Load(),
	}
	p := b.phase.Load()
	if p == nil {
		return s
	}
	now := b.now()
	s.State, s.RetryAfter = p.at(now)
	if p.window != nil {
		s.Counts = p.window.counts(now)
	}
	b.mu.Lock()
	s.Probes = len(p.leases)
	b.mu.Unlock()
	return s
}

// State returns the present state. It only reads: an open breaker whose open time
// is over is HalfOpen, but to ask makes no call a probe.
func (b *Breaker) State() State {
	p := b.phase.Load()
	if p == nil {
		return Closed
	}
	s, _ := p.at(b.now())
	return s
}

// retryAfter returns how long it takes until a call may be admitted. Only errors
// ask, so the breaker has been used.
func (b *Breaker) retryAfter() time.Duration {
	_, d := b.phase.Load().at(b.now())
	return d
}

// at returns the state as seen from outside, and how long it takes until a call
// may be admitted: 0 where that is now or nobody knows.
func (p *phase) at(now time.Duration) (State, time.Duration) {
	switch left := time.Duration(p.until.Load()) - now; {
	case p.state == ForcedOpen:
		return ForcedOpen, 0
	case left > 0:
		return p.state, left
	case p.state == Open:
		return HalfOpen, 0
	default:
		return p.state, 0
	}
}
