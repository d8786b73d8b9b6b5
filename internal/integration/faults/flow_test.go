package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

// The types of the messages of a flow say how its handlers treat them.
const (
	fine   = "Fine"   // handled at the first attempt
	flaky  = "Flaky"  // fails at the first attempt, and comes back at once
	late   = "Late"   // fails at the first attempt, and comes back after flowConfig.late
	later  = "Later"  // the same after flowConfig.later
	poison = "Poison" // fails for good, and becomes a dead letter
)

// soon is the delay of the first rung.
const soon = 100 * time.Millisecond

// errTry is what a handler fails with.
var errTry = errors.New("not this time")

// A server is the kind of broker that a flow goes over.
type server interface {
	// open returns a Broker of the flow that is closed when the test ends.
	open(f *flow, name string) messaging.Broker
	// dead calls more with the IDs of the group's dead letters, which stay there, and
	// with "" from time to time, until it reports false or patience ends.
	dead(g *group, more func(id string) bool)
	// empty waits until nothing of the group's is left but its dead letters.
	empty(g *group)
}

type flowConfig struct {
	server    server        // default RabbitMQ
	url       string        // of the node
	via       string        // address that the Brokers use in place of the node's
	late      time.Duration // delay of the second rung; default 10s
	later     time.Duration // delay of the third rung; default 20s
	heartbeat time.Duration // default 2s
}

// A flow is one topic, those who publish to it, and the record of what they
// published. Publishers and each group have a Broker of their own, as services
// would.
type flow struct {
	t     testing.TB
	cfg   flowConfig
	topic string
	out   messaging.Broker
	began time.Time

	mu        sync.Mutex
	changed   *sync.Cond      // on mu: the record, or that of a group, has changed
	confirmed []string        // IDs whose Publish returned nil, in that order; guarded by mu
	uncertain map[string]bool // IDs whose Publish returned an error; guarded by mu
	repeated  int             // errors after which a publisher tried again; guarded by mu
	flying    int             // messages in calls of Publish; guarded by mu
}

func newFlow(t testing.TB, cfg flowConfig) *flow {
	t.Helper()
	cfg.late = cmp.Or(cfg.late, 10*time.Second)
	cfg.later = cmp.Or(cfg.later, 20*time.Second)
	cfg.heartbeat = cmp.Or(cfg.heartbeat, 2*time.Second)
	cfg.via = cmp.Or(cfg.via, cfg.url)
	if cfg.server == nil {
		cfg.server = rabbit{}
	}
	f := &flow{t: t, cfg: cfg, topic: unique("t"), began: time.Now(), uncertain: map[string]bool{}}
	f.changed = sync.NewCond(&f.mu)
	f.out = cfg.server.open(f, "publisher")
	return f
}

// await waits until ok, which is called with mu held, reports true.
func (f *flow) await(bound time.Duration, what string, ok func() bool) bool {
	f.t.Helper()
	ctx := within(f.t, bound)
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changed.Broadcast()
	})
	defer stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !ok() {
		if ctx.Err() != nil {
			f.t.Errorf("not within %v: %s", bound, what)
			return false
		}
		f.changed.Wait()
	}
	return true
}

// note changes the record.
func (f *flow) note(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.changed.Broadcast()
}

// A load is what publishers do.
type load struct {
	n          int                  // messages, at least
	publishers int                  // default 16
	batch      int                  // messages in a call; default 10
	size       int                  // bytes of payload; default 4 KiB
	until      <-chan struct{}      // if set, they go on beyond n until it is closed
	pace       time.Duration        // pause of a publisher after each call
	typ        func(i int) string   // of message i; default mixed
	again      func(err error) bool // whether to publish the same message again; default never
}

// mixed has 2 dead letters and 48 retries in 100 messages: the more is on its way
// when a fault comes, the likelier would it be lost.
func mixed(i int) string {
	switch {
	case i%50 == 7:
		return poison
	case i%2 == 1:
		return flaky
	}
	return fine
}

func all(typ string) func(int) string { return func(int) string { return typ } }

// publish starts publishers, and returns a function that waits for their end. An
// error of Publish fails the test, unless it is one to publish again after: their
// contexts outlast every fault.
func (f *flow) publish(l load) (wait func()) {
	l.publishers = cmp.Or(l.publishers, 16)
	l.batch = cmp.Or(l.batch, 10)
	l.size = cmp.Or(l.size, 4<<10)
	if l.typ == nil {
		l.typ = mixed
	}
	batches := make(chan []messaging.Message)
	ctx := within(f.t, patience)
	var running sync.WaitGroup
	running.Go(func() {
		defer close(batches)
		for i := 0; i < l.n || l.until != nil && !isClosed(l.until); {
			var msgs []messaging.Message
			for range l.batch {
				msgs = append(msgs, messaging.NewMessage(l.typ(i), make([]byte, l.size)))
				i++
			}
			select {
			case batches <- msgs:
			case <-ctx.Done():
				return
			}
		}
	})
	for range l.publishers {
		running.Go(func() {
			for msgs := range batches {
				f.publishBatch(ctx, msgs, l.again)
				pause(ctx, l.pace)
			}
		})
	}
	return func() {
		f.t.Helper()
		running.Wait()
		if ctx.Err() != nil {
			f.t.Errorf("publishing has not ended within %v", patience)
		}
	}
}

// publishBatch publishes msgs until all are confirmed, or one fails for good.
func (f *flow) publishBatch(ctx context.Context, msgs []messaging.Message, again func(error) bool) {
	for len(msgs) > 0 {
		f.note(func() { f.flying += len(msgs) })
		err := f.out.Publish(ctx, f.topic, msgs...)
		errs := make([]error, len(msgs))
		if batch, ok := errors.AsType[*messaging.BatchError](err); ok {
			copy(errs, batch.Errs)
		}
		var rest []messaging.Message
		f.note(func() {
			f.flying -= len(msgs)
			for i, m := range msgs {
				if errs[i] == nil {
					f.confirmed = append(f.confirmed, m.ID)
					continue
				}
				f.uncertain[m.ID] = true
				if again != nil && again(errs[i]) && ctx.Err() == nil {
					f.repeated++
					rest = append(rest, m)
					continue
				}
				if f.t.Context().Err() == nil { // or the test is over
					f.t.Errorf("Publish() = %v, want nil: its context outlasts the fault", errs[i])
				}
			}
		})
		if msgs = rest; len(msgs) > 0 {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// amid waits until n messages are on their way to the broker.
func (f *flow) amid(n int) {
	f.t.Helper()
	f.await(patience, fmt.Sprintf("%d messages are on their way", n), func() bool { return f.flying >= n })
}

// reach waits until n messages are confirmed.
func (f *flow) reach(n int) {
	f.t.Helper()
	if !f.await(patience, fmt.Sprintf("%d messages confirmed", n), func() bool { return len(f.confirmed) >= n }) {
		f.t.FailNow()
	}
}
