package kafka

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

const (
	// A partition is not fetched while maxQueued bytes of it wait in this process,
	// until half of them are gone.
	maxQueued = 1 << 20
	// maxTaken is how many records are taken from a partition in one turn at m.mu, for
	// which all its partitions and lanes queue.
	maxTaken = 16
	// refusalPause keeps a message that nobody accepts from spinning.
	refusalPause = 100 * time.Millisecond
)

// A partition is one that the group has assigned to this member. One goroutine
// hands out its records, one by one.
type partition struct {
	partOf
	decoder
	m    *member
	hold time.Duration // for how long its records wait at most
	wake chan struct{} // told when work is to look again

	taken []*handout // by work, which hands them out one after the other
	room  [maxTaken]*handout

	stopping atomic.Bool // nothing more is handed out; set under m.mu

	paused bool // at the client; guarded by m.pausing

	// The rest is guarded by m.mu.
	queue  []*kgo.Record // fetched, not handed out
	queued int           // bytes of queue
	filled time.Time     // when the last of queue came
	due    time.Time     // when queue[0] may be handed out, once it was looked at
	full   bool          // fetching is to pause
	slow   bool          // it was full for too long, or is not due, and has not been empty since
	begun  bool          // records have come
	unsure bool          // what was fetched first may have been in hand before
	doubt  int64         // up to which offset
	window window
	again  []uint64 // numbers of slots that were given back, in order
	open   int      // deliveries in hand
	rest   time.Time
	seat   *seat // which gets what has a key
	leases map[*seat]lease
	ended  bool // it is not this member's any more

	committed string // the last mark and metadata that Kafka has
	terse     bool   // Kafka takes less metadata than by its default: commit without
}

// A lease is the context of what a seat gets of a partition.
type lease struct {
	ctx context.Context //nolint:containedctx // on its way to each call of deliver
	end context.CancelCauseFunc
}

func newPartition(m *member, topic string, num int32) *partition {
	return &partition{
		partOf: partOf{topic, num}, m: m, decoder: decoder{own: topic != m.n.topic}, hold: m.n.delay(topic), wake: make(chan struct{}, 1),
		window: window{next: -1}, leases: map[*seat]lease{},
	}
}

// fill takes fetched records in, and reports whether there are any. The caller
// holds m.mu.
func (p *partition) fill(f kgo.FetchPartition) bool {
	if len(f.Records) == 0 || p.ended {
		return false
	}
	if !p.begun {
		if p.unsure {
			p.doubt = f.HighWatermark
		}
		p.begun = true
		delete(p.m.left, p.partOf) // the next commit says so to all
		tell(p.m.dirty)            // so that the commit says that something may be in hand
	}
	p.filled = time.Now()
	if len(p.queue) == 0 {
		p.queue = f.Records
	} else {
		p.queue = append(p.queue, f.Records...)
	}
	for _, rec := range f.Records {
		p.queued += weight(rec)
	}
	if p.queued >= maxQueued {
		p.full = true
	}
	return true
}

// weight returns about how many bytes rec takes.
func weight(rec *kgo.Record) int {
	return 256 + len(rec.Key) + len(rec.Value) + 64*len(rec.Headers)
}

// balance has the client fetch the partition, or not, as full says.
func (p *partition) balance() {
	p.m.pausing.Lock()
	defer p.m.pausing.Unlock()
	p.m.mu.Lock()
	pause := p.full && !p.ended // a client remembers what is paused beyond a rebalance
	p.m.mu.Unlock()
	if pause == p.paused {
		return
	}
	p.paused = pause
	of := map[string][]int32{p.topic: {p.num}}
	if pause {
		p.m.cl.PauseFetchPartitions(of)
	} else {
		p.m.cl.ResumeFetchPartitions(of)
	}
}

// work hands out records until the partition ends.
func (p *partition) work() {
	returned := false
	defer func() {
		// deliver has ended this goroutine.
		if !returned {
			p.m.b.workers.Go(p.work)
		}
	}()
	for {
		p.handTaken()
		wait, drained, ended := p.takeSome()
		if ended {
			break
		}
		if drained {
			p.balance()
			tell(p.m.drained)
		}
		switch {
		case len(p.taken) > 0:
		case wait > 0:
			t := time.NewTimer(wait)
			select {
			case <-p.wake:
			case <-t.C:
			}
			t.Stop()
		default:
			<-p.wake
		}
	}
	returned = true
}

