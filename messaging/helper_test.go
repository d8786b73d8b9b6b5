package messaging_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

// A script is a Broker under the control of a test: it delivers what the test
// hands it, under leases that the test ends, and notes every Settle.
type script struct {
	messaging.Broker // nil: only Subscribe and Promises are called

	lease       time.Duration          // what it promises
	onPromises  func()                 // called by Promises, if set
	ready       bool                   // Subscribe calls OnReady
	onSubscribe func(ready func())     // called with OnReady otherwise
	sub         messaging.Subscription // what Subscribe was called with
	deliveries  chan *settler
	fail        chan error // ends Subscribe
	open        sync.WaitGroup
}

func newScript() *script {
	return &script{ready: true, deliveries: make(chan *settler), fail: make(chan error)}
}

// A settler is one scripted delivery.
type settler struct {
	d       messaging.Delivery
	lease   context.Context // default one that does not end
	err     error           // what Settle returns
	settled func()
	extend  func(time.Duration) error // what Extend does, if set

	extendCtx func(context.Context) error // the same
	settle    func(context.Context) error // what Settle does beside noting the verdict, if set

	mu       sync.Mutex
	verdicts []messaging.Verdict
}

func (s *settler) Settle(ctx context.Context, v messaging.Verdict) error {
	s.mu.Lock()
	s.verdicts = append(s.verdicts, v)
	s.mu.Unlock()
	if s.settle != nil {
		s.err = s.settle(ctx)
	}
	s.settled()
	return s.err
}

func (s *settler) Extend(ctx context.Context, d time.Duration) error {
	switch {
	case s.extendCtx != nil:
		return s.extendCtx(ctx)
	case s.extend != nil:
		return s.extend(d)
	}
	return nil
}

// verdict returns the one verdict, or fails the test.
func (s *settler) verdict(t *testing.T) messaging.Verdict {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.verdicts) != 1 {
		t.Fatalf("delivery %s was settled %d times: %v, want once", s.d.ID, len(s.verdicts), s.verdicts)
	}
	return s.verdicts[0]
}

func (s *script) Promises() messaging.Promises {
	if s.onPromises != nil {
		s.onPromises()
	}
	return messaging.Promises{Lease: s.lease}
}

func (s *script) Subscribe(ctx context.Context, sub messaging.Subscription, deliver messaging.Deliver) error {
	s.sub = sub
	if s.ready {
		sub.OnReady()
	} else {
		s.onSubscribe(sub.OnReady)
	}
	healthy := context.WithoutCancel(ctx)
	for {
		select {
		case d := <-s.deliveries:
			s.open.Add(1)
			d.settled = sync.OnceFunc(s.open.Done)
			lease := cmp.Or(d.lease, healthy)
			context.AfterFunc(lease, d.settled)
			if deliver(lease, &d.d, d) != nil {
				d.settled()
			}
		case err := <-s.fail:
			return err
		case <-ctx.Done():
			s.open.Wait()
			return nil
		}
	}
}

// pass lets time pass, and what is to happen by then, happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// deliver hands over d, and waits until nothing more happens.
func (s *script) deliver(d *settler) {
	s.deliveries <- d
	synctest.Wait()
}

func delivery(id string, attempt int) *settler {
	return &settler{d: messaging.Delivery{Message: messaging.Message{ID: id}, Attempt: attempt}}
}

// keyedDelivery is delivery with a key.
func keyedDelivery(key, id string) *settler {
	s := delivery(id, 1)
	s.d.Key = key
	return s
}

// under sets the lease of s.
func (s *settler) under(lease context.Context) *settler {
	s.lease = lease
	return s
}

// A running is a Consumer that runs until it is stopped.
type running struct {
	t     *testing.T
	c     *messaging.Consumer
	stop  context.CancelFunc
	ended chan error
}

// A handled is a subscription with its handler.
type handled struct {
	topic, group string
	h            messaging.Handler
}

// run makes a Consumer with the given subscriptions, starts it, and waits until
// it is ready.
func run(t *testing.T, b messaging.Broker, cfg messaging.ConsumerConfig, subs ...handled) *running {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := messaging.NewConsumer(b, cfg)
	if err != nil {
		t.Fatalf("NewConsumer() = %v, want nil", err)
	}
	for _, s := range subs {
		c.Handle(messaging.Subscription{Topic: s.topic, Group: s.group}, s.h)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{t: t, c: c, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- c.Run(ctx) }()
	select {
	case <-c.Ready():
	case err := <-r.ended:
		t.Fatalf("Run() = %v before it was ready", err)
	}
	return r
}

// end stops the Consumer and returns what Run returned.
func (r *running) end() error {
	r.stop()
	return <-r.ended
}

// runOne is run with one handler.
func runOne(t *testing.T, b messaging.Broker, cfg messaging.ConsumerConfig, h messaging.Handler) *running {
	t.Helper()
	return run(t, b, cfg, handled{"t", "g", h})
}

func newMemory(t *testing.T) *memory.Broker { return newLeasing(t, 0) }

// newLeasing returns a Broker whose leases expire.
func newLeasing(t *testing.T, lease time.Duration) *memory.Broker {
	t.Helper()
	b, err := memory.New(memory.Config{Lease: lease})
	if err != nil {
		t.Fatalf("memory.New() = %v, want nil", err)
	}
	return b
}

func publish(t *testing.T, b messaging.Publisher, msgs ...messaging.Message) {
	t.Helper()
	if err := b.Publish(t.Context(), "t", msgs...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
}

// A logbook is a log for tests to read.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// rejection and pushback are errors as other packages have them.
type rejection struct{ after time.Duration }

func (rejection) Error() string               { return "breaker is open" }
func (rejection) Rejected() bool              { return true }
func (r rejection) RetryAfter() time.Duration { return r.after }

type pushback time.Duration

func (pushback) Error() string               { return "too many requests" }
func (p pushback) RetryAfter() time.Duration { return time.Duration(p) }

var errFailed = errors.New("failed")
