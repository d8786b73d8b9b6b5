package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// closeTimeout bounds each of the last requests of a member, which reach a broker
// or are not worth waiting for.
const closeTimeout = 5 * time.Second

// fetchWait is how long a broker holds a fetch for which it has nothing. It has one
// at one time, so a partition that was assigned or resumed meanwhile waits for
// as long.
const fetchWait = 250 * time.Millisecond

// What one fetch brings, as it is stored. Each broker has one at one time, and while the
// handlers keep every processor busy its way to the broker and back takes longer than
// all that 1 MiB of a partition keeps them busy for: a deep backlog of small messages
// took a third longer with so little.
const (
	fetchBytes     = 16 << 20
	fetchPartition = 4 << 20
)

// patience is how long what is fetched may wait, of all partitions, for one that is
// full to drain: as long as its pause would cost.
const patience = fetchWait

// faultPause keeps a partition that cannot be read from spinning.
const faultPause = 100 * time.Millisecond

// errGone is why a member ends whose topics are not what it found: the client does
// not go over to a topic that was made anew, and neither do places and windows.
var errGone = errors.New("a topic was deleted, or made anew")

// A member is this process in a consumer group. The subscribers of the group in
// the process are its seats: Kafka knows of one member, and what it is assigned
// goes to whichever seat has room.
type member struct {
	b     *Broker
	t     target
	n     names
	group string
	log   *slog.Logger
	ctx   context.Context //nolint:containedctx // of the goroutine that the member is; ends when nobody sits
	leave context.CancelFunc
	done  chan struct{} // closed when the member has left the group
	err   error         // why it ended by itself; set before done is closed
	cl    *kgo.Client   // set before began is closed
	began chan struct{}

	poll       *turn
	committing chan struct{} // holds a token: one commit at a time
	dirty      chan struct{} // told when there is something to commit
	drained    chan struct{} // told when a partition that was full is not any more

	pausing sync.Mutex // orders what is paused at the client; held for no I/O

	mu     sync.Mutex
	seats  []*seat                 // guarded by mu
	parts  map[partOf]*partition   // guarded by mu
	hungry map[*partition]struct{} // guarded by mu; have a record, and found no seat with room
	left   map[partOf]struct{}     // guarded by mu; ended with something in hand
	up     bool                    // guarded by mu; in the group
	losses int                     // guarded by mu; how often it fell out of the group
	why    error                   // guarded by mu; of the last loss
	idle   chan struct{}           // guarded by mu; closed and replaced when a partition or a seat has nothing in hand
}

// partOf names a partition.
type partOf struct {
	topic string
	num   int32
}

func (b *Broker) newMember(t target, n names) *member {
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{
		b: b, t: t, n: n, group: n.group, ctx: ctx, leave: cancel, done: make(chan struct{}), began: make(chan struct{}), poll: newTurn(),
		committing: make(chan struct{}, 1), dirty: make(chan struct{}, 1), drained: make(chan struct{}, 1),
		parts: map[partOf]*partition{}, hungry: map[*partition]struct{}{}, left: map[partOf]struct{}{}, idle: make(chan struct{}),
		log: b.cfg.Logger.With(slog.String("topic", t.topic), slog.String("group", t.group)),
	}
	if t.dead {
		m.group = n.read
	}
	m.committing <- struct{}{}
	return m
}

// run is the member from beginning to end.
func (m *member) run() {
	defer close(m.done)
	if err := m.serve(); permanent(err) || errors.Is(err, errGone) {
		m.err = err
	}
	m.leave()
	m.b.dismiss(m)
}

// serve joins the group and takes in what it is assigned, until nobody sits any
// more or Kafka refuses for good.
func (m *member) serve() error {
	topics, err := m.prepare()
	if err != nil {
		return err
	}
	m.cl, err = kgo.NewClient(m.options(topics)...)
	if err != nil {
		return fmt.Errorf("%w: %w", messaging.ErrInvalid, err)
	}
	close(m.began)
	var commits sync.WaitGroup
	commits.Go(m.commits)
	err = m.take()
	m.leave() // also when it is not why take has ended
	commits.Wait()
	m.quit()
	return err
}

// prepare makes what the group needs, trying until it stands.
func (m *member) prepare() ([]string, error) {
	for failures := 1; ; failures++ {
		cl, err := m.b.client(m.ctx)
		if err == nil {
			var topics []string
			if topics, err = m.b.ensure(m.ctx, cl, m.t, m.n); err == nil {
				m.b.troubles.well(m.log, "prepare "+m.group, "kafka: the group is prepared")
				return topics, nil
			}
		}
		if permanent(err) || m.ctx.Err() != nil {
			return nil, err
		}
		m.b.troubles.met(m.log, "prepare "+m.group, "kafka: the group cannot be prepared", slog.Any("err", err))
		if err := pause(m.ctx, m.b.closing, backoff(failures)); err != nil {
			return nil, err
		}
	}
}

func (m *member) options(topics []string) []kgo.Opt {
	return append(m.b.options(),
		kgo.ConsumerGroup(m.group),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(newBalancer(m.n.topic)),
		kgo.RebalanceTimeout(m.b.cfg.RebalanceTimeout),
		kgo.DisableAutoCommit(),
		// A partition without a place was added after the group, and one whose place
		// is gone has lost its oldest records: both begin with the oldest there is.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxBytes(fetchBytes), // one record may be larger, and comes nevertheless
		kgo.FetchMaxPartitionBytes(fetchPartition),
		kgo.OnPartitionsAssigned(m.assigned),
		kgo.OnOffsetsFetched(m.placed),
		kgo.OnPartitionsRevoked(m.revoked),
		kgo.OnPartitionsLost(m.lost),
	)
}

