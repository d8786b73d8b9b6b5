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
	committed, err := x.s.End(kgo.PreTxnCommitFnContext(ctx, func(req *kmsg.TxnOffsetCommitRequest) error {
		return place(req, marks)
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
func place(req *kmsg.TxnOffsetCommitRequest, marks map[partOf]*transactLane) error {
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
			if l.taken < len(l.queue) {
				num.Offset, num.LeaderEpoch = l.queue[l.taken].Offset, l.last
			}
			num.Metadata = l.metadata(num.Offset, false)
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

// metadata returns what to commit beside the offset at, for the next member, of
// Subscribe or of Transact: what is done beyond it, and whether what follows may
// have been handled before.
func (l *transactLane) metadata(at int64, clean bool) *string {
	w := window{next: at, done: l.done}
	meta := w.metadata(clean)
	return &meta
}

// signOff notes, where it is so, that nothing beyond what is committed was in hand,
// so that the next member need not take it for redelivered.
func (x *transactor) signOff(intake context.Context) {
	x.mu.Lock()
	lost := x.lost
	x.mu.Unlock()
	if lost || x.b.isClosing() || x.s.Begin() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(intake), min(closeTimeout, x.t.CommitTimeout))
	defer cancel()
	_, err := x.s.End(kgo.PreTxnCommitFnContext(ctx, func(req *kmsg.TxnOffsetCommitRequest) error {
		req.Topics = nil
		// What the client believes to be committed: only of what it still has.
		for topic, nums := range x.s.Client().CommittedOffsets() {
			t := kmsg.NewTxnOffsetCommitRequestTopic()
			t.Topic = topic
			for num, at := range nums {
				l := x.lane(partOf{topic, num})
				if l == nil || !l.begun || at.Offset < l.doubt {
					continue
				}
				p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
				p.Partition, p.Offset, p.LeaderEpoch = num, at.Offset, at.Epoch
				p.Metadata = l.metadata(at.Offset, true)
				t.Partitions = append(t.Partitions, p)
			}
			if len(t.Partitions) > 0 {
				req.Topics = append(req.Topics, t)
			}
		}
		return nil
	}), kgo.TryCommit)
	if err != nil {
		x.log.Debug("kafka: the last commit failed: the next member takes what follows for redelivered", slog.Any("err", err))
	}
}

func (x *transactor) lane(of partOf) *transactLane {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lanes[of]
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
