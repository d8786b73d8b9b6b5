package breaker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// cacheLine is how far memory that calls write is kept from memory that all calls
// read: two lines of 64 bytes, since processors fetch them in pairs.
const cacheLine = 128

// Breaker guards the calls to one dependency. Make it with [New]; the zero
// Breaker is that of a zero [Config]. It is safe for concurrent use and must not
// be copied.
type Breaker struct {
	phase atomic.Pointer[phase] // nil until a zero Breaker is used
	set   *settings
	name  string
	base  time.Time     // where now counts from
	slow  time.Duration // SlowCall

	_ [cacheLine]byte

	failures, ignored, rejected, stale, opened atomic.Uint64

	mu      sync.Mutex // held to change the phase and for probes, never in a hook
	reopens int        // open phases since the last closed one
	changes changes
}

// New returns a closed Breaker. It starts nothing, and reports every fault of c
// in one error.
func New(c Config) (*Breaker, error) {
	set, err := newSettings(c)
	if err != nil {
		return nil, err
	}
	return newBreaker(set, c.Name), nil
}

func newBreaker(set *settings, name string) *Breaker {
	b := &Breaker{}
	b.init(set, name)
	return b
}

func (b *Breaker) init(set *settings, name string) {
	b.set, b.name, b.base = set, name, time.Now()
	b.slow = set.SlowCall
	b.phase.Store(b.newPhase(Closed))
}

// current returns the phase. It makes a zero Breaker that of a zero Config.
func (b *Breaker) current() *phase {
	if p := b.phase.Load(); p != nil {
		return p
	}
	return b.initZero()
}

func (b *Breaker) initZero() *phase {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase.Load() == nil {
		set, _ := newSettings(Config{}) // has no faults
		b.init(set, "")
	}
	return b.phase.Load()
}

// now returns the time since the breaker was made. It is monotonic, so steps of
// the wall clock do not touch it. Its base belongs to the breaker and not to the
// package, so that a test in virtual time sees only that.
func (b *Breaker) now() time.Duration { return time.Since(b.base) }

// classify is small enough to be inlined, for the sake of calls without an error.
func (b *Breaker) classify(ctx context.Context, err error) Outcome {
	if err == nil && b.set.Classify == nil {
		return Success
	}
	return b.set.classify(ctx, err)
}

// ForceOpen rejects all calls from now on, probes included, until [Breaker.Reset].
// Calls that are running go on, but count no longer.
func (b *Breaker) ForceOpen() { b.force(ForcedOpen) }

// Disable admits all calls from now on and counts none, until [Breaker.Reset].
// Calls that are running count no longer.
func (b *Breaker) Disable() { b.force(Disabled) }

// Reset closes the breaker, whatever its state, with an empty window and the
// initial open time. Calls that are running count no longer.
func (b *Breaker) Reset() { b.force(Closed) }
