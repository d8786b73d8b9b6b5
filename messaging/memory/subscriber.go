package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A subscriber is one running Subscribe.
type subscriber struct {
	broker   *Broker
	group    *group
	prefetch int
	over     <-chan struct{} // closed when the leases end, before what is open is lost
	freed    chan struct{}   // told when open drops below prefetch, and to 0

	mu     sync.Mutex
	open   map[*handout]struct{} // guarded by mu; handed out, neither settled nor lost
	expiry expiry                // guarded by mu
}

// Subscribe hands the messages of a group to deliver, one after the other, until
// ctx ends; then it returns nil once every delivery that was accepted is
// settled. It returns [messaging.ErrInvalid] for a faulty subscription, and
// [messaging.ErrClosed] when the Broker is closed.
//
// The group exists from its first Subscribe until the Broker is closed, with
// subscribers or without. Several subscribers of one group share its messages;
// order by Key then holds within each of them.
//
// A subscription to DeadLetters is [messaging.ErrNotFound] for a group that does
// not exist, so that a wrong name makes none. Its Retry waits while the group's
// backlog is full, until the context of Settle ends.
func (b *Broker) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	s, err := messaging.CheckSubscription(s)
	if err == nil && deliver == nil {
		err = fmt.Errorf("%w: deliver is nil", messaging.ErrInvalid)
	}
	if err != nil {
		return err
	}
	if s.DeadLetters {
		return b.readDead(ctx, s, deliver)
	}
	lease, end := context.WithCancelCause(context.WithoutCancel(ctx))
	sub := &subscriber{broker: b, prefetch: s.Prefetch, over: lease.Done(), freed: make(chan struct{}, 1), open: map[*handout]struct{}{}}
	if !b.join(sub, s, end) {
		end(messaging.ErrLost)
		return messaging.ErrClosed
	}
	defer b.leave(sub)           // at last,
	defer sub.lose()             // when nobody settles under
	defer end(messaging.ErrLost) // a live lease
	if s.OnReady != nil {
		s.OnReady()
	}
	return sub.run(ctx, lease, deliver)
}

// join makes sub a subscriber of its group. It reports whether the Broker is
// open.
func (b *Broker) join(sub *subscriber, s messaging.Subscription, end func(error)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	groups := b.groups[s.Topic]
	i := slices.IndexFunc(groups, func(g *group) bool { return g.name == s.Group })
	if i < 0 {
		i = len(groups)
		groups = append(slices.Clip(groups), newGroup(s.Topic, s.Group, b.base, b.cfg)) // a copy: publishers read the old one
		b.groups[s.Topic] = groups
	}
	sub.group = groups[i]
	b.leases[sub] = end
	b.calls.Add(1)
	return true
}

func (b *Broker) leave(sub *subscriber) {
	sub.group.wake() // sub may have been the one that was watching
	b.mu.Lock()
	delete(b.leases, sub)
	b.mu.Unlock()
	b.calls.Done()
}

func (s *subscriber) run(ctx, lease context.Context, deliver messaging.Deliver) error {
	for ctx.Err() == nil && lease.Err() == nil {
		if e := s.take(ctx, lease); e != nil {
			s.hand(lease, e, deliver)
		}
	}
	for s.unsettled() > 0 && lease.Err() == nil {
		select {
		case <-s.freed:
		case <-lease.Done():
		}
	}
	if lease.Err() != nil {
		return messaging.ErrClosed
	}
	return nil
}

// take returns the next entry. It waits, at most once, when there is none or
// when no more may be handed out, and then may return nil.
func (s *subscriber) take(ctx, lease context.Context) *entry {
	ready, nudge := s.group.ready, s.group.nudge
	var due <-chan time.Time
	if s.unsettled() >= s.prefetch {
		ready, nudge = nil, nil
	} else {
		e, wait := s.group.take()
		if e != nil {
			return e
		}
		if wait > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			due = t.C
		}
	}
	select {
	case e := <-ready:
		s.group.passOn()
		return e
	case <-nudge:
	case <-due:
	case <-s.freed:
	case <-ctx.Done():
	case <-lease.Done():
	}
	return nil
}

