package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// An item is one message on its way out.
type item struct {
	key string // routing key, where the target has none
	msg amqp.Publishing
	err error // the outcome; the caller's alone

	returned atomic.Bool                               // the broker found no queue for it
	pending  atomic.Pointer[amqp.DeferredConfirmation] // confirm, for watchConfirms

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
	patient   bool          // see routes.interrupted
	astray    bool          // an item was; the caller's alone
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
	set     *settings
	ch      *amqp.Channel
	batches chan *batch
	cause   *amqp.Error // why the channel closed, if the broker said; set before gone is closed

	ready map[place]bool // what was seen to exist on this connection; the writer's alone
	seq   int64          // the writer's alone

	returns <-chan amqp.Return // what the broker returned; received under mu

	mu      sync.Mutex
	waiting map[int64]*item // sent and not yet answered, by headerSeq; guarded by mu
	room    time.Time       // when returns last had room; guarded by mu
	missed  bool            // a return may have been dropped; guarded by mu
}

const (
	// maxReturns is how many returned messages may wait to be marked.
	maxReturns = 256
	// maxFull is well below the 5 s after which amqp091 drops a return.
	maxFull = 2 * time.Second
)

// maxReady bounds the memory that names of targets take; past it they are
// declared again.
const maxReady = 4096

func (b *Broker) openOutlet(ctx context.Context) (*outlet, error) {
	o := &outlet{set: &b.set, batches: make(chan *batch), ready: map[place]bool{}, waiting: map[int64]*item{}}
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
	o.returns = o.ch.NotifyReturn(make(chan amqp.Return, maxReturns))
	news := o.ch.NotifyReturn(make(chan amqp.Return, maxReturns))
	b.workers.Go(func() {
		if err := <-closes; err != nil {
			o.fail(err)
		}
		o.shut()
	})
	b.workers.Go(func() {
		for range news { // so that returns are taken also when no one waits for a confirmation
			o.mark()
		}
	})
	b.workers.Go(o.write)
	b.workers.Go(o.watchConfirms)
	return o, nil
}

// fail shuts the outlet and keeps why the broker closed the channel.
func (o *outlet) fail(err *amqp.Error) {
	o.once.Do(func() {
		o.cause = err
		close(o.gone)
	})
}

// why returns cause, which has ended a call, and tells what held the call up.
func (o *outlet) why(cause error) error {
	if !o.blocked.Load() {
		return cause
	}
	return fmt.Errorf("%w (the broker blocks publishing: look at its alarms for memory and disk)", cause)
}

// mark notes which messages came back as unroutable, and reports whether it has
// seen all that came. The broker returns a message before it confirms it, and
// amqp091 puts the return into the channel before it goes on to the confirmation:
// so whoever sees a confirmation, and then calls mark, knows whether that message
// was returned. amqp091 waits at most 5 s for room in the channel, and then drops
// the return; so nothing is missing unless the channel was full when mark took
// from it, and may have been for as long as that.
func (o *outlet) mark() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		select { // never waits; under mu, so that no other mark has a return in its hand
		case r, ok := <-o.returns:
			if !ok {
				return !o.missed
			}
			if len(o.returns) >= cap(o.returns)-1 && time.Since(o.room) >= maxFull {
				o.missed = true
			}
			seq, _ := r.Headers[headerSeq].(int64)
			if it := o.waiting[seq]; it != nil {
				it.returned.Store(true)
			}
			o.room = time.Now()
		default:
			o.room = time.Now()
			return !o.missed
		}
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
	o.mark() // after a pause, to note that there is room
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
			if !o.ch.IsClosed() { // else the end of the channel follows, with its cause
				o.shut()
			}
			return
		}
		it.pending.Store(confirm)
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

// prepare makes sure that to exists, once on each connection: something deleted
// meanwhile closes the channel (an exchange) or returns the message (a queue), and
// is looked at again after that.
func (o *outlet) prepare(to target, redeclare bool) error {
	if o.ready[to.place] && !redeclare {
		return nil
	}
	if err := o.set.ensure(o.connection, to); err != nil {
		return err
	}
	if len(o.ready) >= maxReady {
		clear(o.ready)
	}
	o.ready[to.place] = true
	return nil
}
