package rabbitmq

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// An intake is one consumer on one channel.
type intake struct {
	broker *Broker
	sub    messaging.Subscription
	queues queues
	tag    string
	ch     channel

	closes     <-chan *amqp.Error
	cancels    <-chan string
	deliveries <-chan amqp.Delivery

	open atomic.Int64  // deliveries accepted and not settled
	idle chan struct{} // told each time that open drops to 0

	// acks holds verdicts on their way to the broker. It has room for all that
	// the broker lets be unacknowledged, so that to settle never waits.
	acks chan ack

	once    sync.Once
	cause   error         // why the intake was lost; set before gone is closed
	gone    chan struct{} // closed when no acknowledgement can reach the broker
	finish  chan struct{} // closed when no more acks come
	flushed chan struct{} // closed when all acks are with the broker, or the intake is lost
}

// fail notes that the intake is lost, and why.
func (in *intake) fail(err error) {
	in.once.Do(func() {
		in.cause = err
		close(in.gone)
	})
}

// run hands out deliveries until ctx ends, and then waits for those that were
// accepted; or until the intake is lost.
func (in *intake) run(ctx, lease context.Context, deliver messaging.Deliver) error {
	for {
		select {
		case <-ctx.Done():
			in.drain()
			return nil
		case <-in.gone:
			return in.cause
		case _, ok := <-in.cancels:
			if !ok {
				in.cancels = nil
				break
			}
			// Nothing else happens: the channel stays open, and silent.
			in.fail(errConsumerCancelled)
		case d, ok := <-in.deliveries:
			switch {
			case !ok:
				// The channel closed, or the broker cancelled the consumer, which
				// is told in another way too.
				in.deliveries = nil
			case ctx.Err() != nil:
				in.send(ack{d.DeliveryTag, true})
			case !in.hand(lease, d, deliver):
				in.pause(ctx)
			}
		}
	}
}

// hand gives one delivery to deliver, and reports whether it was accepted.
func (in *intake) hand(lease context.Context, d amqp.Delivery, deliver messaging.Deliver) bool {
	if in.sub.DeadLetters {
		explain(&d, in.sub)
	}
	msg, rest := decode(&d, in.sub.Topic, in.sub.Group)
	if in.sub.DeadLetters { // whatever is left of its delays and its attempts
		msg.Attempt, rest = 1, 0
	}
	s := &settler{in: in, d: d, attempt: msg.Attempt}
	in.open.Add(1)
	if rest > 0 { // it has a longer delay to wait than one rung can hold
		in.broker.workers.Go(func() { s.wait(lease, rest) })
		return true
	}
	if err := deliver(lease, msg, s); err != nil {
		_ = s.Settle(lease, messaging.Verdict{Kind: messaging.Release})
		return false
	}
	return true
}

// pause waits for a moment after a delivery was not accepted. The broker hands it
// out again at once, and would set it aside after deliveryLimit rounds.
func (in *intake) pause(ctx context.Context) {
	t := time.NewTimer(refusalPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-in.gone:
	}
}

// drain stops the consumer, gives back what was not handed out, and waits until
// all that was accepted is settled.
func (in *intake) drain() {
	in.broker.workers.Go(func() {
		// When it succeeds, deliveries end after those already here.
		if err := in.ch.conn.ask("cancel a consumer", func() error { return in.ch.Cancel(in.tag, false) }); err != nil {
			in.fail(err)
		}
	})
	for in.deliveries != nil {
		select {
		case d, ok := <-in.deliveries:
			if !ok {
				in.deliveries = nil
				break
			}
			in.send(ack{d.DeliveryTag, true})
		case <-in.gone:
			return
		}
	}
	for in.open.Load() > 0 {
		select {
		case <-in.idle:
		case <-in.gone:
			return
		case <-in.broker.closing:
			return
		}
	}
}

// settled counts a delivery as done with.
func (in *intake) settled() {
	if in.open.Add(-1) == 0 {
		select {
		case in.idle <- struct{}{}:
		default:
		}
	}
}

// send passes a on to the broker, or reports false when the intake is lost.
func (in *intake) send(a ack) bool {
	if isClosed(in.gone) { // a select between the two would choose by chance
		return false
	}
	select {
	case in.acks <- a:
		return true
	case <-in.gone:
		return false
	}
}

// release ends the intake and waits until it has ended.
func (in *intake) release() {
	close(in.finish)
	<-in.flushed
}
