package sqs

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/parley-go/parley/messaging"
)

const (
	// maxEntries is what SQS and SNS take in one request.
	maxEntries = 10
	// maxFlights bounds the requests of one gatherer that are under way, and
	// maxPartial those begun with fewer entries than there is room for: while as many
	// are, what comes gathers for the next.
	maxFlights = 16
	maxPartial = 2
)

// A gatherer makes batch requests of the calls that come at one time, as many as
// it takes and no later than it must: a call that is alone goes out at once. Each
// call gets its own outcome. It has no goroutine while nothing is under way.
type gatherer[E any] struct {
	broker *Broker
	limit  int  // bytes of one request
	single bool // no request has two calls of one lane
	// do carries calls out and finishes each. It returns when it has finished all.
	do func(ctx context.Context, f *flight, calls []*call[E])

	mu      sync.Mutex
	lanes   map[string]*lane[E] // guarded by mu
	ready   []*lane[E]          // guarded by mu; those that have calls and are not busy
	waiting int                 // guarded by mu; calls in ready lanes
	flights int                 // guarded by mu; requests under way
	partial int                 // guarded by mu; those of them that are not full
}

// A lane is the calls that must go out in order, one request after the other. Those
// of the lane "" need not.
type lane[E any] struct {
	name  string
	calls []*call[E]
	busy  bool
}

// A call is one entry on its way.
type call[E any] struct {
	entry E
	lane  string
	size  int
	done  chan struct{} // closed when err is set

	err   error
	taken *flight // guarded by gatherer.mu; nil while it waits
}

// A flight is a batch of calls under way.
type flight struct {
	waiters int // guarded by gatherer.mu
	cancel  context.CancelFunc
	// maybe says that a request is under way, or was not answered: what it asks for
	// may have been done.
	maybe atomic.Bool
	last  atomic.Pointer[error] // why the last request failed
}

// why returns the error of a call of f that err ends.
func (f *flight) why(err error) error {
	if last := f.last.Load(); last != nil {
		err = fmt.Errorf("%w (%w)", err, *last)
	}
	if f.maybe.Load() {
		err = unconfirmed(err)
	}
	return err
}

func (c *call[E]) finish(err error) {
	c.err = err
	close(c.done)
}

// finished reports whether c has its outcome.
func (c *call[E]) finished() bool { return isClosed(c.done) }

func newCall[E any](e E, lane string, size int) *call[E] {
	return &call[E]{entry: e, lane: lane, size: size, done: make(chan struct{})}
}

// submit has calls carried out. Only a call that the Broker's Close waits for
// may submit, and wait for each afterwards.
func (g *gatherer[E]) submit(calls ...*call[E]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range calls {
		l := g.lanes[c.lane]
		if l == nil {
			if g.lanes == nil {
				g.lanes = map[string]*lane[E]{}
			}
			l = &lane[E]{name: c.lane}
			g.lanes[c.lane] = l
		}
		if len(l.calls) == 0 && !l.busy {
			g.ready = append(g.ready, l)
		}
		l.calls = append(l.calls, c)
		if !l.busy {
			g.waiting++
		}
	}
	g.pump()
}

// wait returns the outcome of c. When ctx ends first, the error is its cause, and
// ErrNotConfirmed where c may have been carried out.
func (g *gatherer[E]) wait(ctx context.Context, c *call[E]) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.finished() {
		return c.err
	}
	if c.taken == nil {
		g.drop(c)
		return context.Cause(ctx)
	}
	if c.taken.waiters--; c.taken.waiters == 0 {
		c.taken.cancel()
	}
	return c.taken.why(context.Cause(ctx))
}

// drop takes out a call that waits in its lane, so that nothing is kept of callers
// that have left while no request could begin. g.mu is held.
func (g *gatherer[E]) drop(c *call[E]) {
	l := g.lanes[c.lane]
	i := slices.Index(l.calls, c)
	l.calls = slices.Delete(l.calls, i, i+1)
	if l.busy {
		return
	}
	g.waiting--
	if len(l.calls) == 0 {
		i = slices.Index(g.ready, l)
		g.ready = slices.Delete(g.ready, i, i+1)
		delete(g.lanes, l.name)
	}
}

// pump begins what requests may begin. g.mu is held.
func (g *gatherer[E]) pump() {
	for g.waiting > 0 && g.flights < maxFlights && (g.waiting >= maxEntries || g.partial < maxPartial) {
		calls, lanes := g.compose()
		isPartial := len(calls) < maxEntries
		if isPartial {
			g.partial++
		}
		g.flights++
		ctx, cancel := context.WithCancel(g.broker.base)
		f := &flight{waiters: len(calls), cancel: cancel}
		for _, c := range calls {
			c.taken = f
		}
		g.broker.workers.Go(func() {
			defer cancel()
			g.do(ctx, f, calls)
			g.landed(lanes, isPartial)
		})
	}
}

// compose takes what fits into one request. Lanes that keep an order are busy until
// it is answered.
func (g *gatherer[E]) compose() (calls []*call[E], lanes []*lane[E]) {
	size, full := 0, false
	for len(g.ready) > 0 && !full {
		l := g.ready[0]
		n := len(calls)
		for len(l.calls) > 0 {
			c := l.calls[0]
			if full = len(calls) == maxEntries || len(calls) > 0 && size+c.size > g.limit; full {
				break
			}
			l.calls[0] = nil
			l.calls = l.calls[1:]
			g.waiting--
			calls = append(calls, c)
			size += c.size
			if g.single {
				break
			}
		}
		if l.name == "" && len(l.calls) > 0 || full && len(calls) == n {
			break // the others behind it wait, or l itself, which gave nothing
		}
		g.ready = g.ready[1:]
		switch {
		case l.name != "" && len(calls) > n:
			l.busy = true
			g.waiting -= len(l.calls)
			lanes = append(lanes, l)
		case len(l.calls) == 0:
			delete(g.lanes, l.name)
		}
	}
	return calls, lanes
}

// landed frees what a request held.
func (g *gatherer[E]) landed(lanes []*lane[E], isPartial bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flights--
	if isPartial {
		g.partial--
	}
	for _, l := range lanes {
		l.busy = false
		if len(l.calls) == 0 {
			delete(g.lanes, l.name)
			continue
		}
		g.waiting += len(l.calls)
		g.ready = append(g.ready, l)
	}
	g.pump()
}

// idle reports that nothing waits and nothing is under way.
func (g *gatherer[E]) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flights == 0 && len(g.lanes) == 0
}

// unconfirmed is the error of what may have been carried out when err ended it.
func unconfirmed(err error) error {
	return fmt.Errorf("%w: %w", messaging.ErrNotConfirmed, err)
}
