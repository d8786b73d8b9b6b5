package rabbitmq

import (
	"context"
	"sync"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
)

// An item is one message on its way out.
type item struct {
	key string // routing key, where the target has none
	msg amqp.Publishing
	err error // the outcome; the caller's alone

	returned atomic.Bool // the broker found no queue for it

	// The writer sets these under batch.mu.
	sent    bool  // at least in part, perhaps on an earlier connection
	seq     int64 // value of headerSeq
	confirm *amqp.DeferredConfirmation
}

// A batch is the items of one call, handed to the writer together.
type batch struct {
	to        target
	items     []*item
	redeclare bool          // to turned out not to exist
	written   chan struct{} // closed when the writer is done with the batch
	err       error         // why nothing of it was written; set before written is closed

	mu   sync.Mutex
	left bool // the caller has gone; guarded by mu
}

// leave tells the writer to leave what it has not sent.
func (c *batch) leave() {
	c.mu.Lock()
	c.left = true
	c.mu.Unlock()
}

// An outlet is one connection with the one confirming channel on which all calls
// publish. Its writer is the only goroutine that writes to it, so that a write
// which the broker holds up holds up no caller.
type outlet struct {
	*connection
	ch      *amqp.Channel
	batches chan *batch
	cause   *amqp.Error // why the channel closed, if the broker said; set before gone is closed

	ready map[string]bool // targets declared on this connection; the writer's alone
	seq   int64           // the writer's alone

	mu      sync.Mutex
	waiting map[int64]*item // sent and not yet answered, by headerSeq; guarded by mu
}

// maxReady bounds the memory that names of targets take; past it they are
// declared again.
const maxReady = 4096

func (b *Broker) openOutlet(ctx context.Context) (*outlet, error) {
	o := &outlet{batches: make(chan *batch), ready: map[string]bool{}, waiting: map[int64]*item{}}
	conn, err := b.dial(ctx, "publish", func(c *amqp.Connection) (err error) {
		if o.ch, err = c.Channel(); err != nil {
			return err
		}
		return o.ch.Confirm(false)
	})
	if err != nil {
		return nil, err
	}
	o.connection = conn
	closes := o.ch.NotifyClose(make(chan *amqp.Error, 1))
	returns, fence := o.ch.NotifyReturn(make(chan amqp.Return)), o.ch.NotifyReturn(make(chan amqp.Return))
	b.workers.Go(func() {
		if err := <-closes; err != nil {
			o.fail(err)
		}
		o.shut()
	})
	b.workers.Go(func() { o.mark(returns, fence) })
	b.workers.Go(o.write)
	return o, nil
}

// fail shuts the outlet and keeps why the broker closed the channel.
func (o *outlet) fail(err *amqp.Error) {
	o.once.Do(func() {
		o.cause = err
		close(o.gone)
	})
}

// mark notes which messages come back as unroutable. The broker returns a
// message before it confirms it, and amqp091 gives a return to one listener
// after the other, each over a channel without buffer: while mark has not taken
// it from the second, amqp091 cannot go on to the confirmation. So whoever sees
// the confirmation also sees the mark.
func (o *outlet) mark(returns, fence <-chan amqp.Return) {
	for r := range returns {
		seq, _ := r.Headers[headerSeq].(int64)
		o.mu.Lock()
		it := o.waiting[seq]
		o.mu.Unlock()
		if it != nil {
			it.returned.Store(true)
		}
		<-fence
	}
}

// write writes batches until the outlet is lost.
func (o *outlet) write() {
	for {
		select {
		case c := <-o.batches:
			o.writeBatch(c)
			close(c.written)
		case <-o.gone:
			return
		}
	}
}

func (o *outlet) writeBatch(c *batch) {
	if err := o.prepare(c.to, c.redeclare); err != nil {
		if c.err = refused(err); c.err == nil {
			o.shut()
		}
		return
	}
	for _, it := range c.items {
		if !o.register(c, it) {
			return
		}
		key := it.key
		if c.to.queue != "" {
			key = c.to.queue
		}
		confirm, err := o.ch.PublishWithDeferredConfirm(c.to.exchange, key, true, false, it.msg)
		if err != nil {
			o.shut()
			return
		}
		c.mu.Lock()
		it.confirm = confirm
		c.mu.Unlock()
	}
}

// register gives it a number by which mark finds it, unless the caller has left.
func (o *outlet) register(c *batch, it *item) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return false
	}
	it.sent = true
	o.seq++
	it.seq = o.seq
	it.msg.Headers[headerSeq] = it.seq
	o.mu.Lock()
	o.waiting[it.seq] = it
	o.mu.Unlock()
	return true
}

// forget drops items whose caller goes on.
func (o *outlet) forget(c *batch) {
	c.leave()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, it := range c.items {
		delete(o.waiting, it.seq)
	}
}

// prepare declares what to needs, once on each connection: something deleted
// meanwhile closes the channel (an exchange) or returns the message (a queue),
// and is declared again after that. A channel of its own keeps a refusal from
// the messages of others.
func (o *outlet) prepare(to target, redeclare bool) error {
	name := to.name()
	if o.ready[name] && !redeclare {
		return nil
	}
	ch, err := o.amqp.Channel()
	if err != nil {
		return err
	}
	if err = to.declare(ch); err != nil {
		return err
	}
	if len(o.ready) >= maxReady {
		clear(o.ready)
	}
	o.ready[name] = true
	return ch.Close()
}
