package breaker

import (
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// GroupConfig describes a [Group].
type GroupConfig struct {
	// Breaker describes each breaker of the group. The name of a breaker is its
	// key, behind Breaker.Name and a slash where that is set. Default: the zero
	// Config.
	Breaker Config

	// MaxKeys bounds how many breakers the group keeps. Default 4096. From 1 to
	// 1000000.
	MaxKeys int
}

const (
	defaultMaxKeys = 4096
	mostMaxKeys    = 1_000_000
)

// Group keeps a breaker for each key, such as a host or a shard. However many
// keys come, it keeps at most MaxKeys: for a new one it evicts one that nobody
// asks for. After a Window without a Get (10s where the window does not count
// time) that may be a breaker that a new one would equal: closed, without
// failures or slow calls. After MaxOpenFor and a Window it may also be one with a
// past that matters to nobody any more: open with its open time over, half-open
// with no probe that may still be heard, or closed with old failures in a window
// that does not count time. So keys that fail once cannot fill a group for ever.
// One that an operator forced open or disabled stays.
//
// Where it finds none, Get returns the one breaker that all further keys share,
// whose name has an asterisk in place of the key. So memory stays bounded, and
// the calls are guarded, if together: failures with some of these keys reject
// calls with others. Choose MaxKeys so that GroupStats.Overflow stays 0.
//
// Make it with [NewGroup]; the zero Group keeps nothing. It is safe for
// concurrent use. Looking up a known key takes no lock and allocates nothing.
type Group[K comparable] struct {
	set  *settings
	name string
	max  int
	idle time.Duration // without a Get before a breaker may be evicted if blank
	past time.Duration // the same if its past is over
	base time.Time
	seed maphash.Seed
	rest *Breaker // of the keys for which there is no room
	// heads are the chains of a hash table that never grows. They are followed
	// without a lock, and changed under it.
	heads []atomic.Pointer[entry[K]]

	mu       sync.Mutex
	entries  []*entry[K] // in the order in which the hand passes them
	hand     int
	evicted  uint64
	overflow uint64
}

// entry is a breaker that a Group keeps.
type entry[K comparable] struct {
	key     K
	breaker *Breaker
	chain   int // its index in heads
	next    atomic.Pointer[entry[K]]
	use     atomic.Int32
	since   time.Duration // of use being resting; guarded by the group's mutex
}

// What use says of an entry. Get makes a resting entry used, and the hand a used
// one rest, and one that has rested gone. The last is a compare-and-swap that
// loses against Get, so no breaker is evicted at the moment it is returned.
const (
	used    int32 = iota // asked for since the hand came by
	resting              // not asked for since the hand came by
	gone                 // evicted
)

// NewGroup returns an empty Group. It reports every fault of c in one error.
func NewGroup[K comparable](c GroupConfig) (*Group[K], error) {
	set, err := newSettings(c.Breaker)
	if c.MaxKeys < 0 || c.MaxKeys > mostMaxKeys {
		fault := fmt.Sprintf("MaxKeys %d is outside 1 to %d", c.MaxKeys, mostMaxKeys)
		if err == nil {
			return nil, errors.New("breaker: config: " + fault)
		}
		return nil, fmt.Errorf("%w; %s", err, fault)
	}
	if err != nil {
		return nil, err
	}
	g := &Group[K]{
		set:  set,
		name: c.Breaker.Name,
		max:  or(c.MaxKeys, defaultMaxKeys),
		idle: or(set.Window, defaultWindow),
		base: time.Now(),
		seed: maphash.MakeSeed(),
	}
	g.past = set.MaxOpenFor + g.idle
	g.rest = newBreaker(set, g.label("*"))
	g.heads = make([]atomic.Pointer[entry[K]], 1<<bits.Len(uint(g.max-1)))
	return g, nil
}

// Get returns the breaker of key, a new one if there is none. All callers of a
// key get the same, which in a full group may be that of other keys too. Ask for it for each call rather than keep it: the group
// counts only what it is asked for as in use.
func (g *Group[K]) Get(key K) *Breaker {
	if g.heads == nil {
		return &Breaker{}
	}
	chain := int(maphash.Comparable(g.seed, key) & uint64(len(g.heads)-1))
	if e := g.find(key, chain); e != nil {
		return e.breaker
	}
	// Outside the lock, since the text of a key may be the user's code.
	name := g.label(fmt.Sprint(key))
	return g.add(&entry[K]{key: key, chain: chain, breaker: newBreaker(g.set, name)})
}

// label returns the name of a breaker.
func (g *Group[K]) label(key string) string {
	if g.name == "" {
		return key
	}
	return g.name + "/" + key
}

// find returns the entry of key, in use from now on, or nil.
func (g *Group[K]) find(key K, chain int) *entry[K] {
	for e := g.heads[chain].Load(); e != nil; e = e.next.Load() {
		if e.key != key {
			continue
		}
		if e.use.Load() == used || e.use.CompareAndSwap(resting, used) || e.use.Load() == used {
			return e
		}
	}
	return nil
}

// add keeps e, unless somebody else was faster or there is no room, and returns
// the breaker to use.
func (g *Group[K]) add(e *entry[K]) *Breaker {
	now := time.Since(g.base)
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.find(e.key, e.chain); e != nil {
		return e.breaker
	}
	if len(g.entries) < g.max {
		g.entries = append(g.entries, e)
	} else if i, ok := g.evict(now); ok {
		g.entries[i] = e
	} else {
		g.overflow++
		return g.rest
	}
	head := &g.heads[e.chain]
	e.next.Store(head.Load())
	head.Store(e)
	return e.breaker
}

// reach is how many entries the hand passes for one new key at most, which bounds
// what a stranger can make a Get cost.
const reach = 16

// evict takes an entry out of its chain and returns its index in entries. It is
// the clock algorithm: a hand goes round, and what was not used between two
// visits may go.
func (g *Group[K]) evict(now time.Duration) (int, bool) {
	for range min(reach, len(g.entries)) {
		i := g.hand
		g.hand = (g.hand + 1) % len(g.entries)
		e := g.entries[i]
		switch {
		case e.use.Load() == used:
			e.use.Store(resting)
			e.since = now
		case now-e.since < g.idle:
		case !e.breaker.blank() && (now-e.since < g.past || !e.breaker.over(g.past)):
		case e.use.CompareAndSwap(resting, gone):
			g.unlink(e)
			g.evicted++
			return i, true
		}
	}
	return 0, false
}

// unlink takes e out of its chain. Readers that stand on e go on from there.
func (g *Group[K]) unlink(e *entry[K]) {
	link := &g.heads[e.chain]
	for link.Load() != e {
		link = &link.Load().next
	}
	link.Store(e.next.Load())
}

// blank reports whether b behaves as a new breaker would.
func (b *Breaker) blank() bool {
	p := b.phase.Load()
	if p.state != Closed {
		return false
	}
	c := p.window.counts(b.now())
	return c.Failures == 0 && c.Slow == 0 && (c.Successes == 0 || b.set.Window == 0)
}

// over reports whether what b knows has had no effect for the time past: it
// would admit the next call, and no probe may still decide.
func (b *Breaker) over(past time.Duration) bool {
	now := b.now()
	switch p := b.phase.Load(); p.state {
	case Closed:
		return b.set.Window == 0
	case Open:
		return p.until.Load() <= int64(now)
	case HalfOpen:
		b.mu.Lock()
		defer b.mu.Unlock()
		// The first lease that runs out opens b again, if somebody looks.
		return len(p.leases) == 0 || p.leases[0].expires+past <= now
	default:
		return false // an operator's order lasts until Reset
	}
}

// All returns the keys and breakers that the group keeps, in no order. A loop
// over it holds no lock.
func (g *Group[K]) All() iter.Seq2[K, *Breaker] {
	return func(yield func(K, *Breaker) bool) {
		g.mu.Lock()
		entries := slices.Clone(g.entries)
		g.mu.Unlock()
		for _, e := range entries {
			if !yield(e.key, e.breaker) {
				return
			}
		}
	}
}

// GroupStats describe a Group at one moment. The totals never decrease.
type GroupStats struct {
	Keys     int    // breakers that the group keeps
	Evicted  uint64 // total of breakers that made room for others
	Overflow uint64 // total of Gets that got the breaker which further keys share
}

// Stats returns the present figures.
func (g *Group[K]) Stats() GroupStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return GroupStats{Keys: len(g.entries), Evicted: g.evicted, Overflow: g.overflow}
}
