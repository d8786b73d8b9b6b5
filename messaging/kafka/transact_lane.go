package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// errGoexit is the failure of a handler that ended its goroutine.
var errGoexit = errors.New("kafka: the handler called runtime.Goexit")

// stuckPause is how long a message waits whose dead letter Kafka does not take. Each
// time that it is tried again costs its neighbours a transaction.
const stuckPause = 30 * time.Second

// A transactLane is a partition that Transact is assigned. Between batches it
// belongs to the loop, and within one to the goroutine that works on it.
type transactLane struct {
	partOf
	decoder
	hold time.Duration // for how long its records wait at most

	// Where the partition stands in Kafka. Guarded by transactor.mu until the first
	// record is there.
	done   []spanT // beyond the commit, known to be done: left by Subscribe
	unsure bool    // what is fetched first may have been in hand before
	begun  bool    // records have come
	doubt  int64   // up to which offset they may have been in hand

	queue  []*kgo.Record // polled, not committed
	filled time.Time     // when the last of queue came
	due    time.Time     // when queue[0] may be handled
	paused bool          // at the client

	taken int       // how many of queue the batch is done with
	outs  []fruit   // of those
	last  int32     // of the last of those
	tries failures  // of the record that is tried again
	nays  []refusal // of records whose outputs Kafka did not take
}

// A fruit is what goes to Kafka for a record that was handled.
type fruit struct {
	rec *kgo.Record
	of  int64 // its offset
}

// Failures counts the attempts of one record that have come to nothing here.
type failures struct {
	of int64
	n  int
}

// A refusal is why Kafka did not take the output of a record, or its dead letter.
type refusal struct {
	of   int64
	why  error
	dead bool
}

// open notes where the partition stands: at is -1 where nothing was committed.
func (l *transactLane) open(at int64, meta string) {
	var w window
	l.unsure = !w.open(at, meta)
	l.done = w.done
}

// fill takes polled records in.
func (l *transactLane) fill(f kgo.FetchPartition) {
	if len(f.Records) == 0 {
		return
	}
	if !l.begun && l.unsure {
		l.doubt = f.HighWatermark
	}
	l.begun = true
	l.filled = time.Now()
	l.queue = append(l.queue, f.Records...)
}

// settledBefore reports whether Subscribe was done with the record at off.
func (l *transactLane) settledBefore(off int64) bool {
	for _, s := range l.done {
		if s.from <= off && off < s.to {
			return true
		}
	}
	return false
}

// ready reports whether there is something to do at now.
func (l *transactLane) ready(now time.Time) bool { return len(l.queue) > 0 && !l.due.After(now) }

// rewind forgets what was polled: it comes again.
func (l *transactLane) rewind() {
	l.queue, l.due, l.taken, l.outs = nil, time.Time{}, 0, nil
}