// hand gives e to deliver, and takes it back when it is not accepted. When deliver
// panics or calls runtime.Goexit, lose takes it back, with those before it.
func (s *subscriber) hand(lease context.Context, e *entry, deliver messaging.Deliver) {
	if e.seq == 0 {
		e.seq = s.group.next.Add(1)
	}
	h := &handout{sub: s, entry: e, d: messaging.Delivery{
		Message: e.msg.Clone(), Topic: s.group.topic, Group: s.group.name, Attempt: e.attempt, Redelivered: e.redelivered,
	}}
	s.mu.Lock()
	s.open[h] = struct{}{}
	if s.broker.cfg.Lease > 0 {
		lease = s.grant(lease, h)
	}
	s.mu.Unlock()
	if deliver(lease, &h.d, h) != nil {
		_ = h.Settle(lease, messaging.Verdict{Kind: messaging.Release})
	}
}

// unsettled returns how many deliveries are handed out.
func (s *subscriber) unsettled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// lose takes back what is handed out. There is something when the Broker was
// closed, or when deliver ended the goroutine that is leaving.
func (s *subscriber) lose() {
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.expiry.stop()
	s.mu.Unlock()
	var over []*entry
	for h := range open {
		if h.state.CompareAndSwap(held, lost) {
			over = append(over, h.entry)
		}
	}
	s.group.release(over...)
}

// settled counts h as settled.
func (s *subscriber) settled(h *handout) {
	s.mu.Lock()
	delete(s.open, h)
	n := len(s.open)
	s.mu.Unlock()
	if h.end != nil {
		h.end(nil)
	}
	if n == 0 || n == s.prefetch-1 {
		s.free()
	}
}

// free has run look again at how much is open.
func (s *subscriber) free() {
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// A handout is one delivery, and its [messaging.Settler].
type handout struct {
	d     messaging.Delivery
	sub   *subscriber
	entry *entry
	state atomic.Int32 // held, settled or lost

	end   func(error)   // ends the lease of its own, if it has one
	until time.Duration // when that is over, since group.base; guarded by sub.mu
}

// The states of a handout. It leaves held once, for good.
const (
	held int32 = iota
	settled
	lost
)

// settle has a delivery leave held by a verdict, and reports whether it did. It does not
// once its lease is over, though nobody may have noted yet that it is lost.
func settle(state *atomic.Int32, over <-chan struct{}) bool {
	select {
	case <-over:
		return false
	default:
		return state.CompareAndSwap(held, settled)
	}
}

// lostOrNot is what Settle returns for what a verdict comes too late for: the first one
// has counted, or none will.
func lostOrNot(state *atomic.Int32) error {
	if state.Load() == settled {
		return nil
	}
	return messaging.ErrLost
}

// Settle implements [messaging.Settler]. It never waits.
func (h *handout) Settle(_ context.Context, v messaging.Verdict) error {
	if !settle(&h.state, h.sub.over) {
		return lostOrNot(&h.state)
	}
	defer h.sub.settled(h)
	g, e := h.sub.group, h.entry
	switch v.Kind {
	case messaging.Ack:
		g.free()
	case messaging.Retry:
		if !v.KeepAttempt {
			e.attempt++
		}
		g.retry(e, v.After)
	case messaging.DeadLetter:
		g.dead.bury(e.msg, messaging.DeadHeaders(&messaging.Delivery{Topic: g.topic, Group: g.name, Attempt: e.attempt}, v, time.Now()))
		g.free()
	case messaging.Release:
		g.release(e)
	default:
		g.release(e)
		return fmt.Errorf("%w: verdict of unknown kind %d: the message comes again", messaging.ErrInvalid, v.Kind)
	}
	return nil
}
