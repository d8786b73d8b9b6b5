package messaging

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A ConsumerConfig says how a [Consumer] treats messages. The zero value is
// ready for use.
type ConsumerConfig struct {
	// Concurrency is how many handlers run at one time for each subscription, 1
	// to 10,000. Messages with the same Key never run at one time. More than the
	// subscription's Prefetch is of no use. Default 8.
	Concurrency int
	// MaxAttempts is how many times a message may fail before it is
	// dead-lettered. At least 1, which means no retry. Default 5.
	MaxAttempts int
	// Backoff returns the least delay before the attempt that follows the given
	// one, counted from 1. It is called by several goroutines at once. Default:
	// 1s after the first attempt and 4 times as long after each further one, at
	// most 10m, less up to half of it at random.
	Backoff func(attempt int) time.Duration
	// OrderedRetries keeps the order of each Key though a message fails: those
	// behind it, of its Key only, wait until it is handled or dead-lettered. Its
	// retries are then made in this process, after the same delays. That has a
	// price:
	//
	//   - The broker does not know of these attempts. When the process crashes or
	//     stops, the subscription is paused or the delivery lost, they are
	//     forgotten, and the message begins again at the attempt it came with. One
	//     that crashes the process is never dead-lettered.
	//   - What waits is unsettled and counts against Subscription.Prefetch: when as
	//     many are held back, the subscription stands still until a retry is due.
	//   - A Key waits as long as its first message: for all attempts, and for as long
	//     as RetryAfter says or errors with Rejected come. Delays that are longer than
	//     the broker lets a delivery be unsettled, 30 minutes on RabbitMQ, end with
	//     its loss and another beginning.
	//   - Each attempt is made on a copy of the message.
	//
	// What has no Key is retried by the broker, as without it. Default false:
	// messages behind a failing one pass it.
	OrderedRetries bool
	// Timeout is how long a handler may take for one attempt before its context
	// ends. It must be shorter than what the broker allows; RabbitMQ's default is
	// 30 minutes. Default 0, which means no limit.
	Timeout time.Duration
	// DrainTimeout is how long running handlers may go on after Run was told to
	// end, before their contexts end too. Default 30s.
	DrainTimeout time.Duration
	// Logger receives failed attempts, dead letters and what could not be
	// settled: IDs and errors, never payloads or headers. Default slog.Default().
	Logger *slog.Logger
	// OnSettle, if set, is called after each delivery was settled, and with
	// OrderedRetries after each attempt that is made again. It must be quick and not
	// panic, which ends the process, and is called by several goroutines at once.
	OnSettle func(Settled)
}

const maxConcurrency = 10_000

func (c ConsumerConfig) withDefaults() (ConsumerConfig, []string) {
	var faults []string
	if c.Concurrency < 0 || c.Concurrency > maxConcurrency {
		faults = append(faults, fmt.Sprintf("Concurrency %d is outside 1..%d", c.Concurrency, maxConcurrency))
	}
	if c.MaxAttempts < 0 {
		faults = append(faults, fmt.Sprintf("MaxAttempts %d is negative", c.MaxAttempts))
	}
	if c.Timeout < 0 {
		faults = append(faults, fmt.Sprintf("Timeout %v is negative", c.Timeout))
	}
	if c.DrainTimeout < 0 {
		faults = append(faults, fmt.Sprintf("DrainTimeout %v is negative", c.DrainTimeout))
	}
	if c.Concurrency == 0 {
		c.Concurrency = 8
	}
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 5
	}
	if c.Backoff == nil {
		c.Backoff = backoff
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, faults
}

// A Consumer receives messages from a [Broker], runs handlers for them, and
// settles each delivery by what its handler returned. Make one with
// [NewConsumer], add subscriptions with Handle, then call Run once. Its methods
// are safe for concurrent use.
type Consumer struct {
	broker Broker
	cfg    ConsumerConfig
	ready  chan struct{}

	mu      sync.Mutex
	subs    []*subscriber // guarded by mu
	faults  []string      // guarded by mu; what Run will report
	started bool          // guarded by mu
}

