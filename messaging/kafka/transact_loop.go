package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
)

const (
	// The group takes a member for dead that it has not heard of for one and a half
	// Config.RebalanceTimeout, within what brokers take by default and what clients
	// have by default.
	minSession, maxSession = 6 * time.Second, 45 * time.Second
	// longPoll is how long a poll waits when nothing is due.
	longPoll = time.Hour
)

// A transactor is one call of Transact. One goroutine, the loop, polls a batch,
// has its lanes handled, and ends the transaction; the rest is handlers, and
// callbacks of the client.
//
// A batch takes nothing for granted that may change while it is handled. What is
// revoked or lost meanwhile sets lost, and so the batch comes to nothing and all
// lanes begin again at what is committed: the client's session aborts a transaction
// that had a rebalance in it, and rewinds by itself. Whatever slips through is
// refused by Kafka, which takes offsets only from a member of the group's present
// generation (KIP-447), and from the last producer of the transactional ID.
type transactor struct {
	b      *Broker
	t      Transaction
	n      names
	handle func(context.Context, messaging.Publisher, *messaging.Delivery) error
	id     string // the transactional ID
	log    *slog.Logger

	s     *kgo.GroupTransactSession // of the loop
	tight map[string]bool           // of the loop; output topics that take smaller batches than the client makes

	mu    sync.Mutex
	lanes map[partOf]*transactLane // guarded by mu, the lanes themselves belong to the loop
	known map[string]bool          // guarded by mu; output topics that exist
	lost  bool                     // guarded by mu; partitions have gone since the last transaction ended
	in    bool                     // guarded by mu; in the group
	up    bool                     // guarded by mu; joined, and OnReady not told
	stop  context.CancelCauseFunc  // guarded by mu; ends the batch that runs
	wake  context.CancelFunc       // guarded by mu; ends the poll that runs
}

// serve is one session: a member of the group and its producer, from beginning to
// end.
func (x *transactor) serve(intake context.Context) error {
	cl, err := x.b.client(intake)
	if err != nil {
		return err
	}
	topics, err := x.b.ensure(intake, cl, target{topic: x.t.Topic, group: x.t.Group}, x.n)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.lanes, x.known, x.lost, x.in, x.up = map[partOf]*transactLane{}, map[string]bool{}, false, false, false
	x.mu.Unlock()
	// The session's callbacks take x.mu only; s is not used before it is set.
	if x.s, err = kgo.NewGroupTransactSession(x.options(topics)...); err != nil {
		return fmt.Errorf("%w: %w", messaging.ErrInvalid, err)
	}
	defer x.leave()
	// Now, not with the first batch: this aborts what a predecessor with the same
	// ID has left open, for whose end the places of the partitions wait.
	switch _, _, err := x.s.Client().ProducerID(intake); {
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		return fmt.Errorf("%w: Transaction.CommitTimeout %v is more than transaction.max.timeout.ms of the brokers: %w", messaging.ErrInvalid, x.t.CommitTimeout, err)
	case err != nil:
		return refused("begin transactions", err)
	}
	for intake.Err() == nil {
		if err := x.turn(intake); err != nil {
			return x.fenced(err)
		}
	}
	x.signOff(intake)
	return nil
}

func (x *transactor) options(topics []string) []kgo.Opt {
	session := min(max(x.b.cfg.RebalanceTimeout*3/2, minSession), maxSession)
	return append(x.b.producer(),
		kgo.TransactionalID(x.id),
		kgo.TransactionTimeout(x.t.CommitTimeout),
		kgo.ConsumerGroup(x.n.group),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(newBalancer(x.n.topic)), // as Subscribe, with whose members it shares the group
		kgo.SessionTimeout(session),
		kgo.HeartbeatInterval(min(3*time.Second, session/3)),
		kgo.RebalanceTimeout(x.b.cfg.RebalanceTimeout),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxPartitionBytes(int32(max(1<<20, x.b.cfg.MaxPayload+headroom))),
		kgo.OnPartitionsAssigned(x.assigned),
		kgo.OnOffsetsFetched(x.placed),
		kgo.OnPartitionsRevoked(x.revoked),
		kgo.OnPartitionsLost(x.fallen),
	)
}

// leave leaves the group. Nothing is open then, or the next session aborts it.
func (x *transactor) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := x.s.Client().LeaveGroupContext(ctx); err != nil {
		x.log.Warn("kafka: the group was not left: its partitions move on after the session timeout", slog.Any("err", err))
	}
	x.s.Close()
}

// turn polls once, and has what is ready handled.
func (x *transactor) turn(intake context.Context) error {
	x.mu.Lock()
	lost, up := x.lost, x.up
	x.lost, x.up = false, false
	x.mu.Unlock()
	if lost {
		if err := x.rewind(intake); err != nil {
			return err
		}
	}
	if up {
		x.log.Info("kafka: joined the group")
		if x.t.OnReady != nil {
			x.t.OnReady()
		}
	}
	fetches := x.poll(intake)
	failed, fatal := x.b.fault(x.log, x.n.group, fetches)
	if fatal == nil && fetches.IsClientClosed() {
		fatal = kgo.ErrClientClosed
	}
	if fatal != nil {
		return fatal
	}
	if failed {
		_ = pause(intake, x.b.closing, faultPause)
	}
	if lanes := x.collect(fetches); len(lanes) > 0 {
		return x.process(intake, lanes)
	}
	return nil
}

