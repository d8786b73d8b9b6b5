package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

const (
	// maxInFlight bounds the bytes that wait for Kafka's answer, those of callers
	// who have left included. recordCost is added for each record.
	maxInFlight = 64 << 20
	recordCost  = 1 << 10
)

// An outgoing is a record on its way to Kafka, with room for its headers beside
// it, for fewer allocations.
type outgoing struct {
	rec    kgo.Record
	room   [8]kgo.RecordHeader // as many as a message has attributes
	landed atomic.Bool         // the client is done with rec; answer is set before
	answer error
	err    error // what the caller gets
}

func (o *outgoing) cost() int64 {
	n := recordCost + len(o.rec.Key) + len(o.rec.Value)
	for i := range o.rec.Headers {
		n += len(o.rec.Headers[i].Key) + len(o.rec.Headers[i].Value)
	}
	return int64(n)
}

// A flight is what waits for the answers to records that were handed to the
// client together.
type flight struct {
	left atomic.Int64
	done chan struct{}
}

func (f *flight) land(n int64) {
	if f.left.Add(-n) == 0 {
		close(f.done)
	}
}

// produce hands todo to the client, as often as it takes, and sets the err of
// each. f is for the first time.
//
// The client does not get ctx. It would give up, together with a record whose
// context has ended, all that wait for the same partition, whoever published
// them; and it cannot take back what is on its way. So a caller who leaves early
// leaves the record behind.
func (b *Broker) produce(ctx context.Context, topic string, todo []*outgoing, f *flight) {
	giveUp := func(err error) {
		for _, o := range todo {
			o.err = err
		}
	}
	if !b.enter() {
		giveUp(messaging.ErrClosed)
		return
	}
	defer b.calls.Done()
	for failures := 1; len(todo) > 0; failures++ {
		if err := b.ended(ctx); err != nil {
			giveUp(err)
			return
		}
		cl, err := b.client(ctx)
		if err != nil {
			giveUp(err)
			return
		}
		b.fly(ctx, cl, todo, f)
		var again []*outgoing
		for _, o := range todo {
			if !o.landed.Load() {
				o.err = fmt.Errorf("%w: %w", messaging.ErrNotConfirmed, b.ended(ctx))
				continue
			}
			var repeat bool
			if o.err, repeat = b.unpublished(topic, o.answer); repeat {
				again = append(again, o)
			}
		}
		if todo = again; len(todo) > 0 {
			b.cfg.Logger.Warn("kafka: messages go out again", slog.String("topic", topic), slog.Int("count", len(todo)), slog.Any("err", todo[0].err))
			_ = pause(ctx, b.closing, backoff(failures))
			f = new(flight)
		}
	}
}

// fly hands todo to the client, and returns when all have landed, or ctx or the
// Broker ends.
func (b *Broker) fly(ctx context.Context, cl *kgo.Client, todo []*outgoing, f *flight) {
	f.done = make(chan struct{})
	f.left.Store(int64(len(todo)))
	for i, o := range todo {
		o.landed.Store(false)
		cost := o.cost()
		if err := b.room.take(ctx, b.closing, cost); err != nil {
			for _, o := range todo[i:] {
				o.answer = err
				o.landed.Store(true)
			}
			f.land(int64(len(todo) - i))
			break
		}
		cl.Produce(context.Background(), &o.rec, func(_ *kgo.Record, err error) {
			b.room.give(cost)
			o.answer = err
			o.landed.Store(true)
			f.land(1)
		})
	}
	select {
	case <-f.done:
	case <-ctx.Done():
	case <-b.closing:
	}
}

// A quota is a number of bytes that several share.
type quota struct {
	mu      sync.Mutex
	free    int64           // guarded by mu
	waiting []chan struct{} // guarded by mu; closed when there may be room
}

// take waits until n are free, or takes all when that is less: one record that is
// larger than all must pass too.
func (q *quota) take(ctx context.Context, closing <-chan struct{}, n int64) error {
	for {
		q.mu.Lock()
		if q.free >= n || q.free == maxInFlight {
			q.free -= n
			q.mu.Unlock()
			return nil
		}
		room := make(chan struct{})
		q.waiting = append(q.waiting, room)
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-closing:
			return messaging.ErrClosed
		}
	}
}

func (q *quota) give(n int64) {
	q.mu.Lock()
	q.free += n
	waiting := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	for _, room := range waiting {
		close(room)
	}
}
