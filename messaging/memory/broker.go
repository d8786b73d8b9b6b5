package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A Config bounds what a [Broker] holds. The zero value is ready for use.
type Config struct {
	// MaxBacklog is how many messages a group holds that are not settled:
	// waiting, delayed and delivered ones together, 1 to 1,000,000. A Publish to
	// a group that is full waits. Default 10,000.
	MaxBacklog int
	// MaxDeadLetters is how many dead letters a group keeps. Beyond that, the
	// oldest is dropped of those that no subscriber has in hand. 1 to 1,000,000.
	// Default 10,000.
	MaxDeadLetters int
	// MaxPayload is the largest payload in bytes, at least 1. Default 1 MiB.
	MaxPayload int
	// Lease is how long a delivery may stay unsettled before it is taken back and
	// comes again, unless Extend asks for longer, which the Consumer does. Up to a
	// 32nd of it later is in time. At least 1ms, and not 0 where code is to be tested
	// that will run on a broker whose leases expire, such as SQS. Default 0, which
	// means never.
	Lease time.Duration
}

const (
	maxBound = 1_000_000
	// reserved begins the names of headers that are dropped on Publish.
	reserved = "msg-"
)

func (c Config) withDefaults() (Config, error) {
	var faults []string
	if c.MaxBacklog < 0 || c.MaxBacklog > maxBound {
		faults = append(faults, fmt.Sprintf("MaxBacklog %d is outside 1..%d", c.MaxBacklog, maxBound))
	}
	if c.MaxDeadLetters < 0 || c.MaxDeadLetters > maxBound {
		faults = append(faults, fmt.Sprintf("MaxDeadLetters %d is outside 1..%d", c.MaxDeadLetters, maxBound))
	}
	if c.MaxPayload < 0 {
		faults = append(faults, fmt.Sprintf("MaxPayload %d is negative", c.MaxPayload))
	}
	if c.Lease != 0 && c.Lease < time.Millisecond {
		faults = append(faults, fmt.Sprintf("Lease %v is below 1ms", c.Lease))
	}
	if faults != nil {
		return c, fmt.Errorf("memory: config: %s", strings.Join(faults, "; "))
	}
	if c.MaxBacklog == 0 {
		c.MaxBacklog = 10_000
	}
	if c.MaxDeadLetters == 0 {
		c.MaxDeadLetters = 10_000
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = 1 << 20
	}
	return c, nil
}

// A Broker is a [messaging.Broker] inside the process. All methods are safe for
// concurrent use.
type Broker struct {
	cfg     Config
	base    time.Time // what delays are measured from, by the monotonic clock
	closing chan struct{}
	calls   sync.WaitGroup // one for each running Publish and Subscribe

	mu     sync.RWMutex
	closed bool                            // guarded by mu
	groups map[string][]*group             // guarded by mu; by topic, in the order of their first Subscribe
	leases map[*subscriber]func(err error) // guarded by mu; ends the leases of each running Subscribe
}

// New returns a Broker without topics or groups. It starts nothing. The error
// says all that is wrong with cfg.
func New(cfg Config) (*Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Broker{
		cfg: cfg, base: time.Now(), closing: make(chan struct{}),
		groups: map[string][]*group{}, leases: map[*subscriber]func(error){},
	}, nil
}

// Promises states what the Broker guarantees: everything but durability.
func (b *Broker) Promises() messaging.Promises {
	return messaging.Promises{Ordered: true, Routed: true, Lease: b.cfg.Lease, MaxPayload: b.cfg.MaxPayload}
}