// takeSome is take for as many as may be handed out one after the other, into taken.
// What waits there is in hand: while deliver blocks, it must hold up neither other
// partitions, for which the last places of the seat are, nor another seat that drains.
func (p *partition) takeSome() (wait time.Duration, drained, ended bool) {
	p.taken = p.room[:0]
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for len(p.taken) < cap(p.taken) && !p.ended {
		h, w, d := p.take()
		wait, drained = w, drained || d
		if h == nil {
			break
		}
		p.taken = append(p.taken, h)
		if h.seat.room() < maxTaken || len(p.m.seats) > 1 {
			break
		}
	}
	return wait, drained, p.ended
}

// take returns what to hand out next, or how long nothing will be there: 0 where
// something will tell. drained reports that full has changed. The caller holds
// m.mu.
func (p *partition) take() (h *handout, wait time.Duration, drained bool) {
	if p.stopping.Load() {
		return nil, 0, false
	}
	if !p.rest.IsZero() { // seldom, and to ask for the time costs as much as all else here
		if wait := time.Until(p.rest); wait > 0 {
			return nil, wait, false
		}
		p.rest = time.Time{}
	}
	if len(p.again) > 0 {
		n := p.again[0]
		if h = p.give(p.window.at(n).rec); h != nil {
			at := p.window.at(n)
			h.slot, h.Redelivered = n, at.again
			p.again = p.again[1:]
			at.in = h
		}
		return h, 0, false
	}
	passed := false
	for len(p.queue) > 0 && p.window.passes(p.queue[0].Offset) {
		p.shift()
		passed = true
	}
	if passed {
		tell(p.m.dirty)
	}
	if len(p.queue) == 0 {
		p.slow = false
	}
	if len(p.queue) == 0 || p.window.full() {
		return nil, 0, p.drain()
	}
	rec := p.queue[0]
	if p.own {
		if p.due.IsZero() {
			p.due = due(rec, p.filled.Add(p.hold))
		}
		if wait := time.Until(p.due); wait > 0 {
			// What lies in a rung for minutes must not lie in memory for as long.
			changed := !p.full || !p.slow
			p.full, p.slow = true, true
			return nil, wait, changed
		}
	}
	if h = p.give(rec); h != nil {
		p.shift()
		h.slot = p.window.push(rec)
		p.window.at(h.slot).in = h
		h.Redelivered = rec.Offset < p.doubt
	}
	return h, 0, p.drain()
}

// shift takes the first record from the queue.
func (p *partition) shift() {
	p.queued -= weight(p.queue[0])
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.due = time.Time{}
}

// drain reports whether fetching may go on again.
func (p *partition) drain() bool {
	if !p.full || p.queued > maxQueued/2 {
		return false
	}
	p.full = false
	return true
}

// give finds a seat for rec, and puts it in hand. It returns nil when none has
// room; then the partition is told when one has. The caller holds m.mu.
func (p *partition) give(rec *kgo.Record) *handout {
	s := p.choose(rec)
	if s == nil {
		p.m.hungry[p] = struct{}{}
		return nil
	}
	l, ok := p.leases[s]
	if !ok {
		l.ctx, l.end = context.WithCancelCause(context.Background())
		p.leases[s] = l
	}
	p.open++
	s.held++
	return &handout{p: p, seat: s, rec: rec, lease: l.ctx, Delivery: messaging.Delivery{Topic: p.m.t.topic, Group: p.m.t.group}}
}

// choose returns the seat that gets rec. What has a key goes to one seat of the
// partition, so that its order holds; to another only when that one has nothing of
// the partition in hand any more. The caller holds m.mu.
func (p *partition) choose(rec *kgo.Record) *seat {
	if len(rec.Key) == 0 {
		if s := p.seat; s != nil && s.hasRoom() {
			return s
		}
		return p.m.freest()
	}
	if s := p.seat; s != nil && !s.takes() && p.open > 0 {
		return nil
	}
	if p.seat == nil || !p.seat.takes() {
		if p.seat = p.m.freest(); p.seat == nil {
			return nil
		}
	}
	if p.seat.hasRoom() {
		return p.seat
	}
	return nil
}

