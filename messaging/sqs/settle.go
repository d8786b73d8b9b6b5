package sqs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A settler ends one delivery. Its lease ends when SQS gives the message to others,
// by the clock of this process: a little before its visibility does.
type settler struct {
	in    *intake
	d     *received
	lease context.Context //nolint:containedctx // what deliver is called with
	end   context.CancelCauseFunc

	accepted bool // guarded by intake.mu

	mu    sync.Mutex
	state int         // guarded by mu; held, settled or lost
	timer *time.Timer // ends the lease
}

// The states of a settler. It leaves held once, and may go on from settled to lost
// when SQS says so.
const (
	held = iota
	settled
	lost
)

func newSettler(in *intake, d *received) *settler {
	s := &settler{in: in, d: d}
	s.lease, s.end = context.WithCancelCause(in.broker.base)
	visible := in.broker.set.Visibility
	s.timer = time.AfterFunc(visible-margin(visible), s.expire)
	return s
}

const (
	// longestStay is how long SQS keeps a message away that was received just now, less
	// what the answer takes.
	longestStay = maxVisibility - time.Minute
	// maxDelay bounds how long a Retry may wait: as long as SQS keeps a message, less a
	// day to handle it.
	maxDelay = 13 * 24 * time.Hour
)

// margin is how much earlier than the visibility a lease ends, for the time that the
// answer was on its way.
func margin(visible time.Duration) time.Duration { return min(visible/10, 2*time.Second) }

// expire ends the lease, unless the delivery is settled.
func (s *settler) expire() {
	if s.claim(lost) {
		if !s.wasAccepted() {
			s.in.broker.unseen.note(s.d.id)
		}
		s.in.closed(s, false)
	}
}

// claim takes s from held to a state, and reports whether it was held.
func (s *settler) claim(state int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != held {
		return false
	}
	s.state = state
	s.timer.Stop()
	if state == lost {
		s.end(messaging.ErrLost)
	}
	return true
}

// accept reports whether s may be handed out still.
func (s *settler) accept() bool {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if _, ok := s.in.open[s]; !ok {
		// It was lost while it waited: nobody will tell of it.
		if s.in.ordered() {
			s.in.passings = append(s.in.passings, passing{s.d.group, s.d.id, false})
			nudge(s.in.passed)
		}
		return false
	}
	s.accepted = true
	s.in.accepted++
	if s.in.sub.DeadLetters { // whose room is for those that wait
		s.in.room++
		nudge(s.in.freed)
	}
	return true
}

func (s *settler) wasAccepted() bool {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	return s.accepted
}

// delivery returns what a subscriber gets.
func (s *settler) delivery() *messaging.Delivery {
	d := s.d.delivery(s.in.sub)
	d.Attempt = max(1, d.Attempt-s.in.broker.unseen.of(s.d.id))
	return d
}

func (s *settler) is(state int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == state
}

// over returns what there is to say of a delivery that is not held any more.
func (s *settler) over() error {
	if s.is(settled) {
		return nil
	}
	return messaging.ErrLost
}

// Settle implements [messaging.Settler]. It returns when SQS has answered.
func (s *settler) Settle(ctx context.Context, v messaging.Verdict) error {
	if !s.in.broker.enter() {
		return s.over() // what was not settled was given back by Close
	}
	defer s.in.broker.calls.Done()
	if !s.claim(settled) {
		return s.over()
	}
	err := s.carryOut(ctx, v)
	if errors.Is(err, messaging.ErrLost) {
		s.mu.Lock()
		s.state = lost
		s.mu.Unlock()
	}
	s.end(messaging.ErrLost)
	s.in.closed(s, err == nil && (v.Kind == messaging.Ack || v.Kind == messaging.DeadLetter))
	return err
}

func (s *settler) carryOut(ctx context.Context, v messaging.Verdict) error {
	in := s.in
	switch v.Kind {
	case messaging.Ack:
		return s.remove(ctx)
	case messaging.Release:
		return s.stay(ctx, 0)
	case messaging.Retry:
		if in.sub.DeadLetters {
			e := successor(s.d, nil, s.d.id)
			if in.broker.set.FIFO {
				e.group = groupOf(&s.d.message)
			}
			if err := s.replace(ctx, in.layout.work.url, e); !errors.Is(err, messaging.ErrTooLarge) {
				return err
			}
			return s.replaceAsItCame(ctx, in.layout.work.url, e)
		}
		if v.After > s.within(v.After) && !in.broker.set.FIFO {
			err := s.replace(ctx, in.layout.work.url, s.later(v))
			if !errors.Is(err, messaging.ErrTooLarge) {
				return err
			}
			// There is no room for when it is due: it waits for as long as it can.
		}
		return s.stay(ctx, s.within(v.After))
	case messaging.DeadLetter:
		return s.bury(ctx, v)
	}
	_ = s.stay(ctx, 0)
	return fmt.Errorf("%w: verdict of unknown kind %d", messaging.ErrInvalid, v.Kind)
}