// quit commits what is settled, and leaves the group.
func (m *member) quit() {
	parts := m.all()
	m.mu.Lock()
	for _, p := range parts {
		p.stopping.Store(true) // so that the commit says that nothing more was in hand
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := m.commit(ctx, parts); err != nil {
		m.log.Warn("kafka: the last commit failed: messages come again that were handled", slog.Any("err", err))
	}
	m.end(parts)
	if err := m.cl.LeaveGroupContext(ctx); err != nil {
		m.log.Warn("kafka: the group was not left: its partitions move on after the session timeout", slog.Any("err", err))
	}
	m.cl.Close()
}

// take polls until the member ends. It waits for nothing but Kafka.
func (m *member) take() error {
	for m.ctx.Err() == nil && !m.b.isClosing() {
		ctx, stop := m.poll.begin(m.ctx)
		fetches := m.cl.PollRecords(ctx, 0)
		var filled []*partition
		m.mu.Lock()
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if p := m.parts[partOf{f.Topic, f.Partition}]; p != nil && p.fill(f.FetchPartition) {
				filled = append(filled, p)
			}
		})
		m.mu.Unlock()
		for _, p := range filled {
			tell(p.wake)
		}
		stop()
		failed, fatal := m.b.fault(m.log, m.group, fetches)
		if errors.Is(fatal, errGone) {
			m.disown(fetches)
		}
		if fatal != nil {
			return fatal
		}
		if failed {
			_ = pause(m.ctx, m.b.closing, faultPause)
		}
		m.breathe(filled)
	}
	return nil
}

// breathe lets partitions that have become full drain, and pauses those that do not
// within a moment. A pause is for the slow alone: the fetch that is under way when it
// ends no longer asks for the partition, and may wait for fetchWait at the broker, in
// which a quick consumer would have handled many times what the partition may hold.
func (m *member) breathe(filled []*partition) {
	moment := time.NewTimer(patience)
	defer moment.Stop()
	for m.anyFull(filled) {
		select {
		case <-m.drained:
			continue
		case <-moment.C:
			m.slow(filled)
		case <-m.ctx.Done():
		case <-m.b.closing:
		}
		break
	}
	for _, p := range filled {
		p.balance()
	}
}

// anyFull reports whether a partition is full that is not known to be slow.
func (m *member) anyFull(parts []*partition) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(parts, func(p *partition) bool { return p.full && !p.slow && !p.stopping.Load() })
}

// slow notes which partitions did not drain: the others wait for such a one no
// more, until it has caught up.
func (m *member) slow(parts []*partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts {
		p.slow = p.full
	}
}

// disown ends the partitions of topics that are not what they were. Their places are
// of another topic's records, and must not be committed.
func (m *member) disown(fetches kgo.Fetches) {
	of := map[string][]int32{}
	fetches.EachError(func(topic string, num int32, err error) {
		if errors.Is(err, kerr.UnknownTopicID) {
			of[topic] = append(of[topic], num)
		}
	})
	m.end(m.some(of))
}

// fault reports whether something failed that may fail again at once, and returns
// an error for which it is pointless to go on.
func (b *Broker) fault(log *slog.Logger, group string, fetches kgo.Fetches) (failed bool, fatal error) {
	what := "fetch " + group
	fetches.EachError(func(topic string, num int32, err error) {
		switch d := denied(err); {
		case d != nil:
			fatal = d
		case errors.Is(err, kerr.InconsistentGroupProtocol):
			fatal = fmt.Errorf("%w: another program uses the consumer group %s in another way: %w", messaging.ErrTopology, group, err)
		case errors.Is(err, kerr.UnknownTopicID):
			fatal = fmt.Errorf("%w: %s: %w", errGone, topic, err)
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, kgo.ErrClientClosed):
		default:
			failed = true
			b.troubles.met(log, what, "kafka: fetching fails", slog.String("from", topic), slog.Int("partition", int(num)), slog.Any("err", err))
		}
	})
	if !failed && b.troubles.any.Load() > 0 && !fetches.Empty() {
		b.troubles.well(log, what, "kafka: fetching succeeds again")
	}
	return failed, fatal
}

// all returns the partitions of the member.
func (m *member) all() []*partition {
	m.mu.Lock()
	defer m.mu.Unlock()
	parts := make([]*partition, 0, len(m.parts))
	for _, p := range m.parts {
		parts = append(parts, p)
	}
	return parts
}

// some returns those of the partitions that the member has.
func (m *member) some(of map[string][]int32) []*partition {
	m.mu.Lock()
	defer m.mu.Unlock()
	var parts []*partition
	for topic, nums := range of {
		for _, num := range nums {
			if p := m.parts[partOf{topic, num}]; p != nil {
				parts = append(parts, p)
			}
		}
	}
	return parts
}

// fed has all look again that wait for a seat with room. The caller holds mu.
func (m *member) fed() {
	for p := range m.hungry {
		delete(m.hungry, p)
		tell(p.wake)
	}
}

// rest tells those who wait for something to be idle. The caller holds mu.
func (m *member) rest() {
	close(m.idle)
	m.idle = make(chan struct{})
}

// tellSeats has the seats look at up and losses. The caller holds mu.
func (m *member) tellSeats() {
	for _, s := range m.seats {
		tell(s.changed)
	}
}

// tell wakes whoever waits on c, or will.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