// NewConsumer returns a Consumer of b. It starts nothing. The error says all
// that is wrong with cfg, and is [ErrInvalid].
func NewConsumer(b Broker, cfg ConsumerConfig) (*Consumer, error) {
	cfg, faults := cfg.withDefaults()
	if isNil(b) {
		faults = append(faults, "the Broker is nil")
	}
	if faults != nil {
		return nil, fmt.Errorf("%w: consumer: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	return &Consumer{broker: b, cfg: cfg, ready: make(chan struct{})}, nil
}

func isNil(p Publisher) bool {
	v := reflect.ValueOf(p)
	return p == nil || v.Kind() == reflect.Pointer && v.IsNil()
}

// Handle adds a subscription, whose deliveries h handles within mw. Its faults
// are reported by Run, all at once: an invalid name, a nil handler, a group that
// is handled already, a subscription to DeadLetters. A call that comes after Run
// adds nothing but an entry in the log.
func (c *Consumer) Handle(sub Subscription, h Handler, mw ...Middleware) {
	sub, err := CheckSubscription(sub)
	if err == nil && sub.DeadLetters {
		err = fmt.Errorf("%w: group %q of topic %q: a Consumer handles no dead letters: look at them with DeadLetters, move them back with Redrive", ErrInvalid, sub.Group, sub.Topic)
	}
	if err == nil {
		h, err = wrap(h, mw)
	}
	if !c.add(sub, h, err) {
		c.cfg.Logger.Error("messaging: Handle was called after Run, to no effect", slog.String("topic", sub.Topic), slog.String("group", sub.Group))
	}
}

// add notes a subscription, or err, which is what is wrong with it. It reports
// false when it is too late for either.
func (c *Consumer) add(sub Subscription, h Handler, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		return false
	}
	if err == nil {
		for _, s := range c.subs {
			if s.sub.Topic == sub.Topic && s.sub.Group == sub.Group {
				err = fmt.Errorf("%w: group %q of topic %q has a handler already, and each would get half of the messages", ErrInvalid, sub.Group, sub.Topic)
			}
		}
	}
	if err != nil {
		c.faults = append(c.faults, strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
		return true
	}
	c.subs = append(c.subs, newSubscriber(&c.cfg, sub, h))
	return true
}

// wrap returns h within mw, the first outermost.
func wrap(h Handler, mw []Middleware) (Handler, error) {
	if h == nil {
		return nil, fmt.Errorf("%w: a handler is nil", ErrInvalid)
	}
	for i := len(mw) - 1; i >= 0; i-- {
		if mw[i] == nil {
			return nil, fmt.Errorf("%w: middleware %d of a handler is nil", ErrInvalid, i)
		}
		if h = mw[i](h); h == nil {
			return nil, fmt.Errorf("%w: middleware %d of a handler returned nil", ErrInvalid, i)
		}
	}
	return h, nil
}

// Ready returns a channel that is closed when every subscription has been
// established for the first time, save those that are paused, which it does not
// wait for: from then on no message is missed, and on brokers that refuse what no
// group would receive, Publish succeeds. A subscription that is paused before it
// was established has no group yet, where nobody else has declared it.
//
// It is never closed when Run ends before that, so wait for both:
//
//	ended := make(chan error, 1)
//	go func() { ended <- c.Run(ctx) }()
//	select {
//	case <-c.Ready():
//	case err := <-ended:
//		return err
//	}
func (c *Consumer) Ready() <-chan struct{} { return c.ready }

// Run subscribes, and handles messages until ctx ends. Then it takes in nothing
// more, gives back what no handler has begun with, and lets running handlers
// finish; those that take longer than DrainTimeout are told to end, and what
// they then fail at is given back too. Each verdict has 30 seconds to be carried
// out. All goroutines that Run starts have ended when it returns.
//
// It returns nil after a clean drain, and an error that is
//
//   - [ErrDrain] when the drain took longer than DrainTimeout;
//   - [ErrInvalid], with all faults of the calls of Handle, or when there was
//     none, or when Run is called a second time;
//   - what a Subscribe returned that ended for good, or that OnReady or OnLost
//     ended it by runtime.Goexit: the other subscriptions are drained, as if ctx
//     had ended.
func (c *Consumer) Run(ctx context.Context) error {
	subs, err := c.start()
	if err != nil {
		return err
	}
	intake, stop := context.WithCancel(ctx)
	defer stop()
	drain, expire := context.WithCancelCause(context.WithoutCancel(ctx))
	defer expire(nil)

	var missing atomic.Int64
	missing.Store(int64(len(subs)))
	errs := make([]error, len(subs))
	var running sync.WaitGroup
	for i, s := range subs {
		ready := sync.OnceFunc(func() {
			if missing.Add(-1) == 0 {
				close(c.ready)
			}
		})
		running.Go(func() { errs[i] = s.run(intake, drain, c.broker, ready, stop) })
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()

	<-intake.Done()
	t := time.NewTimer(c.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		expire(ErrDrain)
		<-done
		errs = append(errs, fmt.Errorf("%w: handlers were told to end after %v", ErrDrain, c.cfg.DrainTimeout))
	}
	return join(errs)
}

// join is errors.Join on one line.
func join(errs []error) error {
	var all error
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// start returns the subscriptions to run, once.
func (c *Consumer) start() ([]*subscriber, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	faults := c.faults
	if c.started {
		faults = append(faults, "Run was called before")
	}
	if len(c.subs) == 0 && len(faults) == 0 {
		faults = append(faults, "there is no subscription: call Handle before Run")
	}
	c.started = true
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: consumer: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	return c.subs, nil
}
