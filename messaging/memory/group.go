package memory

import (
	"container/heap"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A group holds what one group of a topic has not settled. Every entry has a
// place from Publish until it is acknowledged or dead-lettered, and is in
// exactly one of: ready, returned, delayed, the hands of a subscriber. So a
// send to ready, which has room for as many, never waits.
type group struct {
	topic, name string
	base        time.Time
	places      chan struct{}
	ready       chan *entry
	nudge       chan struct{} // wakes one idle subscriber to look at what is aside
	next        atomic.Int64  // the last entry.seq given

	aside    atomic.Int64 // len(returned) + len(delayed), to be read without mu
	mu       sync.Mutex
	returned entries // guarded by mu; released ones, by seq: they go out before what is ready
	delayed  entries // guarded by mu; retries that are not due, by due
	dead     graveyard
}

// An entry is a message in a group.
type entry struct {
	msg         messaging.Message // never changed, shared with other groups
	attempt     int
	redelivered bool
	seq         int64 // its place in the order of first deliveries; 0 before that, and again once it is ready after a retry
	order       int64 // what the heap that it is in sorts by, before seq
}

func newGroup(topic, name string, base time.Time, cfg Config) *group {
	return &group{
		topic: topic, name: name, base: base, dead: graveyard{limit: cfg.MaxDeadLetters, changed: make(chan struct{})},
		places: make(chan struct{}, cfg.MaxBacklog), ready: make(chan *entry, cfg.MaxBacklog), nudge: make(chan struct{}, 1),
	}
}

// free gives back the place of an entry that the group no longer holds.
func (g *group) free() { <-g.places }

// wake has one idle subscriber look again.
func (g *group) wake() {
	select {
	case g.nudge <- struct{}{}:
	default: // one has been asked, and has not looked yet
	}
}

// take returns the entry to deliver next, or nil and how long it is until the
// next delayed one is due, 0 when there is none.
func (g *group) take() (*entry, time.Duration) {
	if g.aside.Load() == 0 {
		return g.first(), 0
	}
	e, wait := g.recall()
	if e == nil {
		e = g.first()
	}
	if e != nil {
		g.passOn()
	}
	return e, wait
}

// passOn wakes another subscriber, if anything is aside: whoever takes an entry,
// wherever from, stops watching that.
func (g *group) passOn() {
	if g.aside.Load() > 0 {
		g.wake()
	}
}

// first returns the entry that has been ready longest, or nil.
func (g *group) first() *entry {
	select {
	case e := <-g.ready:
		return e
	default:
		return nil
	}
}

// recall makes delayed entries ready that are due, and returns a released one.
func (g *group) recall() (e *entry, wait time.Duration) {
	now := int64(time.Since(g.base))
	var due []*entry
	g.mu.Lock()
	for len(g.delayed) > 0 && g.delayed[0].order <= now {
		due = append(due, heap.Pop(&g.delayed).(*entry))
	}
	if len(g.delayed) > 0 {
		wait = time.Duration(g.delayed[0].order - now)
	}
	if len(g.returned) > 0 {
		e = heap.Pop(&g.returned).(*entry)
	}
	g.aside.Store(int64(len(g.returned) + len(g.delayed)))
	g.mu.Unlock()
	for _, d := range due {
		d.seq = 0
		g.ready <- d
	}
	return e, wait
}

// release puts entries back where they were, before what was first delivered after
// them, and all at once: nobody takes one before an earlier one is there.
func (g *group) release(es ...*entry) {
	for _, e := range es {
		e.redelivered, e.order = true, e.seq
	}
	g.setAside(&g.returned, es...)
}

// retry puts e at the end of what is ready, once after is over.
func (g *group) retry(e *entry, after time.Duration) {
	e.redelivered = true
	if after <= 0 {
		e.seq = 0
		g.ready <- e
		return
	}
	now := time.Since(g.base)
	e.order = int64(now + min(after, math.MaxInt64-now)) // without an overflow
	g.setAside(&g.delayed, e)
}

func (g *group) setAside(to *entries, es ...*entry) {
	g.mu.Lock()
	for _, e := range es {
		heap.Push(to, e)
	}
	g.aside.Store(int64(len(g.returned) + len(g.delayed)))
	g.mu.Unlock()
	g.wake()
}

// entries is a heap by order, then seq.
type entries []*entry

func (h entries) Len() int      { return len(h) }
func (h entries) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h entries) Less(i, j int) bool {
	if h[i].order != h[j].order {
		return h[i].order < h[j].order
	}
	return h[i].seq < h[j].seq
}

// Push implements [heap.Interface].
func (h *entries) Push(e any) { *h = append(*h, e.(*entry)) }

// Pop implements [heap.Interface].
func (h *entries) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
