package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// refusedPause is how long a delivery is kept back whose successor could not be
// stored, so that it does not spin between the partition and the consumer.
const refusedPause = time.Second

// A handout is one delivery, and its [messaging.Settler].
type handout struct {
	messaging.Delivery // the receiver's; nothing here reads it again
	*lease
	rec     *kgo.Record
	slot    uint64
	attempt int
	state   state // guarded by p.m.mu
}

type state int8

// The states of a handout. It leaves held once, for good, unless it is settled and
// the partition goes before that is carried out.
const (
	held state = iota
	settled
	lost
)

// Settle implements [messaging.Settler]. Ack and Release never wait: what is
// settled is committed within a moment, and before Subscribe returns.
func (h *handout) Settle(ctx context.Context, v messaging.Verdict) error {
	m := h.p.m
	m.mu.Lock()
	was := h.state
	if was == held {
		h.state = settled
		switch v.Kind {
		case messaging.Ack:
			h.done()
		case messaging.Release:
			h.back()
		case messaging.Retry, messaging.DeadLetter:
		default:
			h.back()
		}
	}
	m.mu.Unlock()
	switch {
	case was == lost:
		return messaging.ErrLost
	case was == settled || v.Kind == messaging.Ack || v.Kind == messaging.Release:
		return nil
	}
	b := m.b
	switch v.Kind {
	case messaging.Retry:
		attempt := h.attempt
		switch {
		case m.t.dead:
			attempt = 1 // moved back, it was never tried
		case !v.KeepAttempt:
			attempt++
		}
		delay, rest := b.cfg.rung(v.After)
		return h.replace(ctx, h.again(attempt, delay, rest))
	case messaging.DeadLetter:
		if m.t.dead {
			return h.replace(ctx, still(h.rec, m.n.dead))
		}
		d := &messaging.Delivery{Topic: m.t.topic, Group: m.t.group, Attempt: h.attempt}
		return h.replace(ctx, dead(h.rec, m.n.dead, messaging.DeadHeaders(d, v, time.Now())))
	case messaging.Ack, messaging.Release:
	}
	return fmt.Errorf("%w: verdict of unknown kind %d: the message comes again", messaging.ErrInvalid, v.Kind)
}

// wanted reports whether whoever is to have the delivery still takes any.
func (h *handout) wanted() bool { return h.ctx.Err() == nil && h.seat.ctx.Err() == nil }

// Extend implements [messaging.Settler]. Kafka takes a message back only with its
// partition, which no handler can hold on to.
func (h *handout) Extend(context.Context, time.Duration) error {
	m := h.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.state == lost {
		return messaging.ErrLost
	}
	return nil
}

// again returns the successor that waits for delay, and then for rest.
func (h *handout) again(attempt int, delay, rest time.Duration) *kgo.Record {
	leaves := time.Time{}
	if delay > 0 {
		leaves = time.Now().Add(delay)
	}
	return again(h.rec, h.p.m.n.rung(delay), attempt, leaves, rest)
}

// forward sends a delivery on to the next part of a delay that is longer than the
// longest rung.
func (h *handout) forward(d time.Duration) {
	m := h.p.m
	m.mu.Lock()
	was := h.state
	if was == held {
		h.state = settled
	}
	m.mu.Unlock()
	if was == held {
		delay, rest := m.b.cfg.rung(d)
		_ = h.replace(h.ctx, h.again(h.attempt, delay, rest))
	}
}

// replace stores the successor of the delivery, and only then is done with it. A
// crash in between makes two of it, never none.
func (h *handout) replace(ctx context.Context, next *kgo.Record) error {
	m := h.p.m
	o := &outgoing{rec: *next}
	m.b.produce(ctx, next.Topic, []*outgoing{o}, new(flight))
	if o.err != nil {
		// The pause belongs to this message alone; others of the partition pass it.
		select {
		case <-h.ctx.Done():
		default:
			_ = pause(ctx, m.b.closing, refusedPause)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case h.p.ended:
		h.state = lost
		return messaging.ErrLost
	case o.err != nil:
		h.back()
		return fmt.Errorf("kafka: settle: the message stays where it was, to be delivered again: %w", o.err)
	}
	h.done()
	return nil
}

// done ends the handout as done with. The caller holds m.mu.
func (h *handout) done() {
	full := h.p.window.full()
	h.p.window.finish(h.slot)
	h.rec = nil // those who keep the delivery would keep all that was fetched with it
	h.leaveHand()
	tell(h.p.m.dirty)
	if full {
		tell(h.p.wake)
	}
}

// back ends the handout, and its record comes again. The caller holds m.mu.
func (h *handout) back() {
	h.p.takeBack(h)
	h.leaveHand()
	tell(h.p.wake)
}

// leaveHand counts the handout as out of hand. The caller holds m.mu.
func (h *handout) leaveHand() {
	p, s := h.p, h.seat
	p.open--
	s.held--
	if len(p.m.hungry) > 0 {
		p.m.fed()
	}
	if p.open == 0 || s.held == 0 {
		p.m.rest()
	}
}
