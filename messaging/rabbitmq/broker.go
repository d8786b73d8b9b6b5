package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// maxPayload is what RabbitMQ 4 takes by default; 3.x takes more.
const maxPayload = 16 << 20

var _ messaging.Broker = (*Broker)(nil)

// A Broker publishes to RabbitMQ and consumes from it. It connects when first
// used, once for all publishing and once for all consuming, so that a broker
// which holds up publishers does not hold up acknowledgements. Its methods are
// safe for concurrent use. Close it to free its connections.
type Broker struct {
	set     settings
	out     link[*outlet]     // all publishing
	in      link[*connection] // all consuming
	closing chan struct{}     // closed when Close begins
	answer  time.Duration     // how long RabbitMQ has to answer a request
	astray  time.Duration     // how long a route that leads nowhere is tried
	routes  routes

	mu      sync.Mutex
	closed  bool           // guarded by mu
	calls   sync.WaitGroup // Add is guarded by mu
	workers sync.WaitGroup // goroutines that outlive the call that started them
}

// New returns a Broker for the RabbitMQ at config.URL, or an error that names
// all that is wrong with config. It connects to nothing.
func New(config Config) (*Broker, error) {
	set, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{set: set, closing: make(chan struct{}), answer: answerTimeout, astray: astrayFor}
	b.out = link[*outlet]{broker: b, what: "publish", open: b.openOutlet}
	b.in = link[*connection]{broker: b, what: "consume", open: func(ctx context.Context) (*connection, error) {
		return b.dial(ctx, "consume", func(*amqp.Connection) error { return nil })
	}}
	return b, nil
}

// Promises states what RabbitMQ guarantees under this layout.
func (b *Broker) Promises() messaging.Promises {
	return messaging.Promises{Durable: true, Ordered: true, Routed: true, MaxPayload: maxPayload}
}

// Publish sends msgs to topic and returns nil when RabbitMQ has confirmed all of
// them: each is stored on disk by every group's queue, for quorum queues on a
// majority of its nodes. Otherwise it returns a [*messaging.BatchError] with,
// for each message, nil or one of:
//
//   - [messaging.ErrInvalid], [messaging.ErrTooLarge]: before the network.
//   - [messaging.ErrUnroutable]: no group has ever subscribed to topic, or all
//     that had are gone for 30s.
//   - [messaging.ErrRefused]: a queue is full or has failed.
//   - [messaging.ErrNotConfirmed] and the cause of ctx: it was sent, and ctx
//     ended before the answer. It may have been stored.
//   - the cause of ctx alone: it was not sent.
//   - [messaging.ErrDenied], [messaging.ErrTopology], [messaging.ErrClosed].
//   - [messaging.ErrNotFound]: there is no exchange of that name, and
//     Config.Passive is set.
//
// A lost connection is not an error while ctx lasts: what was not confirmed is
// sent again on the next connection, with the same ID, so that groups may
// receive it twice. Give ctx a deadline; a broker short of memory or disk holds
// publishers up until it has room again.
//
// Messages that are refused before the network do not keep back the others of
// the call. The messages of one call go out together, without waiting for one another's
// confirmation: one call with many messages is much faster than many calls in a
// row.
func (b *Broker) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	if len(msgs) == 0 {
		return messaging.Check(topic, maxPayload, nil)
	}
	errs := refuse(topic, msgs)
	items := make([]item, len(msgs))
	todo := make([]*item, 0, len(msgs))
	for i := range msgs {
		if errs == nil || errs[i] == nil {
			items[i].key, items[i].msg = routingKey(&msgs[i]), encode(&msgs[i], b.set.Source)
			todo = append(todo, &items[i])
		}
	}
	b.publish(ctx, toTopic(topic), todo)
	for i := range items {
		if err := items[i].err; err != nil {
			if errs == nil {
				errs = make([]error, len(msgs))
			}
			errs[i] = fmt.Errorf("rabbitmq: publish: %w", err)
		}
	}
	if errs != nil {
		return &messaging.BatchError{Errs: errs}
	}
	return nil
}

// refuse returns for each message why it cannot be published, or nil when all can.
func refuse(topic string, msgs []messaging.Message) []error {
	var errs []error
	if batch, ok := errors.AsType[*messaging.BatchError](messaging.Check(topic, maxPayload, msgs)); ok {
		errs = batch.Errs
	}
	for i := range msgs {
		if errs != nil && errs[i] != nil {
			continue
		}
		if err := check(topic, &msgs[i]); err != nil {
			if errs == nil {
				errs = make([]error, len(msgs))
			}
			errs[i] = err
		}
	}
	return errs
}

// Close ends all Publish and Subscribe calls with [messaging.ErrClosed], waits
// for them, and closes the connections. Deliveries that are not settled come
// again, to another subscriber. When ctx ends first, Close cuts the connections
// and returns its cause. Only the first call does anything.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	close(b.closing)

	done := make(chan struct{})
	go func() {
		defer close(done)
		b.calls.Wait()
		if s, ok := b.out.last(); ok {
			s.shut()
		}
		if s, ok := b.in.last(); ok {
			s.shut()
		}
		b.workers.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	if s, ok := b.out.last(); ok {
		s.cut()
	}
	if s, ok := b.in.last(); ok {
		s.cut()
	}
	return fmt.Errorf("rabbitmq: close: connections cut: %w", context.Cause(ctx))
}

// enter begins a call that Close waits for, and reports false once closed. Only
// such calls, and what they started, use workers.Go.
func (b *Broker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.calls.Add(1)
	return true
}

// untilClosed returns a context that ends with ctx, and with Close.
func (b *Broker) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	b.workers.Go(func() {
		select {
		case <-b.closing:
			cancel(messaging.ErrClosed)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil) }
}
