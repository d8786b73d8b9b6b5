package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kerr"
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
	if r := x.send(ctx, outs); r.Err != nil {
		return x.unsent(intake, r, of[r.Record])
	}
	committed, err := x.s.End(kgo.PreTxnCommitFnContext(ctx, func(req *kmsg.TxnOffsetCommitRequest) error {
		return place(req, marks)
	}), kgo.TryCommit)
	switch {
	case errors.Is(err, errMoved):
	case err != nil:
		return refused("commit a transaction", err)
	case committed:
		for _, l := range lanes {
			l.advance()
		}
		return nil
	}
	x.log.Warn("kafka: transaction aborted by a rebalance: its messages are handled again", slog.Int("partitions", len(marks)))
	x.drop() // End has rewound the client
	// Kafka may know of a rebalance that this member does not know of yet.
	_ = pause(intake, x.b.closing, faultPause)
	return nil
}

// A source is where an output comes from.
type source struct {
	l   *transactLane
	off int64
}

// send produces outs, and returns the first that Kafka did not take, if any. To
// topics that are tight it sends them one by one: Kafka's limit is one of batches,
// and a batch tells not which of its records is to blame.
func (x *transactor) send(ctx context.Context, outs []*kgo.Record) (bad kgo.ProduceResult) {
	together := make([]*kgo.Record, 0, len(outs))
	for _, rec := range outs {
		if !x.tight[rec.Topic] {
			together = append(together, rec)
		} else if r := x.s.ProduceSync(ctx, rec)[0]; r.Err != nil {
			return r
		}
	}
	for _, r := range x.s.ProduceSync(ctx, together...) {
		if r.Err != nil {
			return r
		}
	}
	return kgo.ProduceResult{}
}

// unsent aborts the transaction because of what Kafka did not take. That makes the
// message it came from a failed one, and its neighbours are handled again. Where it is
// the message's own dead letter, the message stays where it is. The error is for what
// is nobody's fault.
func (x *transactor) unsent(intake context.Context, r kgo.ProduceResult, from source) error {
	topic := r.Record.Topic
	why, again := x.b.unpublished(topic, r.Err)
	switch tooLarge := errors.Is(why, messaging.ErrTooLarge); {
	case tooLarge && !x.tight[topic]:
		if len(x.tight) >= maxKnown {
			clear(x.tight)
		}
		x.tight[topic] = true
		return x.rewind(intake)
	case tooLarge && topic == x.n.dead: // no session could store it
		from.l.nays = append(from.l.nays, refusal{from.off, why, true})
		return x.rewind(intake)
	case again, topic == x.n.dead, errors.Is(r.Err, kerr.UnknownTopicID): // no client goes over to a topic that is made anew
		return errors.Join(fmt.Errorf("send to %s: %w", topic, why), x.rewind(intake))
	case tooLarge || errors.Is(why, messaging.ErrInvalid):
		why = messaging.Permanent(why)
	}
	from.l.nays = append(from.l.nays, refusal{from.off, fmt.Errorf("kafka: publish to %s in a transaction: %w", topic, why), false})
	x.log.Warn("kafka: transaction aborted, for Kafka refuses an output, whose message has failed", slog.String("to", topic), slog.Any("err", why))
	x.forget(topic)
	return x.rewind(intake)
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

// signOff notes whether anything beyond what is committed was in hand, which the next
// member takes for redelivered.
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
				if l == nil || !l.begun {
					continue
				}
				p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
				p.Partition, p.Offset, p.LeaderEpoch = num, at.Offset, at.Epoch
				p.Metadata = l.metadata(at.Offset, at.Offset >= l.doubt)
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
