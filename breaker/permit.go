package breaker

import "time"

// Permit is the leave to make one call, to be ended by [Permit.Done]. It is
// small, costs no allocation, belongs to one goroutine at a time and must not be
// copied: while the breaker is closed, each copy would count. The zero Permit
// belongs to no breaker.
type Permit struct {
	_     noCopy
	phase *phase        // that admitted the call; nil once done
	start time.Duration // of the call, where slow calls count
	probe uint64        // its number, 0 for a call that is none
}

// noCopy makes go vet report copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// Allow asks whether a call may be made, for callers that cannot put it into a
// function. If so, the caller makes the call and ends the Permit with Done; else
// the error is an [*OpenError]. Prefer [Breaker.Do], which cannot forget. An
// abandoned Permit counts for nothing while the breaker is closed, and as a
// failed probe after ProbeTimeout while it is half-open.
func (b *Breaker) Allow() (Permit, error) {
	p := b.current()
	switch {
	case p.free:
		return Permit{phase: p}, nil
	case !p.gated:
		return Permit{phase: p, start: b.now()}, nil
	case int64(b.now()) < p.until.Load():
		b.rejected.Add(1)
		return Permit{}, &p.rejection
	default:
		return b.knock()
	}
}

// move returns what m holds, and leaves m done.
func (m *Permit) move() Permit {
	p := m.phase
	m.phase = nil
	return Permit{phase: p, start: m.start, probe: m.probe}
}

// Done reports how the call ended. Only the first Done of a Permit counts, and
// only if the breaker has not changed its state since Allow: what was admitted
// under other circumstances says nothing about the present ones.
func (m *Permit) Done(o Outcome) {
	if m.phase != nil {
		m.done(o, nil)
	}
}

// done is Done of a permit that is not done yet. It also takes the call's error,
// which may ask for a longer open time.
func (m *Permit) done(o Outcome, err error) {
	p := m.phase
	m.phase = nil
	b := p.breaker
	if b.phase.Load() != p {
		b.stale.Add(1)
		return
	}
	var now time.Duration
	if p.clocked {
		now = b.now()
	}
	slow := b.slow > 0 && now-m.start >= b.slow
	if o == Success && !slow && p.window != nil {
		p.window.success(now)
		return
	}
	b.settle(p, m.probe, o, slow, now, err)
}

// settle books all but the success of an ordinary call.
func (b *Breaker) settle(p *phase, probe uint64, o Outcome, slow bool, now time.Duration, err error) {
	switch {
	case p.state == Disabled:
		return
	case o == Ignored:
		b.ignored.Add(1)
	case o != Success:
		o = Failure
		b.failures.Add(1)
	}
	switch {
	case p.state == HalfOpen:
		if o == Success && slow {
			o = Failure
		}
		b.judge(p, probe, o, err)
	case o != Ignored:
		counts := p.window.trouble(now, o == Failure, slow)
		if why := b.set.verdict(counts); why != "" {
			b.trip(p, why, err)
		}
	}
}
