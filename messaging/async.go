package messaging

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// An AsyncConfig bounds an [AsyncPublisher]. The zero value is ready for use.
type AsyncConfig struct {
	// MaxInFlight is how many messages may be in line or unconfirmed at one time,
	// 1 to 1,000,000. Publish waits for room beyond that. Memory is bounded by it,
	// times the size of a message. Default 1,000.
	MaxInFlight int
	// MaxBatch is how many messages of one topic go out in one call of the
	// publisher below, 1 to 10,000. Default 256.
	MaxBatch int
	// Timeout bounds each call of the publisher below: its messages fail that are
	// not confirmed by then. It is what an outage of the broker may last without
	// an error. Default 1m.
	Timeout time.Duration
	// DrainTimeout is how long Run goes on sending what is in line after it was
	// told to end. What is left then fails with [ErrDrain]. Default 30s.
	DrainTimeout time.Duration
}

func (c AsyncConfig) withDefaults() (AsyncConfig, []string) {
	var faults []string
	if c.MaxInFlight < 0 || c.MaxInFlight > 1_000_000 {
		faults = append(faults, fmt.Sprintf("MaxInFlight %d is outside 1..1000000", c.MaxInFlight))
	}
	if c.MaxBatch < 0 || c.MaxBatch > 10_000 {
		faults = append(faults, fmt.Sprintf("MaxBatch %d is outside 1..10000", c.MaxBatch))
	}
	if c.Timeout < 0 {
		faults = append(faults, fmt.Sprintf("Timeout %v is negative", c.Timeout))
	}
	if c.DrainTimeout < 0 {
		faults = append(faults, fmt.Sprintf("DrainTimeout %v is negative", c.DrainTimeout))
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1_000
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 256
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 30 * time.Second
	}
	return c, faults
}

// An AsyncPublisher publishes without making its callers wait for the broker's
// answer: a request handler that publishes a hundred events pays for one round
// trip and not for a hundred. While one batch of a topic is on its way, the next
// gathers, so batches grow with the load and are single messages without one.
//
// The messages of one topic go out in the order in which Publish took them, a
// batch when the one before has been answered; so those of one Key keep their
// order. Where one fails, those behind it go out all the same.
//
// What is in line is lost when the process ends without a drain. Use a
// [Publisher] itself, or an outbox, where the caller must know before it goes
// on. Make one with [NewAsyncPublisher]. Its methods are safe for concurrent use.
type AsyncPublisher struct {
	below Publisher
	cfg   AsyncConfig
	slots chan struct{} // one taken for each message in flight
	work  chan *asyncLane

	mu      sync.Mutex
	lanes   map[string]*asyncLane // guarded by mu; those with something in line, by topic
	started bool                  // guarded by mu
	stopped bool                  // guarded by mu
	idle    chan struct{}         // guarded by mu; closed when nothing is in flight; nil unless awaited
	flying  int                   // guarded by mu; how many are in flight
}

// An asyncLane is what is in line for one topic. It is in work, or in the hands
// of one goroutine, from its first message until it is empty.
type asyncLane struct {
	topic  string
	line   []asyncMessage // guarded by AsyncPublisher.mu
	untold []asyncOutcome // of the last batch; belongs to the goroutine that has the lane
}

type asyncMessage struct {
	m    Message
	done func(error)
}

type asyncOutcome struct {
	done func(error)
	err  error
}

// NewAsyncPublisher returns an AsyncPublisher that publishes through p. It starts
// nothing: messages wait in line until Run is called. The error says all that is
// wrong with cfg, and is [ErrInvalid].
func NewAsyncPublisher(p Publisher, cfg AsyncConfig) (*AsyncPublisher, error) {
	cfg, faults := cfg.withDefaults()
	if isNil(p) {
		faults = append(faults, "the Publisher is nil")
	}
	if faults != nil {
		return nil, fmt.Errorf("%w: async publisher: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	// A lane is in work once at most, and there are no more lanes than messages:
	// so a send to work never waits.
	return &AsyncPublisher{
		below: p, cfg: cfg, lanes: map[string]*asyncLane{},
		slots: make(chan struct{}, cfg.MaxInFlight), work: make(chan *asyncLane, cfg.MaxInFlight),
	}, nil
}

// Publish puts a copy of m in line for topic and returns nil. From then on, done
// is called exactly once with what became of it: nil when the broker has taken
// it, otherwise what the publisher below said of it, or [ErrDrain]. done is
// called by a goroutine of Run and must be quick: the next batch of the topic
// waits for it. So must it not wait for this AsyncPublisher, in Flush or for room in
// Publish, nor panic, which ends the process. A nil done is not called, and the
// outcome is then lost.
//
// While MaxInFlight messages are in flight Publish waits for room, until ctx
// ends: then it returns the cause of ctx. It returns [ErrClosed] once Run has
// been told to end. In both cases m was not taken and done is not called.
//
// ctx bounds this call only. The publisher below is called with the values of
// Run's context, so what m is to carry from ctx, such as a trace context, belongs
// in its headers before.
func (a *AsyncPublisher) Publish(ctx context.Context, topic string, m Message, done func(error)) error {
	if ctx.Err() != nil {
		return fmt.Errorf("messaging: publish to %s: %w", topic, context.Cause(ctx))
	}
	select {
	case a.slots <- struct{}{}:
	default:
		select {
		case a.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("messaging: publish to %s: %d messages are in flight: %w", topic, cap(a.slots), context.Cause(ctx))
		}
	}
	if !a.enqueue(topic, asyncMessage{m.Clone(), done}) {
		<-a.slots
		return fmt.Errorf("messaging: publish to %s: %w: Run of the AsyncPublisher has been told to end", topic, ErrClosed)
	}
	return nil
}

// enqueue reports false when it is too late.
func (a *AsyncPublisher) enqueue(topic string, m asyncMessage) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return false
	}
	a.flying++
	l := a.lanes[topic]
	if l == nil {
		l = &asyncLane{topic: topic}
		a.lanes[topic] = l
		a.work <- l
	}
	l.line = append(l.line, m)
	return true
}

