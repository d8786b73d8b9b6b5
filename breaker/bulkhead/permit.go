package bulkhead

import (
	"context"
	"time"
)

// Permit is the leave to make one call, to be ended by [Permit.Done]. It is
// small, costs no allocation, and belongs to one goroutine at a time. A copy is of
// no use: of all copies only the first Done counts. The zero Permit belongs to no
// bulkhead.
type Permit struct {
	_        noCopy
	bulkhead *Bulkhead // nil once done
	hold     hold
	start    time.Duration // of the call, where the limit adapts
}

// hold is what a call has of its bulkhead.
type hold struct {
	slot    uint32 // counted from 1
	turn    uint64 // of the slot
	lowered uint64 // how often the limit had been lowered at that time
}

// noCopy makes go vet report copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// Acquire takes a slot, for callers that cannot put their call into a function.
// The caller makes the call and ends the Permit with Done. Prefer [Bulkhead.Do],
// which cannot forget: an abandoned Permit holds its slot for good.
//
// If all slots are taken, Acquire waits in the queue where there is room. If
// there is none, and after Config.Wait, the error is a [*FullError]. If ctx ends
// first, or had ended before, the error is the cause of ctx, wrapped, even where
// a slot is free.
func (b *Bulkhead) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		b.mu.Lock()
		b.canceled++
		b.mu.Unlock()
		return Permit{}, b.ended(ctx)
	}
	b.mu.Lock()
	switch {
	case b.running < b.present():
		h := b.take()
		b.admitted++
		b.mu.Unlock()
		return b.permit(h), nil
	case b.queue.len < b.config.Queue:
		w := b.queue.push()
		b.mu.Unlock()
		return b.await(ctx, w)
	default:
		b.rejected++
		b.mu.Unlock()
		return Permit{}, &b.full
	}
}

// permit makes a Permit of h. The call begins now: time in the queue says nothing
// about the dependency.
func (b *Bulkhead) permit(h hold) Permit {
	if b.slow == 0 {
		return Permit{bulkhead: b, hold: h}
	}
	return Permit{bulkhead: b, hold: h, start: b.now()}
}

// await waits until w has a slot, for no longer than it may.
func (b *Bulkhead) await(ctx context.Context, w *waiter) (Permit, error) {
	timer := time.NewTimer(b.config.Wait)
	defer timer.Stop()
	select {
	case <-w.ready:
	case <-timer.C:
	case <-ctx.Done():
	}
	// Several of these may have happened. What counts is whether the context is
	// alive and then whether there is a slot, so that no call starts in vain and
	// no slot is turned down.
	ended := ctx.Err() != nil
	switch granted := b.leave(w, ended); {
	case ended:
		return Permit{}, b.ended(ctx)
	case granted:
		return b.permit(w.hold), nil
	default:
		return Permit{}, &b.late
	}
}

// leave takes w out of the queue and reports whether it has a slot. A slot that
// came too late goes on to the next waiter.
func (b *Bulkhead) leave(w *waiter, ended bool) (granted bool) {
	b.mu.Lock()
	var woken *waiter
	granted = w.granted
	if !granted {
		b.queue.remove(w)
	}
	switch {
	case ended:
		b.canceled++
		if granted {
			b.put(w.hold)
			woken = b.grant()
		}
	case granted:
		b.admitted++
	default:
		b.rejected++
	}
	b.mu.Unlock()
	wake(woken)
	return granted
}

// Done gives the slot back. Only the first Done of a Permit counts, copies of it
// included. The error is that of the call, nil for none; it matters to an adaptive
// limit only, see [Config.SlowCall].
func (m *Permit) Done(err error) {
	b := m.bulkhead
	if b == nil {
		return
	}
	v := unknown
	if b.slow > 0 {
		v = b.verdict(m.start, err) // calls methods of err, so it is no part of settle
	}
	m.bulkhead = nil
	b.settle(m.hold, v, true)
}

// settle books the verdict on a call, frees its slot if the call is over, and
// wakes whoever can run now. It does nothing for a permit that is done.
func (b *Bulkhead) settle(h hold, v verdict, over bool) {
	b.mu.Lock()
	if b.slots[h.slot-1].turn != h.turn {
		b.mu.Unlock()
		return
	}
	if v != unknown {
		b.adapt(h, v)
	}
	if over {
		b.put(h)
	}
	var woken *waiter
	if b.queue.len > 0 {
		woken = b.grant()
	}
	b.mu.Unlock()
	wake(woken)
}

// take occupies a slot.
func (b *Bulkhead) take() hold {
	b.running++
	n := b.free
	if n == 0 {
		b.slots = append(b.slots, slot{})
		n = uint32(len(b.slots)) // at most mostCalls
		return hold{slot: n, lowered: b.lowered}
	}
	s := &b.slots[n-1]
	b.free = s.next
	return hold{slot: n, turn: s.turn, lowered: b.lowered}
}

// put frees a slot.
func (b *Bulkhead) put(h hold) {
	s := &b.slots[h.slot-1]
	s.turn++
	s.next = b.free
	b.free = h.slot
	b.running--
}
