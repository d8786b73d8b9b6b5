package rabbitmq

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// refusedPause is how long a delivery is kept back whose successor could not be
// stored, so that it does not spin between the broker and the consumer.
const refusedPause = time.Second

// A settler ends one delivery.
type settler struct {
	in      *intake
	d       amqp.Delivery
	attempt int
	state   atomic.Int32 // held, settled or lost
}

// The states of a settler. It leaves held once.
const (
	held int32 = iota
	settled
	lost
)

// Settle implements [messaging.Settler]. After the lease has ended it does
// nothing and returns [messaging.ErrLost]: on another channel the delivery's tag
// would be an error that closes it, and the broker has taken the message back
// anyway.
func (s *settler) Settle(ctx context.Context, v messaging.Verdict) error {
	to := settled
	if isClosed(s.in.gone) {
		to = lost
	}
	won := s.state.CompareAndSwap(held, to)
	if won {
		defer s.in.settled()
	}
	switch {
	case s.state.Load() == lost:
		return messaging.ErrLost
	case !won:
		return nil
	}
	b := s.in.broker
	switch v.Kind {
	case messaging.Ack:
		return s.tell(ack{s.d.DeliveryTag, false})
	case messaging.Release:
		return s.tell(ack{s.d.DeliveryTag, true})
	case messaging.Retry:
		attempt := s.attempt
		switch {
		case s.in.sub.DeadLetters:
			attempt = 1 // moved back, it was never tried
		case !v.KeepAttempt:
			attempt++
		}
		delay, rest := b.set.rung(v.After)
		return s.replace(ctx, b.set.toRung(s.in.queues, delay), again(&s.d, attempt, rest))
	case messaging.DeadLetter:
		p := still(&s.d)
		if !s.in.sub.DeadLetters {
			p = dead(&s.d, s.in.sub, v, s.attempt, time.Now())
		}
		return s.replace(ctx, b.set.toDead(s.in.queues), p)
	}
	s.in.send(ack{s.d.DeliveryTag, true})
	return fmt.Errorf("%w: verdict of unknown kind %d", messaging.ErrInvalid, v.Kind)
}

// tell passes a on to the broker, or returns [messaging.ErrLost].
func (s *settler) tell(a ack) error {
	if !s.in.send(a) {
		s.state.Store(lost)
		return messaging.ErrLost
	}
	return nil
}

// Extend implements [messaging.Settler]. RabbitMQ takes no message back while
// the channel lives, save after its consumer_timeout of 30 minutes, which no
// client can extend.
func (s *settler) Extend(context.Context, time.Duration) error { return nil }

// wait sends a delivery on to the next part of a delay that is longer than the
// longest rung.
func (s *settler) wait(lease context.Context, d time.Duration) {
	defer s.in.settled()
	delay, rest := s.in.broker.set.rung(d)
	_ = s.replace(lease, s.in.broker.set.toRung(s.in.queues, delay), again(&s.d, s.attempt, rest))
}

// replace stores the successor of the delivery, and only then acknowledges it. A
// crash in between makes two of it, never none.
func (s *settler) replace(ctx context.Context, to target, p amqp.Publishing) error {
	it := &item{msg: p}
	s.in.broker.publish(ctx, to, []*item{it})
	if it.err == nil {
		return s.tell(ack{s.d.DeliveryTag, false})
	}
	t := time.NewTimer(refusedPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.in.gone:
	case <-s.in.broker.closing:
	}
	s.in.send(ack{s.d.DeliveryTag, true})
	return fmt.Errorf("rabbitmq: settle: the message stays where it was, to be delivered again: %w", it.err)
}
