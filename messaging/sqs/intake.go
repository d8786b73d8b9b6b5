package sqs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/parley-go/parley/messaging"
)

// An intake receives from one queue.
type intake struct {
	broker  *Broker
	sub     messaging.Subscription
	layout  layout
	queue   string // the address of that which it receives from
	log     *slog.Logger
	deletes gatherer[string]
	stays   gatherer[stay]

	events chan event
	stop   chan struct{} // closed when nothing more is to be received
	gone   chan struct{} // closed when nobody takes events any more
	freed  chan struct{} // told when there is room again
	idle   chan struct{} // told each time that nothing is open any more
	passed chan struct{} // told when passings has grown
	polls  sync.WaitGroup
	polled chan struct{} // closed when all polls have ended
	keeper chan struct{} // closed when the keeper has ended

	mu       sync.Mutex
	room     int                   // guarded by mu; how many messages may be received
	accepted int                   // guarded by mu; those in open that were handed out
	pollers  int                   // guarded by mu
	open     map[*settler]struct{} // guarded by mu; received and not settled
	passings []passing             // guarded by mu; of ordering units whose first was settled

	units map[string][]*settler // of run: by ordering unit in hand, those behind the first
	shelf []*settler            // of run: dead letters that wait for their turn
}

// An event is what a poller has to tell.
type event struct {
	messages []*settler
	err      error // why a request failed, or nil when one succeeded
}

// A passing says what became of the first of an ordering unit.
type passing struct {
	unit, id string
	on       bool // the next may be delivered
}

func newIntake(b *Broker, s messaging.Subscription, l layout, log *slog.Logger) *intake {
	in := &intake{
		broker: b, sub: s, layout: l, queue: l.work.url, log: log, room: s.Prefetch,
		events: make(chan event), stop: make(chan struct{}), gone: make(chan struct{}), freed: make(chan struct{}, 1), idle: make(chan struct{}, 1),
		passed: make(chan struct{}, 1), polled: make(chan struct{}), keeper: make(chan struct{}),
		open: map[*settler]struct{}{}, units: map[string][]*settler{},
	}
	if s.DeadLetters {
		in.queue, in.room = l.dead.url, deadWindow
	}
	in.deletes = gatherer[string]{broker: b, limit: maxQueueLimit}
	drop := b.deleteFrom(in.queue)
	in.deletes.do = func(ctx context.Context, f *flight, calls []*call[string]) { ride(ctx, b, f, calls, false, drop) }
	in.stays = gatherer[stay]{broker: b, limit: maxQueueLimit, single: true}
	keep := b.keepIn(in.queue)
	in.stays.do = func(ctx context.Context, f *flight, calls []*call[stay]) { ride(ctx, b, f, calls, false, keep) }
	return in
}

// start begins to receive.
func (in *intake) start() {
	in.polls.Add(1)
	in.pollers = 1
	in.broker.workers.Go(func() { in.poll(true) })
	in.broker.workers.Go(func() {
		in.polls.Wait()
		close(in.polled)
	})
	in.broker.workers.Go(in.keep)
	in.broker.workers.Go(func() { // since run may be in deliver, which waits for the lease to end
		select {
		case <-in.broker.closing:
			in.abandon()
		case <-in.gone:
		}
	})
}

// finish returns when nothing of the intake runs any more.
func (in *intake) finish() {
	in.halt()
	if !isClosed(in.gone) {
		close(in.gone)
	}
	<-in.polled
	<-in.keeper
}

// halt has nothing more received. It is run's goroutine's.
func (in *intake) halt() {
	if !isClosed(in.stop) {
		close(in.stop)
	}
}

// run hands out what comes until ctx ends, and then waits for what was accepted; or
// until it cannot go on.
func (in *intake) run(ctx context.Context, deliver messaging.Deliver) error {
	up := true
	for {
		events := in.events
		if in.sub.DeadLetters && len(in.shelf) > 0 {
			events = nil
		}
		select {
		case <-ctx.Done():
			in.drain()
			return nil
		case e := <-events:
			if e.err != nil {
				err := fmt.Errorf("sqs: subscription of %s to %s interrupted: %w", in.sub.Group, in.sub.Topic, told(e.err))
				if up && ctx.Err() == nil && in.sub.OnLost != nil {
					in.sub.OnLost(err)
				}
				if f := faultOf(e.err); f != nil && f.absent() && !in.sub.DeadLetters {
					return err // to make it again
				}
				if why := permanent(e.err); why != nil {
					return why
				}
				in.log.Warn("sqs: receiving failed, trying again", slog.Any("err", told(e.err)))
				up = false
				continue
			}
			if !up {
				up = true
				if in.sub.OnReady != nil {
					in.sub.OnReady()
				}
			}
			in.handAll(ctx, e.messages, deliver)
		case <-in.passed:
			in.passOn(ctx, deliver)
			in.unshelve(ctx, deliver)
		}
	}
}

