package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
)

// errMoved is why a transaction is aborted whose partitions are not all this
// member's any more.
var errMoved = errors.New("partitions have moved")

// commit ends the batch of lanes as one transaction. An error means that the
// session has no future.
func (x *transactor) commit(intake context.Context, lanes []*transactLane) error {
	marks := map[partOf]*transactLane{}
	var outs []*kgo.Record
	of := map[*kgo.Record]source{}
	for _, l := range lanes {
		if l.taken > 0 {
			marks[l.partOf] = l
		}
		for _, f := range l.outs {
			outs = append(outs, f.rec)
			of[f.rec] = source{l, f.of}
		}
	}
	if len(marks) == 0 {
		return nil
	}
	// Not under intake: a commit that was cancelled may have been one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(intake), x.t.CommitTimeout)
	defer cancel()
	if err := x.s.Begin(); err != nil {
		return err
	}
	for _, r := range x.s.ProduceSync(ctx, outs...) {
		if r.Err == nil {
			continue
		}
		why, again := x.b.unpublished(r.Record.Topic, r.Err)
		if again || r.Record.Topic == x.n.dead {
			return errors.Join(fmt.Errorf("send to %s: %w", r.Record.Topic, why), x.rewind(intake))
		}
		// Not all that follows is its fault: Kafka refuses what comes after it too.
		if errors.Is(why, messaging.ErrTooLarge) || errors.Is(why, messaging.ErrInvalid) {
			why = messaging.Permanent(why)
		}
		from := of[r.Record]
		from.l.nays = append(from.l.nays, refusal{from.off, fmt.Errorf("kafka: publish to %s in a transaction: %w", r.Record.Topic, why)})
		x.log.Warn("kafka: transaction aborted: Kafka refuses an output, whose message has failed", slog.String("to", r.Record.Topic), slog.Any("err", why))
		x.forget(r.Record.Topic)
		return x.rewind(intake)
	}
	draining := intake.Err() != nil
	committed, err := x.s.End(kgo.PreTxnCommitFnContext(ctx, func(req *kmsg.TxnOffsetCommitRequest) error {
		return place(req, marks, draining)
	}), kgo.TryCommit)
	switch {
	case errors.Is(err, errMoved):
	case err != nil:
		return err
	case committed:
		for _, l := range lanes {
			l.advance()
		}
		return nil
	}
	x.log.Warn("kafka: transaction aborted by a rebalance: its messages are handled again", slog.Int("partitions", len(marks)))
	x.drop() // End has rewound the client
	return nil
}

// A source is where an output comes from.
type source struct {
	l   *transactLane
	off int64
}

// place has req commit what was handled, which may be less than what was polled, and
// nothing else.
func place(req *kmsg.TxnOffsetCommitRequest, marks map[partOf]*transactLane, draining bool) error {
	found := 0
	topics := req.Topics[:0]
	for _, t := range req.Topics {
		nums := t.Partitions[:0]
		for _, num := range t.Partitions {
			l := marks[partOf{t.Topic, num.Partition}]
			if l == nil {
				continue
			}
			found++
			waits := l.taken < len(l.queue)
			if waits {
				num.Offset, num.LeaderEpoch = l.queue[l.taken].Offset, l.last
			}
			// For the next member, of Subscribe or of Transact: what is done beyond
			// the mark, and whether what follows may have been handled before.
			w := window{next: num.Offset, done: l.done}
			meta := w.metadata(draining && !waits)
			num.Metadata = &meta
			nums = append(nums, num)
		}
		if t.Partitions = nums; len(nums) > 0 {
			topics = append(topics, t)
		}
	}
	req.Topics = topics
	if found < len(marks) {
		return errMoved
	}
	return nil
}

// rewind aborts what is open, and begins again at what is committed.
func (x *transactor) rewind(intake context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(intake), x.t.CommitTimeout)
	defer cancel()
	_, err := x.s.End(ctx, kgo.TryAbort)
	x.drop()
	return err
}

// drop forgets all that was polled.
func (x *transactor) drop() {
	x.mu.Lock()
	for _, l := range x.lanes {
		l.rewind()
	}
	x.mu.Unlock()
	x.balance()
}

// forget has the existence of a topic asked for again.
func (x *transactor) forget(topic string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.known, topic)
}
