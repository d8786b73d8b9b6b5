package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	buf    []byte              // all bytes of rec, when encode made it
	land   func(*kgo.Record, error)
	taken  int64       // of the quota
	f      *flight     // which it is of
	landed atomic.Bool // the client is done with rec; answer is set before
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
	done chan struct{} // has room for the one word that all have landed
}

func (f *flight) land(n int64) {
	if f.left.Add(-n) == 0 {
		f.done <- struct{}{}
	}
}

// maxKept is the largest buffer that is kept for the next message.
const maxKept = 16 << 10

// A parcel is what a call with one message takes, all in one piece. It serves the
// next call once the client is done with it.
type parcel struct {
	sent [1]outgoing
	todo [1]*outgoing
	flight
}

// keep gives p to the next call. Nobody may have it any more.
func (b *Broker) keep(p *parcel) {
	o := &p.sent[0]
	o.rec, o.room = kgo.Record{}, [8]kgo.RecordHeader{}
	o.answer, o.err = nil, nil
	if cap(o.buf) > maxKept {
		o.buf = nil
	}
	b.parcels.Put(p)
}

// produce hands todo to the client, as often as it takes, and sets the err of
// each. f is for the first time. It reports whether nobody has any of it, nor f, any
// more.
//
// The client does not get ctx. It would give up, together with a record whose
// context has ended, all that wait for the same partition, whoever published
// them; and it cannot take back what is on its way. So a caller who leaves early
// leaves the record behind.
func (b *Broker) produce(ctx context.Context, topic string, todo []*outgoing, f *flight) (back bool) {
	giveUp := func(err error) {
		for _, o := range todo {
			if last := o.err; last != nil && !errors.Is(last, err) {
				o.err = fmt.Errorf("%w: the last attempt: %w", err, last)
				continue
			}
			o.err = err
		}
	}
	if !b.enter() {
		giveUp(messaging.ErrClosed)
		return true
	}
	defer b.calls.Done()
	back = true
	for failures := 1; len(todo) > 0; failures++ {
		if err := b.ended(ctx); err != nil {
			giveUp(err)
			return back
		}
		cl, err := b.client(ctx)
		if err != nil {
			giveUp(err)
			return back
		}
		back = b.fly(ctx, cl, todo, f) && back
		var again []*outgoing
		stored := false
		for _, o := range todo {
			if !o.landed.Load() {
				o.err = fmt.Errorf("%w: %w", messaging.ErrNotConfirmed, b.ended(ctx))
				continue
			}
			var repeat bool
			if o.err, repeat = b.unpublished(topic, o.answer); repeat {
				again = append(again, o)
			}
			stored = stored || o.err == nil
		}
		if stored && b.troubles.any.Load() > 0 {
			b.troubles.well(b.cfg.Logger, "publish "+topic, "kafka: messages get through again", slog.String("topic", topic))
		}
		if todo = again; len(todo) > 0 && b.ended(ctx) == nil {
			b.troubles.met(b.cfg.Logger, "publish "+topic, "kafka: messages go out again",
				slog.String("topic", topic), slog.Int("count", len(todo)), slog.Any("err", todo[0].err))
			_ = pause(ctx, b.closing, backoff(failures))
			f = new(flight)
		}
	}
	return back
}

// fly hands todo to the client, and returns when all have landed, which it reports,
// or ctx or the Broker ends.
func (b *Broker) fly(ctx context.Context, cl *kgo.Client, todo []*outgoing, f *flight) bool {
	if f.done == nil {
		f.done = make(chan struct{}, 1)
	}
	f.left.Store(int64(len(todo)))
	for i, o := range todo {
		o.landed.Store(false)
		o.f, o.taken = f, o.cost()
		if err := b.room.take(ctx, b.closing, o.taken); err != nil {
			for _, o := range todo[i:] {
				o.answer = err
				o.landed.Store(true)
			}
			f.land(int64(len(todo) - i))
			break
		}
		if o.land == nil {
			o.land = func(_ *kgo.Record, err error) {
				b.room.give(o.taken)
				f := o.f // o may serve another call as soon as f has the word
				o.answer = err
				o.landed.Store(true)
				f.land(1)
			}
		}
		o.rec.Timestamp = time.Time{} // the client sets it, and counts deliveryTimeout from it
		cl.Produce(context.Background(), &o.rec, o.land)
	}
	select {
	case <-f.done:
		return true
	case <-ctx.Done():
	case <-b.closing:
	}
	return false
}

// A quota is a number of bytes that several share, first come, first served.
type quota struct {
	free atomic.Int64 // of maxInFlight, less what is in use
	wait atomic.Int64 // how many are in line, so that give costs a load while none is

	mu   sync.Mutex
	line []*claim // guarded by mu
}

// A claim is somebody who waits for n bytes.
type claim struct {
	n    int64
	room chan struct{} // closed when they are taken
}

// try takes n when they are free, or all of them when n is more than there is: one
// record that is larger than all must pass too.
func (q *quota) try(n int64) bool {
	for {
		free := q.free.Load()
		if free < n && free != maxInFlight {
			return false
		}
		if q.free.CompareAndSwap(free, free-n) {
			return true
		}
	}
}

// take waits until n are taken, or ctx or the Broker ends, which is the error.
func (q *quota) take(ctx context.Context, closing <-chan struct{}, n int64) error {
	if q.wait.Load() == 0 && q.try(n) {
		return nil
	}
	c := &claim{n, make(chan struct{})}
	q.wait.Add(1) // before it is looked at what is free: who gives after that sees it
	q.mu.Lock()
	q.line = append(q.line, c)
	q.serve()
	q.mu.Unlock()
	var err error
	select {
	case <-c.room:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-closing:
		err = messaging.ErrClosed
	}
	q.mu.Lock()
	i := slices.Index(q.line, c)
	if i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		q.wait.Add(-1)
		q.serve() // whoever was behind it may need less
	}
	q.mu.Unlock()
	if i < 0 { // it was served meanwhile
		q.give(n)
	}
	return err
}

// give returns n.
func (q *quota) give(n int64) {
	q.free.Add(n)
	if q.wait.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.serve()
}

// serve takes what those at the head of the line wait for, as far as it goes. The
// caller holds mu.
func (q *quota) serve() {
	for len(q.line) > 0 && q.try(q.line[0].n) {
		close(q.line[0].room)
		q.line[0] = nil
		q.line = q.line[1:]
		q.wait.Add(-1)
	}
}
