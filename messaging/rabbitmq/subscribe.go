package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/uuid"
	"github.com/parley-go/parley/messaging"
)

const (
	// An acknowledgement that a quorum queue has not yet taken in when its
	// channel closes is dropped, and the message comes again. Nothing tells when
	// it has; a few round trips on the channel, spread out, give it the time.
	flushRounds = 10
	flushPause  = 20 * time.Millisecond
	// refusalPause keeps a message that nobody accepts from spinning.
	refusalPause = 100 * time.Millisecond
)

var errConsumerCancelled = errors.New("the broker cancelled the consumer: the queue was deleted or has failed")

// Subscribe declares the exchange and the queues of s, where they do not exist
// yet, and calls deliver for one message after the other until ctx ends; then it
// returns nil once every accepted delivery is settled. When the connection, the
// channel or the queue goes, it ends the leases of what was accepted, calls
// OnLost as soon as deliver has returned, and declares and consumes again. With
// s.DeadLetters it consumes the dead letters of the group, and declares nothing.
//
// It returns at once an error that is [messaging.ErrInvalid],
// [messaging.ErrDenied] for wrong credentials or missing permissions,
// [messaging.ErrTopology] when a queue or exchange exists with other settings,
// [messaging.ErrNotFound] when one does not exist and Config.Passive is set, or
// when the group has never subscribed and its dead letters are asked for,
// and [messaging.ErrClosed] when the Broker is closed.
//
// Several subscribers of one group, in one process or in many, share its
// messages. Order by Key then holds within each subscriber only: run one
// subscriber where it must hold for the whole group.
func (b *Broker) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	s, err := messaging.CheckSubscription(s)
	if err == nil {
		err = checkTopic(s.Topic)
	}
	if err == nil && deliver == nil {
		err = fmt.Errorf("%w: deliver is nil", messaging.ErrInvalid)
	}
	if err != nil {
		return err
	}
	if !b.enter() {
		return messaging.ErrClosed
	}
	defer b.calls.Done()
	until, cancel := b.untilClosed(ctx)
	defer cancel()
	log := b.set.Logger.With(slog.String("topic", s.Topic), slog.String("group", s.Group))
	failures := 0
	for until.Err() == nil {
		began := time.Now()
		err := b.consume(until, s, deliver)
		switch {
		case until.Err() != nil:
		case permanent(err):
			return fmt.Errorf("rabbitmq: subscribe %s to %s: %w", s.Group, s.Topic, err)
		default:
			log.Warn("rabbitmq: subscription interrupted", slog.Any("err", err))
			failures = failuresAfter(failures, time.Since(began))
			_ = pause(until, backoff(failures))
		}
	}
	if isClosed(b.closing) {
		return messaging.ErrClosed
	}
	return nil
}

// consume runs one intake from beginning to end. It returns why the intake ended
// before ctx did.
func (b *Broker) consume(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	conn, err := b.in.get(ctx)
	if err != nil {
		return err
	}
	in, err := b.openIntake(ctx, conn, s)
	if err != nil {
		if e := refused(err); e != nil {
			return e
		}
		return err
	}
	lease, end := context.WithCancelCause(context.WithoutCancel(ctx))
	b.workers.Go(func() {
		err := <-in.closes
		if err == nil {
			err = amqp.ErrClosed
		}
		in.fail(err)
	})
	b.workers.Go(func() {
		<-in.gone
		end(messaging.ErrLost)
	})
	b.workers.Go(func() { in.acknowledge(ctx.Done()) })
	if !s.DeadLetters {
		b.workers.Go(func() { in.keepBound(ctx) })
	}
	// Also when deliver panics or calls runtime.Goexit.
	defer in.release()
	if s.OnReady != nil {
		s.OnReady()
	}
	err = in.run(ctx, lease, deliver)
	if err != nil && ctx.Err() == nil && s.OnLost != nil {
		s.OnLost(fmt.Errorf("rabbitmq: subscription of %s to %s interrupted: %w", s.Group, s.Topic, err))
	}
	return err
}

// openIntake declares the group and starts consuming. amqp091 cannot be
// interrupted: when ctx ends first, what opens late is closed again.
func (b *Broker) openIntake(ctx context.Context, conn *connection, s messaging.Subscription) (*intake, error) {
	type opened struct {
		in  *intake
		err error
	}
	result := make(chan opened)
	b.workers.Go(func() {
		in, err := b.newIntake(conn, s)
		select {
		case result <- opened{in, err}:
		case <-ctx.Done():
			if err == nil {
				_ = in.ch.close()
			}
		}
	})
	select {
	case r := <-result:
		return r.in, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *Broker) newIntake(conn *connection, s messaging.Subscription) (*intake, error) {
	in := &intake{
		broker: b, sub: s, queues: queuesOf(s.Topic, s.Group), tag: "parley." + uuid.V7(),
		acks: make(chan ack, s.Prefetch), idle: make(chan struct{}, 1), gone: make(chan struct{}), finish: make(chan struct{}), flushed: make(chan struct{}),
	}
	var err error
	if in.ch, err = conn.open(); err != nil {
		return nil, err
	}
	in.closes = in.ch.NotifyClose(make(chan *amqp.Error, 1))
	in.cancels = in.ch.NotifyCancel(make(chan string, 1))
	queue := in.queues.work
	if s.DeadLetters {
		queue = in.queues.dead
	}
	if err = b.set.ensureGroup(in.ch, s, in.queues); err == nil {
		err = conn.ask("limit the unacknowledged", func() error { return in.ch.Qos(s.Prefetch, 0, false) })
	}
	if err == nil {
		err = conn.ask("consume from queue "+queue, func() (err error) {
			in.deliveries, err = in.ch.Consume(queue, in.tag, false, false, false, false, nil)
			return err
		})
	}
	if err != nil {
		_ = in.ch.close()
		return nil, err
	}
	return in, nil
}
