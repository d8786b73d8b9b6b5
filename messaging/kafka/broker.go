package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

var _ messaging.Broker = (*Broker)(nil)

// A Broker publishes to Kafka and consumes from it. It connects when first used,
// with one client for all publishing and one for each group that it subscribes.
// Its methods are safe for concurrent use. Close it to free its connections.
type Broker struct {
	cfg      Config
	out      *kgo.Client   // publishes and administers
	reached  atomic.Bool   // out has had an answer from a broker
	room     quota         // what out may hold
	parcels  sync.Pool     // of *parcel
	closing  chan struct{} // closed when Close begins
	troubles *troubles

	mu      sync.Mutex
	closed  bool               // guarded by mu
	members map[target]*member // guarded by mu; those that seats may join
	forgot  time.Time          // guarded by mu; when out was last told to forget a topic
	calls   sync.WaitGroup     // Add is guarded by mu
	workers sync.WaitGroup     // goroutines that outlive the call that started them
}

// A target is what a member consumes.
type target struct {
	topic, group string
	dead         bool
}

// New returns a Broker for the Kafka at config.Seeds, or an error that names all
// that is wrong with config. It connects to nothing.
func New(config Config) (*Broker, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, closing: make(chan struct{}), members: map[target]*member{}, troubles: newTroubles(cfg.Logger)}
	b.room.free.Store(maxInFlight)
	if b.out, err = kgo.NewClient(b.producer()...); err != nil {
		return nil, fmt.Errorf("kafka: config: %w", err)
	}
	return b, nil
}

// Promises states what Kafka guarantees under this layout. It is not Routed: Kafka
// stores what is published to a topic that exists, whether groups subscribe to it
// or not.
func (b *Broker) Promises() messaging.Promises {
	return messaging.Promises{Durable: true, Ordered: true, MaxPayload: b.cfg.MaxPayload}
}

// Publish sends msgs to topic and returns nil when Kafka has acknowledged all of
// them: each is stored by all brokers that are in sync. Otherwise it returns a
// [*messaging.BatchError] with, for each message, nil or one of:
//
//   - [messaging.ErrInvalid]: before the network.
//   - [messaging.ErrTooLarge]: before the network, or because max.message.bytes of
//     the topic is less than Config.MaxPayload.
//   - [messaging.ErrUnroutable]: there is no such topic, for nobody has subscribed
//     to it yet. With Config.Passive it is [messaging.ErrNotFound].
//   - [messaging.ErrRefused]: a broker answered that it does not store it.
//   - [messaging.ErrNotConfirmed] and the cause of ctx: it was on its way, and ctx
//     ended before the answer. It may have been stored, or may yet be, for 30s.
//   - the cause of ctx alone: it was not sent.
//   - [messaging.ErrDenied], [messaging.ErrClosed].
//
// A lost connection or leader is not an error while ctx lasts: the client sends
// again, and Kafka drops what it has already stored, so that it is there once and
// in order. Give ctx a deadline.
//
// Messages that are refused before the network do not keep back the others of
// the call. The messages of one call go out together, without waiting for one
// another: one call with many messages is much faster than many calls in a row.
func (b *Broker) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	if len(msgs) == 0 {
		return messaging.Check(topic, b.cfg.MaxPayload, nil)
	}
	errs := b.refuse(topic, msgs)
	one, ok := b.parcels.Get().(*parcel)
	if !ok {
		one = new(parcel)
	}
	sent, todo := one.sent[:], one.todo[:0]
	if len(msgs) > 1 {
		sent, todo = make([]outgoing, len(msgs)), make([]*outgoing, 0, len(msgs))
	}
	for i := range msgs {
		if errs == nil || errs[i] == nil {
			sent[i].encode(topic, &msgs[i], b.cfg.Source)
			todo = append(todo, &sent[i])
		}
	}
	back := b.produce(ctx, topic, todo, &one.flight)
	for i := range sent {
		if err := sent[i].err; err != nil {
			if errs == nil {
				errs = make([]error, len(msgs))
			}
			errs[i] = fmt.Errorf("kafka: publish to %s: %w", topic, err)
		}
	}
	if back {
		b.keep(one)
	}
	if errs != nil {
		return &messaging.BatchError{Errs: errs}
	}
	return nil
}

// refuse returns for each message why it cannot be published, or nil when all can.
func (b *Broker) refuse(topic string, msgs []messaging.Message) []error {
	if batch, ok := errors.AsType[*messaging.BatchError](messaging.Check(topic, b.cfg.MaxPayload, msgs)); ok {
		return batch.Errs
	}
	err := checkTopic(topic)
	if err == nil {
		return nil
	}
	errs := make([]error, len(msgs))
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// Close ends all Publish and Subscribe calls with [messaging.ErrClosed], waits
// for them, commits what was settled, leaves the groups and closes the
// connections. Deliveries that are not settled come again, to another subscriber.
// When ctx ends first, Close returns its cause, and the rest ends by itself. Only
// the first call does anything.
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
		b.workers.Wait()
		b.out.Close()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kafka: close: calls are still running: %w", context.Cause(ctx))
	}
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

func (b *Broker) isClosing() bool { return isClosed(b.closing) }

// ended returns why ctx or the Broker ended, or nil while both live.
func (b *Broker) ended(ctx context.Context) error {
	if b.isClosing() {
		return messaging.ErrClosed
	}
	return context.Cause(ctx)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
