package kafka

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A partition is not fetched while maxQueued bytes of it wait in this process, until
// half of them are gone.
const maxQueued = 1 << 20

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
	leases map[*seat]*lease
	last   *lease // of the last that was handed out, while it is among leases
	ended  bool   // it is not this member's any more

	committed string // the last mark and metadata that Kafka has
	terse     bool   // Kafka takes less metadata than by its default: commit without
}

// A lease is what all that a seat gets of a partition has in common.
type lease struct {
	p    *partition
	seat *seat
	ctx  context.Context //nolint:containedctx // what deliver is called with
	end  context.CancelCauseFunc
}

func newPartition(m *member, topic string, num int32) *partition {
	return &partition{
		partOf: partOf{topic, num}, m: m, decoder: decoder{own: topic != m.n.topic}, hold: m.n.delay(topic), wake: make(chan struct{}, 1),
		window: window{next: -1}, leases: map[*seat]*lease{},
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
	p.last = nil
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
	p.leases, p.last, p.queue, p.again = nil, nil, nil, nil
	delete(p.m.hungry, p)
	return ends
}