// freest returns the seat with the most room, or nil when none has any. The caller
// holds mu.
func (m *member) freest() *seat {
	var best *seat
	for _, s := range m.seats {
		if s.hasRoom() && (best == nil || s.room() > best.room()) {
			best = s
		}
	}
	return best
}

// handTaken hands out what was taken, in order. Once one is not accepted, or the
// partition or a seat goes, those behind it come again, since they must not pass it.
func (p *partition) handTaken() {
	for len(p.taken) > 0 && !p.stopping.Load() && p.taken[0].wanted() {
		h := p.taken[0]
		p.taken[0], p.taken = nil, p.taken[1:] // first: deliver may end this goroutine
		if !p.hand(h) {
			break
		}
	}
	p.untake()
}

// untake gives back what was taken and nobody has had, as if it had not been taken.
func (p *partition) untake() {
	if len(p.taken) == 0 {
		return
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for i, h := range p.taken {
		p.taken[i] = nil
		if h.state == held {
			h.state = settled
			h.back()
			p.window.at(h.slot).again = h.Redelivered
		}
	}
	p.taken = nil
}

// hand gives h to the deliver of its seat, and reports whether it was accepted.
func (p *partition) hand(h *handout) bool {
	rest := p.decode(&h.Delivery, h.rec)
	h.attempt = h.Attempt
	if p.m.t.dead { // whatever is left of its delays and its attempts
		h.Attempt, h.attempt, rest = 1, 1, 0
	}
	if rest > 0 { // it has a longer delay to wait than one rung can hold
		p.m.b.workers.Go(func() { h.forward(rest) })
		return true
	}
	returned := false
	defer func() {
		if !returned {
			h.seat.fail(errEnded)
		}
	}()
	err := h.seat.deliver(h.lease, &h.Delivery, h)
	returned = true
	if err == nil {
		return true
	}
	_ = h.Settle(h.lease, messaging.Verdict{Kind: messaging.Release})
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if h.seat.takes() {
		p.rest = time.Now().Add(refusalPause)
	}
	return false
}

// takeBack puts the slot of a handout among those that come again. The caller
// holds m.mu.
func (p *partition) takeBack(h *handout) {
	s := p.window.at(h.slot)
	s.in, s.again = nil, true
	i, _ := slices.BinarySearch(p.again, h.slot)
	p.again = slices.Insert(p.again, i, h.slot)
}

// desert ends what a seat has of the partition, which comes again, to another
// seat. It returns what ends its leases. The caller holds m.mu.
func (p *partition) desert(s *seat) context.CancelCauseFunc {
	for i := range p.window.slots {
		if h := p.window.slots[i].in; h != nil && h.seat == s && h.state == held {
			h.state = lost
			p.open--
			s.held--
			p.takeBack(h)
		}
	}
	if p.seat == s {
		p.seat = nil
	}
	l, ok := p.leases[s]
	if !ok {
		return func(error) {}
	}
	delete(p.leases, s)
	return l.end
}

// lose ends the partition: what is in hand comes again, to whoever has it next. It
// returns what ends the leases. The caller holds m.mu.
func (p *partition) lose() []context.CancelCauseFunc {
	if p.ended {
		return nil
	}
	p.ended = true
	p.stopping.Store(true)
	if p.open > 0 {
		p.m.left[p.partOf] = struct{}{}
	}
	for i := range p.window.slots {
		if h := p.window.slots[i].in; h != nil {
			if h.state == held {
				h.state = lost
			}
			h.seat.held--
			p.open--
		}
	}
	ends := make([]context.CancelCauseFunc, 0, len(p.leases))
	for _, l := range p.leases {
		ends = append(ends, l.end)
	}
	p.leases, p.queue, p.again = nil, nil, nil
	delete(p.m.hungry, p)
	return ends
}
