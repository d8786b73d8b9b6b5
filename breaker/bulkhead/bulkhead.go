package bulkhead

import (
	"sync"
	"time"
)

// Bulkhead limits how many calls run at once. Make it with [New]; the zero
// Bulkhead is that of a zero [Config]. It is safe for concurrent use and must not
// be copied.
type Bulkhead struct {
	config Config        // with defaults; zero in a zero Bulkhead, which never waits or adapts
	slow   time.Duration // SlowCall; 0 where the limit is fixed
	base   time.Time     // where now counts from
	full   FullError     // the rejections, prebuilt so that they cost nothing
	late   FullError

	mu sync.Mutex // never held during user code or a channel operation
	// The rest is guarded by mu. Whenever mu is free, calls wait only if no slot
	// does: running >= limit or queue.len == 0.
	limit   int
	running int
	queue   queue
	slots   []slot // as many as calls ever ran at once
	free    uint32 // first free slot, counted from 1; 0 is none
	good    int    // good calls since the limit changed
	lowered uint64 // how often the limit was lowered

	admitted, rejected, canceled uint64
}

// slot is the place of one running call. Its turn tells the permit of the
// present call from copies of earlier ones.
type slot struct {
	turn uint64
	next uint32 // next free slot, counted from 1
}

// New returns a Bulkhead with no call running. It starts nothing, and reports
// every fault of c in one error.
func New(c Config) (*Bulkhead, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Bulkhead{
		config: c,
		slow:   c.SlowCall,
		base:   time.Now(),
		limit:  c.Limit,
		full:   FullError{Name: c.Name},
		late:   FullError{Name: c.Name, Waited: c.Wait},
	}, nil
}

// now returns the time since the bulkhead was made, by the monotonic clock.
func (b *Bulkhead) now() time.Duration { return time.Since(b.base) }

// Stats describe a Bulkhead at one moment, for dashboards. The totals never
// decrease.
type Stats struct {
	Limit   int // present limit
	Running int // calls that hold a slot; above Limit for a while after that fell
	Waiting int // calls in the queue

	Admitted uint64 // total of calls that got a slot
	Rejected uint64 // total of calls that ended in a FullError
	Canceled uint64 // total of calls whose context ended before they got a slot
	Lowered  uint64 // total of times that an adaptive limit fell
}

// Stats returns the present figures. It only reads.
func (b *Bulkhead) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{
		Limit:    b.present(),
		Running:  b.running,
		Waiting:  b.queue.len,
		Admitted: b.admitted,
		Rejected: b.rejected,
		Canceled: b.canceled,
		Lowered:  b.lowered,
	}
}

// present returns the limit. That of a zero Bulkhead is the default.
func (b *Bulkhead) present() int {
	if b.limit == 0 {
		return defaultLimit
	}
	return b.limit
}