// later returns the successor of a message that is to wait for longer than SQS can
// keep it away. Whoever receives it before it is due puts it off again.
func (s *settler) later(v messaging.Verdict) entry {
	attempt := s.delivery().Attempt
	if !v.KeepAttempt {
		attempt++
	}
	return successor(s.d, map[string]string{
		headerWait: strconv.FormatInt(min(v.After, maxDelay).Milliseconds(), 10), headerAttempt: strconv.Itoa(attempt),
	}, "")
}

// bury moves the message to the dead letters. One that has no room for all that is to
// be said of it goes with less.
func (s *settler) bury(ctx context.Context, v messaging.Verdict) error {
	in := s.in
	d := s.delivery()
	why := d.Headers
	if maps.DeleteFunc(why, func(name, _ string) bool { return !isOfDeath(name, "") }); !in.sub.DeadLetters {
		why = messaging.DeadHeaders(d, v, time.Now())
	}
	var e entry
	for _, dispensable := range []string{"", messaging.HeaderDeadError, messaging.HeaderDeadTopic, messaging.HeaderDeadGroup, messaging.HeaderDeadTime, messaging.HeaderDeadAttempts, messaging.HeaderDeadReason} {
		delete(why, dispensable)
		e = successor(s.d, why, s.d.id)
		if in.broker.set.FIFO {
			e.group = e.once // none waits for another
		}
		if err := s.replace(ctx, in.layout.dead.url, e); !errors.Is(err, messaging.ErrTooLarge) {
			return err
		}
	}
	return s.replaceAsItCame(ctx, in.layout.dead.url, e)
}

// replaceAsItCame is replace for another program's message that has no room for the ID
// that SQS gave it. It gets a new one.
func (s *settler) replaceAsItCame(ctx context.Context, queue string, e entry) error {
	e.attributes = s.d.attributes
	return s.replace(ctx, queue, e)
}

// replace stores the successor of the message, and only then deletes it. A crash in
// between makes two of it, never none.
func (s *settler) replace(ctx context.Context, queue string, e entry) error {
	sender := s.in.broker.senders.get(s.in.broker, queue)
	c := newCall(e, e.group, e.size())
	sender.submit(c)
	if err := sender.wait(ctx, c); err != nil {
		return fmt.Errorf("sqs: settle: the message stays where it was, to be delivered again: %w", err)
	}
	return s.remove(ctx)
}

// remove deletes the message.
func (s *settler) remove(ctx context.Context) error {
	c := newCall(s.d.receipt, "", 0)
	s.in.deletes.submit(c)
	err := s.in.deletes.wait(ctx, c)
	if err == nil {
		s.in.broker.unseen.forget(s.d.id)
	}
	return err
}

// stay keeps the message from receivers for d from now.
func (s *settler) stay(ctx context.Context, d time.Duration) error {
	c := newCall(stay{s.d.receipt, d}, s.d.receipt, 0)
	s.in.stays.submit(c)
	return s.in.stays.wait(ctx, c)
}

// within returns d in whole seconds, as far as the 12 hours allow that SQS counts
// from the receive.
func (s *settler) within(d time.Duration) time.Duration {
	left := longestStay - time.Since(s.d.at)
	return max(0, min(d+time.Second-1, left)).Truncate(time.Second)
}

// Extend implements [messaging.Settler].
func (s *settler) Extend(ctx context.Context, d time.Duration) error {
	if !s.in.broker.enter() {
		return s.over()
	}
	defer s.in.broker.calls.Done()
	if !s.is(held) {
		return s.over()
	}
	d = s.within(d)
	if d == 0 {
		return fmt.Errorf("sqs: extend: SQS keeps no message from others for more than 12 hours: %w", messaging.ErrLost)
	}
	c := newCall(stay{s.d.receipt, d}, s.d.receipt, 0)
	began := time.Now()
	s.mu.Lock()
	if s.state != held {
		s.mu.Unlock()
		return s.over()
	}
	s.in.stays.submit(c) // under mu, so that what Settle asks for comes after it
	s.mu.Unlock()
	err := s.in.stays.wait(ctx, c)
	switch {
	case errors.Is(err, messaging.ErrLost):
		s.expire()
		return s.over()
	case err == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.state == held {
			s.timer.Reset(time.Until(began.Add(d - margin(d))))
		}
	}
	return err
}