// poll waits for records, or until something that was polled before is due.
func (x *transactor) poll(intake context.Context) kgo.Fetches {
	wait := longPoll
	x.mu.Lock()
	for _, l := range x.lanes {
		if len(l.queue) > 0 {
			wait = min(wait, time.Until(l.due))
		}
	}
	if wait <= 0 || x.lost || x.up {
		x.mu.Unlock()
		var now context.Context // nil means what is there now
		return x.s.PollRecords(now, x.t.BatchSize)
	}
	ctx, cancel := context.WithTimeout(intake, wait)
	defer cancel()
	x.wake = cancel
	x.mu.Unlock()
	defer x.unstop()
	return x.s.PollRecords(ctx, x.t.BatchSize)
}

// unstop leaves nothing for the callbacks to end.
func (x *transactor) unstop() {
	x.mu.Lock()
	x.stop, x.wake = nil, nil
	x.mu.Unlock()
}

// collect takes polled records in, and returns the lanes that have something to do.
func (x *transactor) collect(fetches kgo.Fetches) []*transactLane {
	x.mu.Lock()
	defer x.mu.Unlock()
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		if l := x.lanes[partOf{f.Topic, f.Partition}]; l != nil {
			l.fill(f.FetchPartition)
		} else if len(f.Records) > 0 {
			x.lost = true
		}
	})
	if x.lost {
		return nil
	}
	var ready []*transactLane
	now := time.Now()
	for _, l := range x.lanes {
		if l.ready(now) {
			ready = append(ready, l)
		}
	}
	return ready
}

// process has lanes handled and commits what comes of it.
func (x *transactor) process(intake context.Context, lanes []*transactLane) error {
	b := &batch{intake: intake}
	b.room.Store(batchBytes)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(intake))
	defer cancel(nil)
	b.ctx = ctx
	x.mu.Lock()
	if x.lost {
		x.mu.Unlock()
		return nil
	}
	x.stop = cancel
	x.mu.Unlock()
	defer x.unstop()

	handled := make(chan struct{})
	var late sync.WaitGroup
	late.Go(func() {
		select {
		case <-handled:
			return
		case <-intake.Done():
		}
		if x.b.isClosing() {
			cancel(messaging.ErrLost)
			return
		}
		t := time.NewTimer(x.t.DrainTimeout)
		defer t.Stop()
		select {
		case <-handled:
		case <-x.b.closing:
			cancel(messaging.ErrLost)
		case <-t.C:
			cancel(messaging.ErrDrain)
		}
	})
	var work sync.WaitGroup
	for _, l := range lanes {
		work.Go(func() { x.work(b, l) })
	}
	work.Wait()
	close(handled)
	late.Wait()
	if errors.Is(context.Cause(ctx), messaging.ErrLost) {
		return nil // the next turn rewinds, or there is none
	}
	err := x.commit(intake, lanes)
	x.balance()
	return err
}

// balance has the client fetch the partitions of which nothing waits here.
func (x *transactor) balance() {
	pause, resume := map[string][]int32{}, map[string][]int32{}
	x.mu.Lock()
	for _, l := range x.lanes {
		waits := len(l.queue) > 0
		switch {
		case waits && !l.paused:
			pause[l.topic] = append(pause[l.topic], l.num)
		case !waits && l.paused:
			resume[l.topic] = append(resume[l.topic], l.num)
		}
		l.paused = waits
	}
	x.mu.Unlock()
	if len(pause) > 0 {
		x.s.Client().PauseFetchPartitions(pause)
	}
	if len(resume) > 0 {
		x.s.Client().ResumeFetchPartitions(resume)
	}
}

// assigned takes partitions on. The client calls it when the group has been joined
// too, with none.
func (x *transactor) assigned(_ context.Context, cl *kgo.Client, of map[string][]int32) {
	x.mu.Lock()
	for topic, nums := range of {
		for _, num := range nums {
			x.lanes[partOf{topic, num}] = &transactLane{partOf: partOf{topic, num}, decoder: decoder{own: topic != x.n.topic}, hold: x.n.delay(topic)}
		}
	}
	x.up = x.up || !x.in
	x.in = true
	if x.wake != nil {
		x.wake()
	}
	x.mu.Unlock()
	cl.ResumeFetchPartitions(of) // a client remembers what is paused beyond a rebalance
}

// placed notes where the group stands in its new partitions.
func (x *transactor) placed(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, num := range t.Partitions {
				if l := x.lanes[partOf{t.Topic, num.Partition}]; l != nil && !l.begun && num.ErrorCode == 0 {
					meta := ""
					if num.Metadata != nil {
						meta = *num.Metadata
					}
					l.open(num.Offset, meta)
				}
			}
		}
	}
	return nil
}

// revoked gives partitions up. It waits for nothing, so that a slow handler does
// not hold up the group.
func (x *transactor) revoked(ctx context.Context, cl *kgo.Client, of map[string][]int32) {
	if len(of) > 0 {
		x.gone(ctx, cl, of)
	}
}

// fallen notes that the member has fallen out of the group.
func (x *transactor) fallen(ctx context.Context, cl *kgo.Client, of map[string][]int32) {
	x.mu.Lock()
	x.in = false
	x.mu.Unlock()
	x.gone(ctx, cl, of)
}

// gone notes that partitions are not this member's any more.
func (x *transactor) gone(_ context.Context, _ *kgo.Client, of map[string][]int32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for topic, nums := range of {
		for _, num := range nums {
			delete(x.lanes, partOf{topic, num})
		}
	}
	x.lost = true
	if x.stop != nil {
		x.stop(messaging.ErrLost)
	}
	if x.wake != nil {
		x.wake()
	}
}
