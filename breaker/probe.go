package breaker

import (
	"slices"
	"time"
)

// A lease is the right of a probe to be heard, for a limited time.
type lease struct {
	probe   uint64 // counted from 1 in each phase
	expires time.Duration
}

// knock asks once more, where the time may have come for the state to change.
func (b *Breaker) knock() (Permit, error) {
	p, probe := b.lease()
	b.announceTo(p, probe)
	if p.gated && probe == 0 {
		b.rejected.Add(1)
		return Permit{}, &p.rejection
	}
	return Permit{phase: p, probe: probe, start: b.now()}, nil
}

// announceTo announces what a lease has changed. If the hook panics, the call
// that was to be the probe does not take place, and frees its slot.
func (b *Breaker) announceTo(p *phase, probe uint64) {
	entered := false
	defer func() {
		if !entered && probe != 0 {
			b.judge(p, probe, Ignored, nil)
		}
	}()
	b.announce()
	entered = true
}

// lease returns the current phase and, where that is half-open and has a slot
// free, the number of the probe that the caller now is. It begins the phases
// that have become due, since no timer does.
func (b *Breaker) lease() (*phase, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.giveUp(now)
	p := b.phase.Load()
	if !p.gated || int64(now) < p.until.Load() { // somebody else was faster
		return p, 0
	}
	if p.state == Open {
		p = b.newPhase(HalfOpen)
		b.begin(p, Change{Reason: OpenTimeOver})
	}
	p.granted++
	p.leases = append(p.leases, lease{p.granted, now + b.set.ProbeTimeout})
	p.gate(b.set.Probes)
	return p, p.granted
}

// giveUp opens b again if a probe has not been heard of in time: that it hangs
// is evidence. The open time counts from when the lease ran out, which may be
// long ago. The mutex is held.
func (b *Breaker) giveUp(now time.Duration) {
	if p := b.phase.Load(); len(p.leases) > 0 && p.leases[0].expires <= now {
		b.open(p.leases[0].expires, ProbeTimedOut, 0)
	}
}

// gate rejects calls until the first lease runs out if all slots are taken.
func (p *phase) gate(slots int) {
	if len(p.leases) < slots {
		p.until.Store(0)
	} else {
		p.until.Store(int64(p.leases[0].expires))
	}
}

// judge books the outcome of a probe of p: once, and only while both p and the
// lease last.
func (b *Breaker) judge(p *phase, probe uint64, o Outcome, err error) {
	asked := retryAfter(err)
	b.mu.Lock()
	now := b.now()
	b.giveUp(now)
	i := slices.IndexFunc(p.leases, func(l lease) bool { return l.probe == probe })
	switch {
	case b.phase.Load() != p || i < 0:
		b.stale.Add(1)
	case o == Failure:
		b.open(now, ProbeFailed, asked)
	case o == Success && p.succeeded+1 >= b.set.ProbeSuccesses:
		b.begin(b.newPhase(Closed), Change{Reason: ProbesSucceeded})
	default:
		if o == Success {
			p.succeeded++
		}
		p.leases = slices.Delete(p.leases, i, i+1)
		p.gate(b.set.Probes)
	}
	b.mu.Unlock()
	b.announce()
}
