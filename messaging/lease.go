package messaging

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// extenders bounds how many calls of Extend run at one time for one
	// subscription, so that one that hangs does not cost the others their leases.
	extenders = 8
	// minRound is the least time between two rounds of extending.
	minRound = time.Millisecond
)

// leases keeps the broker from taking back what a session has accepted, whether
// it is handled, waits in a lane or is held back, until it is settled.
type leases struct {
	term time.Duration // of a lease, above 0
	log  *slog.Logger

	mu   sync.Mutex
	open map[*Delivery]*lease // guarded by mu
}

// A lease is one delivery that the broker takes back when its time is over.
type lease struct {
	d     *Delivery
	s     Settler
	ctx   context.Context //nolint:containedctx // what deliver was called with, to see whether the lease has ended
	id    string
	begun time.Time // when its time began, at the earliest; guarded by leases.mu
}

func newLeases(term time.Duration, log *slog.Logger) *leases {
	return &leases{term: term, log: log, open: map[*Delivery]*lease{}}
}

// add extends the lease of j from now on. A nil leases does nothing, here and in
// remove.
func (l *leases) add(j *job) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[j.d] = &lease{d: j.d, s: j.s, ctx: j.lease, id: j.id, begun: time.Now()}
}

// remove lets the lease of d be. What is about to be settled must not be extended
// any more: it could undo the delay of a Retry.
func (l *leases) remove(d *Delivery) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, d)
}

// keep extends leases until ctx ends. A lease is extended when a third of it is
// over, and it looks twice in that time, so half of the lease is left for trying
// again when Extend fails.
func (l *leases) keep(ctx context.Context) {
	t := time.NewTicker(max(l.term/6, minRound))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.extend(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// extend is one round. Its calls have a third of a lease for all that is due.
func (l *leases) extend(ctx context.Context) {
	due := l.due()
	if len(due) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, l.term/3)
	defer cancel()
	next := make(chan *lease, len(due))
	for _, e := range due {
		next <- e
	}
	close(next)
	var calls sync.WaitGroup
	for range min(extenders, len(due)) {
		calls.Go(func() {
			for e := range next {
				began := time.Now()
				l.extended(e, began, e.s.Extend(ctx, l.term))
			}
		})
	}
	calls.Wait()
}

// due returns the leases to extend now.
func (l *leases) due() (due []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.open {
		if e.ctx.Err() == nil && time.Since(e.begun) >= l.term/3 {
			due = append(due, e)
		}
	}
	return due
}

// extended notes what came of a call of Extend. One that failed is made again in
// the next round. What the broker says to have taken back is let be: the end of
// its lease, which is the broker's to declare, ends the handler.
func (l *leases) extended(e *lease, began time.Time, err error) {
	l.mu.Lock()
	open := l.open[e.d] == e
	switch {
	case err == nil:
		e.begun = began
	case errors.Is(err, ErrLost):
		delete(l.open, e.d)
	}
	l.mu.Unlock()
	if err != nil && open { // what was settled meanwhile needs no lease
		l.log.Warn("messaging: lease not extended, the message may come again", slog.String("id", e.id), slog.Any("err", err))
	}
}