// Publish hands a copy of each message to every group of the topic, and returns
// nil when all have them. Where a group is full, it waits until a message of the
// group is settled, or ctx ends. A message goes to all groups or to none. The
// error is a [*messaging.BatchError] with, for each message, nil or one of:
//
//   - [messaging.ErrInvalid], [messaging.ErrTooLarge]: see [messaging.Check].
//   - [messaging.ErrUnroutable]: no group has ever subscribed to topic.
//   - [messaging.ErrRefused] and the cause of ctx: a group was full until ctx
//     ended.
//   - the cause of ctx alone: ctx had ended before.
//   - [messaging.ErrClosed].
//
// A handler that publishes to its own topic can wait for itself: give it a
// ConsumerConfig.Timeout.
func (b *Broker) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	var errs []error
	if err := messaging.Check(topic, b.cfg.MaxPayload, msgs); err != nil {
		batch, ok := errors.AsType[*messaging.BatchError](err)
		if !ok {
			return err
		}
		errs = batch.Errs
	}
	groups, refused := b.enter(topic)
	if refused == nil {
		defer b.calls.Done()
	}
	for i := range msgs {
		if errs != nil && errs[i] != nil {
			continue
		}
		err := refused
		if err == nil {
			err = b.store(ctx, groups, &msgs[i])
		}
		if err != nil {
			if errs == nil {
				errs = make([]error, len(msgs))
			}
			errs[i] = fmt.Errorf("memory: publish to %s: %w", topic, err)
		}
	}
	if errs != nil {
		return &messaging.BatchError{Errs: errs}
	}
	return nil
}

// enter begins a call of Publish, which ends with calls.Done, and returns the
// groups of the topic.
func (b *Broker) enter(topic string) ([]*group, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	groups := b.groups[topic]
	switch {
	case b.closed:
		return nil, messaging.ErrClosed
	case len(groups) == 0:
		return nil, messaging.ErrUnroutable
	}
	b.calls.Add(1)
	return groups, nil
}

// store puts a copy of m into every group, or into none.
func (b *Broker) store(ctx context.Context, groups []*group, m *messaging.Message) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// All publishers take the places in the same order of groups, so none waits
	// for another that waits for it.
	for i, g := range groups {
		if err := b.reserve(ctx, g); err != nil {
			for _, g := range groups[:i] {
				g.free()
			}
			return err
		}
	}
	c := m.Clone()
	maps.DeleteFunc(c.Headers, func(name, _ string) bool { return strings.HasPrefix(name, reserved) })
	c.Time = c.Time.Round(0) // a monotonic reading means nothing to a receiver
	for _, g := range groups {
		g.ready <- &entry{msg: c, attempt: 1} // the place that was reserved
	}
	return nil
}

// reserve takes a place in the backlog of g, waiting for one if it must.
func (b *Broker) reserve(ctx context.Context, g *group) error {
	select {
	case g.places <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the backlog of group %s holds %d messages: %w", messaging.ErrRefused, g.name, cap(g.places), context.Cause(ctx))
	case <-b.closing:
		return messaging.ErrClosed
	}
}

// DeadLetters returns copies of the messages that a group set aside, the oldest
// first, those that a subscriber has in hand included. Beside their own headers
// they carry those of [messaging.DeadHeaders]. It returns nil for a group that
// does not exist. Code that is to run on any broker uses [messaging.DeadLetters].
func (b *Broker) DeadLetters(topic, group string) []messaging.Message {
	b.mu.RLock()
	g := b.find(topic, group)
	b.mu.RUnlock()
	if g == nil {
		return nil
	}
	return g.dead.list()
}

// find returns a group, or nil when there is none. The caller holds mu.
func (b *Broker) find(topic, group string) *group {
	for _, g := range b.groups[topic] {
		if g.name == group {
			return g
		}
	}
	return nil
}

// Close ends every Publish that waits and every Subscribe with
// [messaging.ErrClosed], and the leases of what they delivered, and waits for
// them until ctx ends. What the groups hold is lost. It returns the cause of ctx
// when calls remain, such as a Subscribe whose deliver does not return. Only the
// first call does anything.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	leases := slices.Collect(maps.Values(b.leases))
	b.mu.Unlock()
	close(b.closing)
	for _, end := range leases {
		end(messaging.ErrLost)
	}
	done := make(chan struct{})
	go func() {
		b.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("memory: close: calls are still running: %w", context.Cause(ctx))
	}
}
