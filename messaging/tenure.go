package messaging

import (
	"context"
	"time"

	"github.com/parley-go/parley/internal/lazyctx"
)

const (
	// settleTimeout bounds how long a verdict may take to be carried out.
	settleTimeout = 30 * time.Second
	// settlingTime is how long one context serves for verdicts.
	settlingTime = time.Second
	// maxContexts is how many contexts of handlers are made at one time.
	maxContexts = 8
)

// tenures are the contexts of a lane for the leases that it had work of lately: those
// of one connection, or of a few partitions that take turns. To make one costs a quarter
// of all that is done for a message, see BenchmarkConsumer of package memory.
type tenures struct {
	drain context.Context //nolint:containedctx // of the one call of Subscribe that the session is
	of    [8]tenure
	last  *tenure // who is asked for first
	next  int     // whose place the next one gets
}

// A tenure is a lease, and what a lane does under it.
type tenure struct {
	lease    context.Context //nolint:containedctx // what deliver was called with
	work     context.Context //nolint:containedctx // of handlers; ends with lease or drain
	quit     func()          // ends work
	settling context.Context //nolint:containedctx // of verdicts
	settled  func()          // ends settling
	renewal  time.Duration   // of settling, from the beginning of the session

	contexts []lazyctx.Context // for handlers to come
	made     int               // how many were made the last time
}

// under returns the tenure of lease.
func (t *tenures) under(lease context.Context) *tenure {
	if t.last != nil && t.last.lease == lease {
		return t.last
	}
	for i := range t.of {
		if t.of[i].lease == lease {
			t.last = &t.of[i]
			return t.last
		}
	}
	t.last = &t.of[t.next]
	t.next = (t.next + 1) % len(t.of)
	t.last.end()
	*t.last = tenure{lease: lease}
	t.last.work, t.last.quit = during(lease, t.drain)
	return t.last
}

// end ends all.
func (t *tenures) end() {
	for i := range t.of {
		t.of[i].end()
	}
}

// during returns a context that ends with lease or drain.
func during(lease, drain context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(lease)
	stop := context.AfterFunc(drain, func() { cancel(context.Cause(drain)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// context returns the context of one handler, which ends with work or before it. Those
// that lie in one piece of memory are of one lease: whoever keeps one keeps them all. A
// lease may be of one message alone, so there is one at first.
func (t *tenure) context() *lazyctx.Context {
	if len(t.contexts) == 0 {
		t.made = min(max(1, 2*t.made), maxContexts)
		t.contexts = make([]lazyctx.Context, t.made)
	}
	ctx := &t.contexts[0]
	t.contexts = t.contexts[1:]
	ctx.Parent = t.work
	return ctx
}

// verdicts returns a context within the lease that leaves a verdict settleTimeout
// from now, which is counted from the beginning of the session.
func (t *tenure) verdicts(now time.Duration) context.Context {
	if t.settling == nil || now > t.renewal { // seldom: see settlingTime
		if t.settled != nil {
			t.settled()
		}
		t.renewal = now + settlingTime
		t.settling, t.settled = context.WithTimeout(t.lease, settleTimeout+settlingTime)
	}
	return t.settling
}

func (t *tenure) end() {
	if t.quit != nil {
		t.quit()
	}
	if t.settled != nil {
		t.settled()
	}
}
