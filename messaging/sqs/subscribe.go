package sqs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/parley-go/parley/messaging"
)

const (
	// refusalPause keeps a message that nobody accepts from spinning.
	refusalPause = 100 * time.Millisecond
	// steady is how long a subscription must have stood for its failures to be
	// forgotten.
	steady = 30 * time.Second
	// releaseTimeout bounds what is done for deliveries that end with their
	// subscription.
	releaseTimeout = 5 * time.Second
)

// Subscribe makes the queues of s, where they do not exist yet, and calls deliver
// for one message after the other until ctx ends; then it gives back what was not
// handed out, and returns nil once every accepted delivery is settled and the
// requests that wait for messages have ended, after up to Config.Wait. While SQS
// cannot be reached it calls OnLost and tries again; what was accepted stays
// accepted, until its visibility ends. With s.DeadLetters it receives the dead letters
// of the group, and makes nothing.
//
// A group that is new becomes ready after some 7 seconds, when every publisher
// knows of it; with Config.Topics, at once.
//
// It returns at once an error that is [messaging.ErrInvalid], [messaging.ErrDenied]
// for wrong credentials or missing permissions, [messaging.ErrTopology] when a queue
// takes only smaller messages than Config.MessageLimit, [messaging.ErrNotFound] when
// one does not exist and Config.Passive is set, or when the group has never
// subscribed and its dead letters are asked for, and [messaging.ErrClosed] when the
// Broker is closed.
//
// Several subscribers of one group share its messages. FIFO queues keep the order of
// a Key among all of them.
func (b *Broker) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	s, err := messaging.CheckSubscription(s)
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
	for failures := 0; until.Err() == nil; failures++ {
		began := time.Now()
		err := b.consume(until, s, deliver, log)
		if until.Err() != nil {
			break
		}
		if why := permanent(err); why != nil {
			return fmt.Errorf("sqs: subscribe %s to %s: %w", s.Group, s.Topic, why)
		}
		log.Warn("sqs: subscription interrupted", slog.Any("err", told(err)))
		if time.Since(began) > steady {
			failures = 0
		}
		_ = pause(until, backoff(failures+1))
	}
	if isClosed(b.closing) {
		return messaging.ErrClosed
	}
	return nil
}

// consume has one intake from beginning to end. It returns why it ended before ctx
// did.
func (b *Broker) consume(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver, log *slog.Logger) error {
	asking, cancel := context.WithTimeoutCause(ctx, 2*answerTimeout, errSilent)
	defer cancel()
	var l layout
	var err error
	if s.DeadLetters {
		l, err = b.graveyard(asking, s)
	} else {
		l, err = b.ensure(asking, s)
	}
	if err == nil && !s.DeadLetters {
		err = b.announced(ctx, s, l)
	}
	if err != nil {
		return err
	}
	in := newIntake(b, s, l, log)
	complete := false
	// Also when deliver panics or calls runtime.Goexit.
	defer func() {
		if !complete {
			in.abandon()
		}
		in.finish()
	}()
	if s.OnReady != nil {
		s.OnReady()
	}
	in.start()
	err = in.run(ctx, deliver)
	complete = err == nil && !isClosed(b.closing)
	return err
}