// advance forgets what was committed.
func (l *transactLane) advance() {
	if l.taken == 0 {
		return
	}
	last := l.queue[l.taken-1].Offset
	l.done = slices.DeleteFunc(l.done, func(s spanT) bool { return s.to <= last+1 })
	l.queue = l.queue[l.taken:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	l.taken, l.outs = 0, nil
}

// A batch is what becomes one transaction.
type batch struct {
	ctx    context.Context //nolint:containedctx // of the handlers of one batch; ends when it is lost, or was not drained in time
	intake context.Context //nolint:containedctx // ends when no further record is to be begun
	room   atomic.Int64    // bytes that its outputs may take
}

// work handles what is in the lane, one by one, until the lane is empty, a record
// must wait, or the batch is full or ends.
func (x *transactor) work(b *batch, l *transactLane) {
	l.due = time.Time{}
	for l.taken < len(l.queue) && b.intake.Err() == nil && b.ctx.Err() == nil && b.room.Load() > 0 {
		rec := l.queue[l.taken]
		if !l.settledBefore(rec.Offset) && !x.handleOne(b, l, rec) {
			return
		}
		l.last = rec.LeaderEpoch
		l.taken++
	}
}

// handleOne reports whether the batch is done with rec.
func (x *transactor) handleOne(b *batch, l *transactLane, rec *kgo.Record) bool {
	if l.own {
		if at := due(rec, l.filled.Add(l.hold)); at.After(time.Now()) {
			l.due = at
			return false
		}
	}
	d := messaging.Delivery{Topic: x.t.Topic, Group: x.t.Group}
	if rest := l.decode(&d, rec); rest > 0 { // it has a longer delay to wait than one rung can hold
		delay, rest := x.b.cfg.rung(rest)
		l.add(b, rec, again(rec, x.n.rung(delay), d.Attempt, time.Now().Add(delay), rest))
		return true
	}
	nay := l.refused(rec.Offset)
	if nay.dead {
		x.log.Error("kafka: Kafka does not take a dead letter: its message stays, and holds up its partition",
			slog.String("id", d.ID), slog.String("from", l.topic), slog.Int("partition", int(l.num)), slog.Any("err", nay.why))
		l.due = time.Now().Add(stuckPause)
		return false
	}
	if l.tries.of != rec.Offset {
		l.tries = failures{of: rec.Offset}
	}
	d.Attempt += l.tries.n
	d.Redelivered = rec.Offset < l.doubt
	l.doubt = max(l.doubt, rec.Offset+1)
	id, attempt := d.ID, d.Attempt

	out := &output{x: x}
	verdict := x.attempt(b.ctx, out, &d, nay.why)
	if b.ctx.Err() != nil && (verdict.Kind != messaging.Ack || errors.Is(context.Cause(b.ctx), messaging.ErrLost)) {
		return false // whatever the error says, it may be our doing
	}
	log := x.log.With(slog.String("id", id), slog.Int("attempt", attempt))
	switch verdict.Kind {
	case messaging.Ack:
		l.add(b, rec, out.take()...)
		return true
	case messaging.DeadLetter:
		log.Error("kafka: message dead-lettered", slog.String("reason", verdict.Reason), slog.Any("err", verdict.Err))
		of := &messaging.Delivery{Topic: x.t.Topic, Group: x.t.Group, Attempt: attempt}
		l.add(b, rec, dead(rec, x.n.dead, messaging.DeadHeaders(of, verdict, time.Now())))
		return true
	case messaging.Retry, messaging.Release:
	}
	log.Warn("kafka: attempt failed", slog.Any("err", verdict.Err), slog.Duration("retry_after", verdict.After))
	if !verdict.KeepAttempt {
		l.tries.n++
	}
	l.due = time.Now().Add(verdict.After)
	return false
}

// add adds what goes to Kafka for rec.
func (l *transactLane) add(b *batch, rec *kgo.Record, outs ...*kgo.Record) {
	for _, out := range outs {
		l.outs = append(l.outs, fruit{out, rec.Offset})
		b.room.Add(-int64(weight(out)))
	}
}

// refused returns, once, what Kafka did not take of the record at off.
func (l *transactLane) refused(off int64) refusal {
	for i, r := range l.nays {
		if r.of == off {
			l.nays = slices.Delete(l.nays, i, i+1)
			return r
		}
	}
	return refusal{}
}

// attempt runs the handler and judges what it did. With a failure that is known
// beforehand, it only judges.
func (x *transactor) attempt(ctx context.Context, out *output, d *messaging.Delivery, failure error) (v messaging.Verdict) {
	attempt, id := d.Attempt, d.ID
	ended := make(chan struct{})
	// On a goroutine of its own, which the handler may end.
	go func() {
		defer close(ended)
		err := failure
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("kafka: the handler panicked: %v", p)
				if e, ok := p.(error); ok {
					err = fmt.Errorf("kafka: the handler panicked: %w", e)
				}
				x.log.Error("kafka: handler panicked", slog.String("id", id), slog.Any("err", err), slog.String("stack", string(debug.Stack())))
			}
			out.take()
			x.judge(&v, err, attempt)
		}()
		if failure == nil {
			err = errGoexit
			err = x.call(ctx, out, d)
		}
	}()
	<-ended
	return v
}

// call calls the handler, whose context ends with the call, or after the timeout.
func (x *transactor) call(ctx context.Context, out *output, d *messaging.Delivery) error {
	var cancel context.CancelFunc
	if x.t.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, x.t.Timeout, messaging.ErrTimeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	return x.handle(ctx, out, d)
}

// judge sets v to what becomes of err by the rules of every Consumer. The methods
// of err and Backoff are other people's code: when they panic or call
// runtime.Goexit, that is the failure, after which the default Backoff counts.
func (x *transactor) judge(v *messaging.Verdict, err error, attempt int) {
	cfg := messaging.ConsumerConfig{MaxAttempts: x.t.MaxAttempts}
	*v = cfg.Verdict(errGoexit, attempt)
	defer func() {
		if p := recover(); p != nil {
			failure := fmt.Errorf("kafka: the handler's error or Backoff panicked: %v", p)
			x.log.Error("kafka: handler's error or Backoff panicked", slog.Any("err", failure), slog.String("stack", string(debug.Stack())))
			*v = cfg.Verdict(failure, attempt)
		}
	}()
	own := cfg
	own.Backoff = x.t.Backoff
	*v = own.Verdict(err, attempt)
}
