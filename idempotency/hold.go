package idempotency

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parley-go/parley/internal/lazyctx"
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

// hold is a claim while its work runs, and the context of that work. The heartbeat
// is a timer, so that work which ends within a third of the lease starts no
// goroutine.
type hold struct {
	lazyctx.Context

	guard *Guard
	lease Lease
	outer *hold     // whose work this is part of; nil for none
	asked time.Time // before Acquire: the lease ends no earlier than its length after that

	// happened is set by the work once a panic must not release the claim any
	// more, because the effect is there.
	happened bool

	mu      sync.Mutex
	beat    *time.Timer        // nil without heartbeat; not reset once stopped
	lapse   *time.Timer        // guarded by mu; ends the work with the lease; nil before the first heartbeat
	stopped bool               // guarded by mu
	hangup  context.CancelFunc // guarded by mu; ends a heartbeat's call of the store
	beating sync.WaitGroup     // 1 until the timer will not fire again
}

// hold begins to hold the claim in out, for which the store was asked at the
// given time.
func (g *Guard) hold(ctx context.Context, id ID, out Outcome, asked time.Time) *hold {
	h := &hold{Context: lazyctx.Context{Parent: ctx}, guard: g, asked: asked, lease: Lease{
		ID: id, Token: out.Token, Attempt: out.Attempt, TakenOver: out.TakenOver, TTL: g.config.TTL,
	}}
	h.outer, _ = ctx.Value(holdKey{}).(*hold)
	if !g.config.DisableHeartbeat {
		first := h.interval()
		if !g.instant { // else no time has passed, and asking for it would cost more
			first -= time.Since(asked)
		}
		h.beating.Add(1)
		h.mu.Lock() // the timer may fire before the field is set
		h.beat = time.AfterFunc(first, h.extend)
		h.mu.Unlock()
	}
	return h
}

// Value implements [context.Context]: the claim is found in the context of its work.
func (h *hold) Value(key any) any {
	if key == (holdKey{}) {
		return h
	}
	return h.Context.Value(key)
}

// isHeld reports whether ctx is that of work under the claim with the id.
func isHeld(ctx context.Context, id ID) bool {
	h, _ := ctx.Value(holdKey{}).(*hold)
	for h != nil && h.lease.ID != id {
		h = h.outer
	}
	return h != nil
}

// interval is the time between heartbeats. It is never 0, which would make a
// lease of a few nanoseconds spin.
func (h *hold) interval() time.Duration { return max(h.guard.config.Lease/3, time.Millisecond) }

// extend is one heartbeat. After an error that is not the loss of the claim the
// next one comes sooner, so that even a store that hangs is asked several times
// before the lease ends. When it has ended by the clock of this process the work
// is told; the heartbeat goes on, since the store revives a lease that nobody
// took over, and the work may not listen.
func (h *hold) extend() {
	h.mu.Lock()
	if h.stopped {
		h.mu.Unlock()
		h.beating.Done()
		return
	}
	lease := h.guard.config.Lease
	if h.lapse == nil {
		h.lapse = time.AfterFunc(lease-time.Since(h.asked), func() { h.EndFor(ErrFenced) })
	}
	timeout := min(h.guard.config.StoreTimeout, h.interval()/2)
	ctx, hangup := context.WithTimeout(context.WithoutCancel(h.Parent), timeout)
	h.hangup = hangup
	h.mu.Unlock()
	defer hangup()

	asked := time.Now()
	err := h.guard.store.Extend(ctx, h.lease.ID, h.lease.Token, lease)

	h.mu.Lock()
	again := !h.stopped && !isFenced(err)
	if again {
		next := h.interval()
		if err != nil {
			next /= 4
		} else {
			h.lapse.Reset(lease - time.Since(asked))
		}
		h.beat.Reset(next)
	}
	h.mu.Unlock()
	if again {
		return
	}
	if isFenced(err) {
		h.EndFor(ErrFenced)
	}
	h.beating.Done()
}

// stop ends the heartbeat, waits for it, and ends the context of the work.
func (h *hold) stop() {
	if h.beat != nil {
		h.mu.Lock()
		h.stopped = true
		pending, hangup := h.beat.Stop(), h.hangup
		if h.lapse != nil {
			h.lapse.Stop()
		}
		h.mu.Unlock()
		if hangup != nil {
			hangup()
		}
		if !pending { // a heartbeat is under way, or has been the last
			h.beating.Wait()
		}
	}
	h.End()
}

// complete settles the claim of work that is done, even if the caller has left,
// and notes in e what became of it.
func (h *hold) complete(ctx context.Context, r Result, e *Event) {
	h.stop()
	ctx, cancel := h.guard.settling(ctx)
	defer cancel()
	switch e.Err = h.record(ctx, r); {
	case e.Err == nil:
		e.Ending = EndExecuted
	case isFenced(e.Err):
		e.Ending = EndFenced
	default:
		e.Ending = EndUnrecorded
	}
}

// record asks the store to complete the claim, and again while that fails: a
// connection that broke unnoticed, or a restart, must not have the work done
// twice. A step that did happen may be repeated, says [Store].
func (h *hold) record(ctx context.Context, r Result) error {
	err := h.guard.store.Complete(ctx, h.lease.ID, h.lease.Token, r, h.lease.TTL)
	if err == nil || isFenced(err) {
		return err
	}
	const first, longest, enough = 10 * time.Millisecond, 250 * time.Millisecond, time.Second
	start := time.Now()
	for pause := first; time.Since(start)+pause <= enough; pause = min(2*pause, longest) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err // of the store: that of ctx says only that time is up
		}
		if err = h.guard.store.Complete(ctx, h.lease.ID, h.lease.Token, r, h.lease.TTL); err == nil || isFenced(err) {
			return err
		}
	}
	return err
}

// release gives the claim up, even if the caller has left. Where that fails the
// end of the lease does the same, only later.
func (h *hold) release(ctx context.Context) {
	h.stop()
	ctx, cancel := h.guard.settling(ctx)
	defer cancel()
	_ = h.guard.store.Release(ctx, h.lease.ID, h.lease.Token)
}

func isFenced(err error) bool { return errors.Is(err, ErrFenced) }
