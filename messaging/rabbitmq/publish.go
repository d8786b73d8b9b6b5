package rabbitmq

import (
	"context"
	"fmt"

	"github.com/parley-go/parley/messaging"
)

// publish sends items to to, over as many connections as it takes, and sets the
// err of each.
func (b *Broker) publish(ctx context.Context, to target, items []*item) {
	todo := items
	if !b.enter() {
		giveUp(todo, messaging.ErrClosed)
		return
	}
	defer b.calls.Done()
	redeclare := false
	var outage detour
	for len(todo) > 0 {
		if err := b.ended(ctx); err != nil {
			giveUp(todo, outage.why(err))
			return
		}
		o, err := b.out.get(ctx)
		if err != nil {
			giveUp(todo, err)
			return
		}
		c := &batch{to: to, items: todo, redeclare: redeclare, patient: outage.patient(b.astray), written: make(chan struct{})}
		todo = b.submit(ctx, o, c)
		redeclare = c.redeclare
		outage.rest(ctx, c.astray)
	}
}

// submit sends c through o, waits for the outcomes, and returns the items to
// send again.
func (b *Broker) submit(ctx context.Context, o *outlet, c *batch) (again []*item) {
	for _, it := range c.items { // what they had from an earlier connection means nothing to o
		it.seq, it.confirm = 0, nil
		it.returned.Store(false)
		it.pending.Store(nil)
	}
	select {
	case o.batches <- c:
	case <-o.gone:
		return c.items
	case <-ctx.Done():
		giveUp(c.items, o.why(context.Cause(ctx)))
		return nil
	case <-b.closing:
		giveUp(c.items, messaging.ErrClosed)
		return nil
	}
	defer o.forget(c)
	select {
	case <-c.written:
		if c.err != nil {
			giveUp(c.items, c.err)
			return nil
		}
	case <-ctx.Done():
		c.leave()
	case <-b.closing:
		c.leave()
	}
	redeclared := c.redeclare
	for _, it := range c.items {
		switch repeat, err := b.outcome(ctx, o, c, it); {
		case repeat:
			again = append(again, it)
		case err == nil && it.returned.Load() && c.to.queue != "" && !redeclared:
			// The queue was there when this connection declared it.
			c.redeclare = true
			again = append(again, it)
		case err == nil && it.returned.Load():
			if b.routes.interrupted(c, it) {
				again = append(again, it)
				break
			}
			it.err = messaging.ErrUnroutable
		default:
			if it.err = err; err == nil {
				b.routes.learn(c, it)
			}
		}
	}
	return again
}

// outcome waits until the broker has answered about it. repeat means that it, or
// the answer, was lost with the connection.
func (b *Broker) outcome(ctx context.Context, o *outlet, c *batch, it *item) (repeat bool, err error) {
	c.mu.Lock()
	sent, confirm := it.sent, it.confirm
	c.mu.Unlock()
	if confirm == nil {
		if cause := b.ended(ctx); cause != nil {
			return false, unpublished(sent, o.why(cause))
		}
		// The writer has stopped before it, for the same cause as ended the others: a
		// target that refuses all is told of all at once.
		select {
		case <-o.gone:
		case <-ctx.Done():
			return false, unpublished(sent, o.why(context.Cause(ctx)))
		case <-b.closing:
			return false, unpublished(sent, messaging.ErrClosed)
		}
		err = blame(o.cause, c.to.exchange, len(it.msg.Body))
		return err == nil, err
	}
	if !isClosed(confirm.Done()) {
		select {
		case <-confirm.Done():
		case <-ctx.Done():
			return false, unpublished(true, o.why(context.Cause(ctx)))
		case <-b.closing:
			return false, unpublished(true, messaging.ErrClosed)
		}
	}
	switch {
	case confirm.Acked() && o.mark():
		return false, nil
	case confirm.Acked():
		// Nobody knows whether it was returned: it goes out again.
		if !isClosed(o.gone) {
			o.log.Warn("rabbitmq: returned messages were not taken in time: the connection is given up")
		}
		o.shut()
		return true, nil
	case !o.ch.IsClosed():
		return false, messaging.ErrRefused
	}
	// amqp091 answers "no" for all that a closing channel leaves open. The cause
	// follows at once.
	<-o.gone
	err = blame(o.cause, c.to.exchange, len(it.msg.Body))
	return err == nil, err
}

// giveUp ends items with err, which is why they cannot be sent (again).
func giveUp(items []*item, err error) {
	for _, it := range items {
		it.err = unpublished(it.sent, err)
	}
}

// unpublished is the error of a message that was not confirmed when err ended the
// call.
func unpublished(sent bool, err error) error {
	if sent {
		return fmt.Errorf("%w: %w", messaging.ErrNotConfirmed, err)
	}
	return err
}
