package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

const (
	// maxTaken is how many records are taken from a partition in one turn at m.mu, for
	// which all its partitions and lanes queue.
	maxTaken = 16
	// refusalPause keeps a message that nobody accepts from spinning.
	refusalPause = 100 * time.Millisecond
)

// work hands out records until the partition ends.
func (p *partition) work() {
	returned := false
	defer func() {
		// deliver has ended this goroutine.
		if !returned {
			p.m.b.workers.Go(p.work)
		}
	}()
	for {
		p.handTaken()
		wait, drained, ended := p.takeSome()
		if ended {
			break
		}
		if drained {
			p.balance()
			tell(p.m.drained)
		}
		switch {
		case len(p.taken) > 0:
		case wait > 0:
			t := time.NewTimer(wait)
			select {
			case <-p.wake:
			case <-t.C:
			}
			t.Stop()
		default:
			<-p.wake
		}
	}
	returned = true
}

// takeSome is take for as many as may be handed out one after the other, into taken.
// What waits there is in hand: while deliver blocks, it must hold up neither other
// partitions, and so takes but a small part of the seat's places, nor another seat that
// drains.
func (p *partition) takeSome() (wait time.Duration, drained, ended bool) {
	p.taken = p.room[:0]
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for len(p.taken) < cap(p.taken) && !p.ended {
		h, w, d := p.take()
		wait, drained = w, drained || d
		if h == nil {
			break
		}
		p.taken = append(p.taken, h)
		if len(p.taken) >= h.seat.sub.Prefetch/maxTaken || len(p.m.seats) > 1 {
			break
		}
	}
	return wait, drained, p.ended
}

// take returns what to hand out next, or how long nothing will be there: 0 where
// something will tell. drained reports that full has changed. The caller holds
// m.mu.
func (p *partition) take() (h *handout, wait time.Duration, drained bool) {
	if p.stopping.Load() {
		return nil, 0, false
	}
	if !p.rest.IsZero() { // seldom, and to ask for the time costs as much as all else here
		if wait := time.Until(p.rest); wait > 0 {
			return nil, wait, false
		}
		p.rest = time.Time{}
	}
	if len(p.again) > 0 {
		n := p.again[0]
		if h = p.give(p.window.at(n).rec); h != nil {
			at := p.window.at(n)
			h.slot, h.Redelivered = n, at.again
			p.again = p.again[1:]
			at.in = h
		}
		return h, 0, false
	}
	passed := false
	for len(p.queue) > 0 && p.window.passes(p.queue[0].Offset) {
		p.shift()
		passed = true
	}
	if passed {
		tell(p.m.dirty)
	}
	if len(p.queue) == 0 {
		p.slow = false
	}
	if len(p.queue) == 0 || p.window.full() {
		return nil, 0, p.drain()
	}
	rec := p.queue[0]
	if p.own {
		if p.due.IsZero() {
			p.due = due(rec, p.filled.Add(p.hold))
		}
		if wait := time.Until(p.due); wait > 0 {
			// What lies in a rung for minutes must not lie in memory for as long.
			changed := !p.full || !p.slow
			p.full, p.slow = true, true
			return nil, wait, changed
		}
	}
	if h = p.give(rec); h != nil {
		p.shift()
		h.slot = p.window.push(rec)
		p.window.at(h.slot).in = h
		h.Redelivered = rec.Offset < p.doubt
	}
	return h, 0, p.drain()
}

// shift takes the first record from the queue.
func (p *partition) shift() {
	p.queued -= weight(p.queue[0])
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.due = time.Time{}
}

// drain reports whether fetching may go on again.
func (p *partition) drain() bool {
	if !p.full || p.queued > maxQueued/2 {
		return false
	}
	p.full = false
	return true
}

// give finds a seat for rec, and puts it in hand. It returns nil when none has
// room; then the partition is told when one has. The caller holds m.mu.
func (p *partition) give(rec *kgo.Record) *handout {
	s := p.choose(rec)
	if s == nil {
		p.m.hungry[p] = struct{}{}
		return nil
	}
	p.open++
	s.held++
	return &handout{lease: p.leaseOf(s), rec: rec, Delivery: messaging.Delivery{Topic: p.m.t.topic, Group: p.m.t.group}}
}

// leaseOf returns the lease of what s gets of p. The caller holds m.mu.
func (p *partition) leaseOf(s *seat) *lease {
	if p.last != nil && p.last.seat == s {
		return p.last
	}
	p.last = p.leases[s]
	if p.last == nil {
		p.last = &lease{p: p, seat: s}
		p.last.ctx, p.last.end = context.WithCancelCause(context.Background())
		p.leases[s] = p.last
	}
	return p.last
}

// choose returns the seat that gets rec. What has a key goes to one seat of the
// partition, so that its order holds; to another only when that one has nothing of
// the partition in hand any more. The caller holds m.mu.
func (p *partition) choose(rec *kgo.Record) *seat {
	if len(rec.Key) == 0 {
		if s := p.seat; s != nil && s.hasRoom() {
			return s
		}
		return p.m.freest()
	}
	if s := p.seat; s != nil && s.takes() {
		if s.room() > 0 {
			return s
		}
		return nil
	}
	if p.seat != nil && p.open > 0 {
		return nil
	}
	p.seat = p.m.freest()
	return p.seat
}

// freest returns the seat with the most room, or nil when none has any. The caller
// holds mu.
func (m *member) freest() *seat {
	var best *seat
	for _, s := range m.seats {
		if s.hasRoom() && (best == nil || s.room() > best.room()) {
			best = s
		}
	}
	return best
}

// handTaken hands out what was taken, in order. Once one is not accepted, or the
// partition or a seat goes, those behind it come again, since they must not pass it.
func (p *partition) handTaken() {
	for len(p.taken) > 0 && !p.stopping.Load() && p.taken[0].wanted() {
		h := p.taken[0]
		p.taken[0], p.taken = nil, p.taken[1:] // first: deliver may end this goroutine
		if !p.hand(h) {
			break
		}
	}
	p.untake()
}

// untake gives back what was taken and nobody has had, as if it had not been taken.
func (p *partition) untake() {
	if len(p.taken) == 0 {
		return
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for i, h := range p.taken {
		p.taken[i] = nil
		if h.state == held {
			h.state = settled
			h.back()
			p.window.at(h.slot).again = h.Redelivered
		}
	}
	p.taken = nil
}

// hand gives h to the deliver of its seat, and reports whether it was accepted.
func (p *partition) hand(h *handout) bool {
	rest := p.decode(&h.Delivery, h.rec)
	h.attempt = h.Attempt
	if p.m.t.dead { // whatever is left of its delays and its attempts
		h.Attempt, h.attempt, rest = 1, 1, 0
	}
	if rest > 0 { // it has a longer delay to wait than one rung can hold
		p.m.b.workers.Go(func() { h.forward(rest) })
		return true
	}
	returned := false
	defer func() {
		if !returned {
			h.seat.fail(errEnded)
		}
	}()
	err := h.seat.deliver(h.ctx, &h.Delivery, h)
	returned = true
	if err == nil {
		return true
	}
	_ = h.Settle(h.ctx, messaging.Verdict{Kind: messaging.Release})
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if h.seat.takes() {
		p.rest = time.Now().Add(refusalPause)
	}
	return false
}