// handAll hands out what has come, as far as it may be.
func (in *intake) handAll(ctx context.Context, all []*settler, deliver messaging.Deliver) {
	if in.sub.DeadLetters {
		in.shelf = all
		in.unshelve(ctx, deliver)
		return
	}
	for i, s := range all {
		if ctx.Err() != nil {
			in.giveBack(all[i:])
			return
		}
		in.take(ctx, s, deliver)
	}
}

// unshelve hands out dead letters, as many as Prefetch allows.
func (in *intake) unshelve(ctx context.Context, deliver messaging.Deliver) {
	for len(in.shelf) > 0 && ctx.Err() == nil {
		in.mu.Lock()
		full := in.accepted >= in.sub.Prefetch
		in.mu.Unlock()
		if full {
			return
		}
		s := in.shelf[0]
		in.shelf = in.shelf[1:]
		in.hand(ctx, s, deliver)
	}
}

// take hands s out, unless another of its ordering unit is in hand: then it waits
// behind that.
func (in *intake) take(ctx context.Context, s *settler, deliver messaging.Deliver) {
	if !in.ordered() {
		in.hand(ctx, s, deliver)
		return
	}
	behind, busy := in.units[s.d.group]
	if busy {
		in.units[s.d.group] = append(behind, s)
		return
	}
	in.units[s.d.group] = nil
	in.hand(ctx, s, deliver)
}

// ordered reports whether a message must be settled before the next of its group is
// handed out.
func (in *intake) ordered() bool { return in.broker.set.FIFO && !in.sub.DeadLetters }

// passOn hands out the next of each ordering unit whose first was settled. Where that
// one comes again, those behind it must come after it, and are given back.
func (in *intake) passOn(ctx context.Context, deliver messaging.Deliver) {
	in.mu.Lock()
	all := in.passings
	in.passings = nil
	in.mu.Unlock()
	for _, p := range all {
		behind := in.units[p.unit]
		if i := slices.IndexFunc(behind, func(s *settler) bool { return s.d.id == p.id }); i >= 0 {
			// It has come again already.
			in.giveBack(behind[:i])
			behind, p.on = behind[i:], true
		}
		switch {
		case len(behind) == 0:
			delete(in.units, p.unit)
		case !p.on || ctx.Err() != nil:
			delete(in.units, p.unit)
			in.giveBack(behind)
		default:
			in.units[p.unit] = behind[1:]
			in.hand(ctx, behind[0], deliver)
		}
	}
}

// hand gives one message to deliver, unless it was lost while it waited.
func (in *intake) hand(ctx context.Context, s *settler, deliver messaging.Deliver) {
	if !s.accept() {
		return
	}
	if err := deliver(s.lease, s.delivery(), s); err != nil {
		_ = s.Settle(s.lease, messaging.Verdict{Kind: messaging.Release})
		_ = pause(ctx, refusalPause)
	}
}

// drain gives back what was not handed out, and waits until all that was accepted is
// settled and nothing more can come.
func (in *intake) drain() {
	in.halt()
	for unit, behind := range in.units {
		in.giveBack(behind)
		in.units[unit] = nil
	}
	in.giveBack(in.shelf)
	in.shelf = nil
	polled := in.polled
	for {
		in.mu.Lock()
		open := len(in.open)
		in.mu.Unlock()
		if open == 0 && polled == nil {
			return
		}
		select {
		case e := <-in.events:
			in.giveBack(e.messages)
		case <-polled:
			polled = nil
		case <-in.idle:
		case <-in.broker.closing:
			return
		}
	}
}

// closed notes that s is done with; on says that the next of its ordering unit may be
// delivered.
func (in *intake) closed(s *settler, on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, ok := in.open[s]; !ok {
		return
	}
	delete(in.open, s)
	if s.accepted {
		in.accepted--
	}
	if !s.accepted || !in.sub.DeadLetters {
		in.room++
	}
	nudge(in.freed)
	if len(in.open) == 0 {
		nudge(in.idle)
	}
	if s.accepted && in.ordered() {
		in.passings = append(in.passings, passing{s.d.group, s.d.id, on})
	}
	if s.accepted && (in.ordered() || in.sub.DeadLetters) {
		nudge(in.passed)
	}
}
