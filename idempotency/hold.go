package idempotency

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Lease describes the claim under which work runs.
type Lease struct {
	// ID identifies the record.
	ID ID
	// Token is the fencing token; see [Outcome].
	Token int64
	// Attempt counts the claims on the record, this one included. Above 1 an
	// earlier attempt may have had some of its effect.
	Attempt int
	// TakenOver reports that the owner before crashed, or is still running
	// somewhere; its effect may have happened.
	TakenOver bool
	// TTL is how long the record will be kept once completed.
	TTL time.Duration
}

type holdKey struct{}

// FromContext returns the claim under which the work of ctx runs, and whether
// there is one. Of claims inside one another it is the innermost.
func FromContext(ctx context.Context) (Lease, bool) {
	if h, ok := ctx.Value(holdKey{}).(*hold); ok {
		return h.lease, true
	}
	return Lease{}, false
}

// hold is a claim while its work runs. The heartbeat is a timer, so that work
// which ends within a third of the lease starts no goroutine.
type hold struct {
	guard  *Guard
	kind   string
	lease  Lease
	cancel context.CancelCauseFunc // ends the context of the work

	mu      sync.Mutex
	beat    *time.Timer        // nil without heartbeat; not reset once stopped
	stopped bool               // guarded by mu
	hangup  context.CancelFunc // guarded by mu; ends a heartbeat's call of the store
	beating sync.WaitGroup     // 1 until the timer will not fire again
}

// hold begins to hold the claim in out and returns the context for its work.
func (g *Guard) hold(ctx context.Context, kind string, id ID, out Outcome) (*hold, context.Context) {
	h := &hold{guard: g, kind: kind, lease: Lease{
		ID: id, Token: out.Token, Attempt: out.Attempt, TakenOver: out.TakenOver, TTL: g.config.TTL,
	}}
	work, cancel := context.WithCancelCause(context.WithValue(ctx, holdKey{}, h))
	h.cancel = cancel
	if !g.config.DisableHeartbeat {
		h.beating.Add(1)
		h.mu.Lock() // the timer may fire before the field is set
		h.beat = time.AfterFunc(h.interval(), func() { h.extend(ctx) })
		h.mu.Unlock()
	}
	return h, work
}

// interval is the time between heartbeats. It is never 0, which would make a
// lease of a few nanoseconds spin.
func (h *hold) interval() time.Duration { return max(h.guard.config.Lease/3, time.Millisecond) }

// extend is one heartbeat. After an error that is not the loss of the claim the
// next one comes sooner, so that even a store that hangs is asked several times
// before the lease ends.
func (h *hold) extend(ctx context.Context) {
	h.mu.Lock()
	if h.stopped {
		h.mu.Unlock()
		h.beating.Done()
		return
	}
	timeout := min(h.guard.config.StoreTimeout, h.interval()/2)
	ctx, hangup := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	h.hangup = hangup
	h.mu.Unlock()
	defer hangup()

	err := h.guard.store.Extend(ctx, h.lease.ID, h.lease.Token, h.guard.config.Lease)

	h.mu.Lock()
	again := !h.stopped && !isFenced(err)
	if again {
		next := h.interval()
		if err != nil {
			next /= 4
		}
		h.beat.Reset(next)
	}
	h.mu.Unlock()
	if again {
		return
	}
	if isFenced(err) {
		h.cancel(ErrFenced)
	}
	h.beating.Done()
}

// stop ends the heartbeat, waits for it, and ends the context of the work.
func (h *hold) stop() {
	if h.beat != nil {
		h.mu.Lock()
		h.stopped = true
		pending, hangup := h.beat.Stop(), h.hangup
		h.mu.Unlock()
		if hangup != nil {
			hangup()
		}
		if !pending { // a heartbeat is under way, or has been the last
			h.beating.Wait()
		}
	}
	h.cancel(nil)
}

// complete settles the claim even if the caller has left.
func (h *hold) complete(ctx context.Context, r Result) error {
	h.stop()
	ctx, cancel := h.guard.bounded(context.WithoutCancel(ctx))
	defer cancel()
	return h.guard.store.Complete(ctx, h.lease.ID, h.lease.Token, r, h.lease.TTL)
}

// release gives the claim up, even if the caller has left. Where that fails the
// end of the lease does the same, only later.
func (h *hold) release(ctx context.Context) {
	h.stop()
	ctx, cancel := h.guard.bounded(context.WithoutCancel(ctx))
	defer cancel()
	_ = h.guard.store.Release(ctx, h.lease.ID, h.lease.Token)
}

func isFenced(err error) bool { return errors.Is(err, ErrFenced) }
