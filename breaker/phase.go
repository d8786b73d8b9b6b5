package breaker

import (
	"math"
	"sync/atomic"
	"time"
)

// A phase is the time between two changes of a Breaker's state: its generation.
// A call remembers the phase that admitted it. Since each phase is a value of
// its own, an outcome that comes after a change finds another phase in place, and
// can neither count in its window nor move its end.
//
// The fields are written before the phase begins, save until and those under
// "half-open".
type phase struct {
	breaker *Breaker
	state   State
	free    bool   // every call enters, and nothing about it need be known
	gated   bool   // a call has to ask whether it may enter
	clocked bool   // the end of a call needs the time
	window  window // what happened; nil unless closed

	// until is the instant before which a gated phase rejects every call, so that
	// a rejection is one comparison: the end of the open time or, while all
	// probes run, the time at which the first of them is given up. 0 where a call
	// may enter.
	until     atomic.Int64
	rejection OpenError // made once, so that to reject allocates nothing

	// Half-open; guarded by the breaker's mutex.
	leases    []lease // of the running probes, the first to run out first
	granted   uint64  // leases so far
	succeeded int     // probes so far
}

const never = int64(math.MaxInt64)

func (b *Breaker) newPhase(s State) *phase {
	p := &phase{breaker: b, state: s}
	switch s {
	case Closed:
		p.free = b.slow == 0
		p.clocked = b.slow > 0 || b.set.Window > 0
		p.window = b.set.newWindow()
	case Disabled:
		p.free = true
	default:
		p.gated = true
		p.clocked = b.slow > 0
		p.rejection = OpenError{Name: b.name, State: s, breaker: b}
	}
	if s == ForcedOpen {
		p.until.Store(never)
	}
	return p
}

// begin puts next in place of the current phase and queues the change for the
// hook. The mutex is held; whoever releases it announces the change after that.
func (b *Breaker) begin(next *phase, c Change) {
	old := b.phase.Swap(next)
	if next.state == Closed {
		b.reopens = 0
	}
	if b.set.OnChange == nil || old.state == next.state {
		return
	}
	c.Name, c.From, c.To = b.name, old.state, next.state
	if old.window != nil {
		c.Counts = old.window.counts(b.now())
	}
	b.changes.queue = append(b.changes.queue, c)
}

// open begins an open phase as of the instant at. The mutex is held.
func (b *Breaker) open(at time.Duration, why Reason, asked time.Duration) {
	wait := b.set.openTime(b.reopens, asked)
	b.reopens++
	b.opened.Add(1)
	p := b.newPhase(Open)
	p.until.Store(int64(at + wait))
	b.begin(p, Change{Reason: why, OpenFor: wait})
}

// trip opens b if p is still its phase: of many calls that find cause to, one
// does. Their errors are asked before the lock is taken, since they are the
// user's code.
func (b *Breaker) trip(p *phase, why Reason, err error) {
	asked := retryAfter(err)
	b.mu.Lock()
	if b.phase.Load() == p {
		b.open(b.now(), why, asked)
	}
	b.mu.Unlock()
	b.announce()
}

// force begins a phase of state s by order of an operator.
func (b *Breaker) force(s State) {
	b.current()
	b.mu.Lock()
	if s == Closed || b.phase.Load().state != s {
		b.begin(b.newPhase(s), Change{Reason: Operator})
	}
	b.mu.Unlock()
	b.announce()
}