// Flush returns nil when nothing is in flight: every done has returned, those of
// messages that other callers published meanwhile included. It returns the cause
// of ctx when that ends first.
func (a *AsyncPublisher) Flush(ctx context.Context) error {
	a.mu.Lock()
	if a.flying == 0 {
		a.mu.Unlock()
		return nil
	}
	if a.idle == nil {
		a.idle = make(chan struct{})
	}
	idle := a.idle
	a.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("messaging: flush: messages are in flight: %w", context.Cause(ctx))
	}
}

// Run sends what Publish puts in line until ctx ends. Then Publish takes no more,
// and Run sends what is in line for up to DrainTimeout. All goroutines that Run
// starts have ended, and all done functions have returned, when it returns: nil
// after a clean drain, otherwise an error that is [ErrDrain], or [ErrInvalid]
// when Run was called before.
func (a *AsyncPublisher) Run(ctx context.Context) error {
	if !a.start() {
		return fmt.Errorf("%w: async publisher: Run was called before", ErrInvalid)
	}
	sending, expire := context.WithCancelCause(context.WithoutCancel(ctx))
	defer expire(nil)
	var lanes sync.WaitGroup
	for open := true; open; {
		select {
		case l := <-a.work:
			lanes.Go(func() { a.send(sending, &lanes, l) })
		case <-ctx.Done():
			open = false
		}
	}
	a.stop()
	t := time.AfterFunc(a.cfg.DrainTimeout, func() { expire(ErrDrain) })
	defer t.Stop()
	for len(a.work) > 0 { // nobody adds any more
		l := <-a.work
		lanes.Go(func() { a.send(sending, &lanes, l) })
	}
	lanes.Wait()
	if sending.Err() != nil {
		return fmt.Errorf("%w: what was in line after %v has failed", ErrDrain, a.cfg.DrainTimeout)
	}
	return nil
}

// start reports whether it was called for the first time.
func (a *AsyncPublisher) start() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := !a.started
	a.started = true
	return first
}

func (a *AsyncPublisher) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
}

// send publishes what is in l, batch by batch, until it is empty.
func (a *AsyncPublisher) send(ctx context.Context, lanes *sync.WaitGroup, l *asyncLane) {
	complete := false
	defer func() {
		if !complete { // a done function ended this goroutine: the lane goes on in another
			lanes.Go(func() { a.send(ctx, lanes, l) })
		}
	}()
	for {
		for len(l.untold) > 0 {
			o := l.untold[0]
			l.untold = l.untold[1:]
			a.tell(o)
		}
		batch := a.take(l)
		if len(batch) == 0 {
			break
		}
		a.publish(ctx, l, batch)
	}
	complete = true
}

// take removes the next batch from l, or l itself when nothing is in line.
func (a *AsyncPublisher) take(l *asyncLane) []asyncMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(l.line), a.cfg.MaxBatch)
	if n == 0 {
		delete(a.lanes, l.topic)
		return nil
	}
	batch := l.line[:n:n]
	if l.line = l.line[n:]; len(l.line) == 0 {
		l.line = nil
	}
	return batch
}

// publish publishes batch and notes the outcome of each message. When the publisher
// below ends the goroutine, nobody knows what it has done.
func (a *AsyncPublisher) publish(ctx context.Context, l *asyncLane, batch []asyncMessage) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	msgs := make([]Message, len(batch))
	l.untold = make([]asyncOutcome, len(batch))
	for i, b := range batch {
		msgs[i], l.untold[i] = b.m, asyncOutcome{b.done, ErrNotConfirmed}
	}
	err := a.below.Publish(ctx, l.topic, msgs...)
	each, some := errors.AsType[*BatchError](err)
	some = some && len(each.Errs) == len(batch)
	for i := range l.untold {
		if l.untold[i].err = err; some {
			l.untold[i].err = each.Errs[i]
		}
	}
}

// tell ends a message, also when done panics or calls runtime.Goexit.
func (a *AsyncPublisher) tell(o asyncOutcome) {
	defer a.landed()
	if o.done != nil {
		o.done(o.err)
	}
}

// landed makes room for another message.
func (a *AsyncPublisher) landed() {
	a.mu.Lock()
	a.flying--
	if a.flying == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
	a.mu.Unlock()
	<-a.slots
}
