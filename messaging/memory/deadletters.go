package memory

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A reader is one running Subscribe to dead letters.
type reader struct {
	broker *Broker
	group  *group
	over   <-chan struct{} // closed when the lease ends, before what is open is lost
	freed  chan struct{}   // told of each letter that is settled

	mu   sync.Mutex
	open map[*inHand]struct{} // guarded by mu; neither settled nor lost
}

// readDead is Subscribe for dead letters. Their leases do not expire.
func (b *Broker) readDead(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	lease, end := context.WithCancelCause(context.WithoutCancel(ctx))
	r := &reader{broker: b, over: lease.Done(), freed: make(chan struct{}, 1), open: map[*inHand]struct{}{}}
	leave, err := b.enterDead(r, s, end)
	if err != nil {
		end(messaging.ErrLost)
		return err
	}
	defer leave()                // at last,
	defer r.lose()               // when nobody settles under
	defer end(messaging.ErrLost) // a live lease
	if s.OnReady != nil {
		s.OnReady()
	}
	return r.run(ctx, lease, s.Prefetch, deliver)
}

// enterDead begins a call of readDead, which ends with leave.
func (b *Broker) enterDead(r *reader, s messaging.Subscription, end func(error)) (leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, messaging.ErrClosed
	}
	if r.group = b.find(s.Topic, s.Group); r.group == nil {
		return nil, fmt.Errorf("%w: topic %q has no group %q whose dead letters could be read: a group exists from its first Subscribe", messaging.ErrNotFound, s.Topic, s.Group)
	}
	key := new(subscriber) // which has nothing of its own that could be lost
	b.leases[key] = end
	b.calls.Add(1)
	return func() {
		b.mu.Lock()
		delete(b.leases, key)
		b.mu.Unlock()
		b.calls.Done()
	}, nil
}

func (r *reader) run(ctx, lease context.Context, prefetch int, deliver messaging.Deliver) error {
	for ctx.Err() == nil && lease.Err() == nil {
		var changed <-chan struct{}
		if r.unsettled() < prefetch {
			var l *letter
			var again bool
			if l, again, changed = r.group.dead.take(); l != nil {
				r.hand(lease, l, again, deliver)
				continue
			}
		}
		select {
		case <-changed:
		case <-r.freed:
		case <-ctx.Done():
		case <-lease.Done():
		}
	}
	for r.unsettled() > 0 && lease.Err() == nil {
		select {
		case <-r.freed:
		case <-lease.Done():
		}
	}
	if lease.Err() != nil {
		return messaging.ErrClosed
	}
	return nil
}

// hand gives l to deliver, and takes it back when it is not accepted. When deliver
// panics or calls runtime.Goexit, lose does.
func (r *reader) hand(lease context.Context, l *letter, again bool, deliver messaging.Deliver) {
	h := &inHand{reader: r, letter: l}
	d := &messaging.Delivery{Message: l.message(), Topic: r.group.topic, Group: r.group.name, Attempt: 1, Redelivered: again}
	r.mu.Lock()
	r.open[h] = struct{}{}
	r.mu.Unlock()
	if deliver(lease, d, h) != nil {
		_ = h.Settle(lease, messaging.Verdict{Kind: messaging.Release})
	}
}

func (r *reader) unsettled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// lose leaves where it is what is still in hand.
func (r *reader) lose() {
	r.mu.Lock()
	open := r.open
	r.open = nil
	r.mu.Unlock()
	for h := range open {
		if h.state.CompareAndSwap(held, lost) {
			r.group.dead.release(h.letter)
		}
	}
}

// An inHand is one dead letter that was delivered, and its [messaging.Settler].
type inHand struct {
	reader *reader
	letter *letter
	state  atomic.Int32 // held, settled or lost
}

// Settle implements [messaging.Settler]. Only a Retry waits.
func (h *inHand) Settle(ctx context.Context, v messaging.Verdict) error {
	r := h.reader
	if !settle(&h.state, r.over) {
		return lostOrNot(&h.state)
	}
	defer r.settled(h)
	dead := &r.group.dead
	switch v.Kind {
	case messaging.Ack:
		dead.remove(h.letter)
	case messaging.Retry:
		if err := r.broker.reserve(ctx, r.group); err != nil {
			dead.release(h.letter)
			return fmt.Errorf("memory: move a dead letter back: %w", err)
		}
		r.group.ready <- &entry{msg: h.letter.msg, attempt: 1} // the place that was reserved
		dead.remove(h.letter)
	case messaging.DeadLetter:
		dead.toEnd(h.letter)
	case messaging.Release:
		dead.release(h.letter)
	default:
		dead.release(h.letter)
		return fmt.Errorf("%w: verdict of unknown kind %d: the dead letter comes again", messaging.ErrInvalid, v.Kind)
	}
	return nil
}

// Extend implements [messaging.Settler].
func (h *inHand) Extend(context.Context, time.Duration) error { return nil }

// settled counts h as settled.
func (r *reader) settled(h *inHand) {
	r.mu.Lock()
	delete(r.open, h)
	r.mu.Unlock()
	select {
	case r.freed <- struct{}{}:
	default:
	}
}
