package sqs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

var _ messaging.Broker = (*Broker)(nil)

// A Broker publishes to SQS, or to SNS, and consumes from SQS. It asks nothing
// before it is used. Its methods are safe for concurrent use. Close it to end its
// goroutines.
type Broker struct {
	set     Config
	freshly time.Duration // how old what Publish knows of a topic's groups may be
	step    time.Duration // how far off the age of a queue may be

	routes  routes
	senders senders
	unseen  unseen

	base    context.Context //nolint:containedctx // the life of the Broker: ended when Close gives up waiting
	abandon context.CancelFunc
	closing chan struct{} // closed by Close
	workers sync.WaitGroup

	mu     sync.Mutex
	closed bool           // guarded by mu
	calls  sync.WaitGroup // Add is guarded by mu
}

// New returns a Broker. It sends nothing, and reports all that is wrong with cfg on
// one line.
func New(cfg Config) (*Broker, error) {
	set, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{set: set, freshly: freshly, step: clockStep, closing: make(chan struct{})}
	b.base, b.abandon = context.WithCancel(context.Background())
	return b, nil
}

// Promises states what SQS guarantees under this layout.
func (b *Broker) Promises() messaging.Promises {
	return messaging.Promises{
		Durable: true, Ordered: b.set.FIFO, Routed: true,
		Lease: b.set.Visibility, CountsRelease: true, MaxPayload: b.set.maxPayload(),
	}
}

// Close ends all Publish and Subscribe calls with [messaging.ErrClosed], and waits
// for them: up to Config.Wait for the requests that wait for messages. Deliveries
// that are not settled are given back. When ctx ends first, Close gives the
// requests up and returns its cause; what they still get from SQS stays away for
// Config.Visibility. Only the first call does anything.
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
		b.abandon()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	b.abandon()
	return fmt.Errorf("sqs: close: requests given up: %w", context.Cause(ctx))
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
