package idempotency

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Guard makes work that has a key happen once: an HTTP request by
// [Guard.Middleware], a function by [Value], a message by [Inbox]. It is safe
// for concurrent use.
//
// One Guard serves any number of each, and a Store any number of Guards. The keys
// of requests, functions and messages never meet. Two middlewares share the keys
// of each scope that both return, two functions those of a Key's Scope, and two
// inboxes those of a consumer: where that is not meant, the names must differ.
type Guard struct {
	store  Store
	config Config
	// instant says that the store answers at once and needs no timeout, which
	// would cost more than the answer.
	instant bool
}

// Config says how long claims and records last. The zero Config is ready to
// use.
type Config struct {
	// Lease is how long a claim is held without a sign of life from its owner.
	// After a crash the key answers busy for so long. Default 30s. Negative is
	// an error.
	Lease time.Duration

	// TTL is how long a key is remembered after its work has been done. Clients
	// must not repeat a request later than that. Default 24h. Less than Lease is
	// an error.
	TTL time.Duration

	// StoreTimeout bounds each call of the Store. Those that end the claim run
	// even if the caller has left, so this is also how long they may outlast it.
	// One that is to record work that is done is repeated within it, for up to a
	// second, while the Store fails. Default 5s. Negative is an error.
	StoreTimeout time.Duration

	// DisableHeartbeat stops the lease from being extended every third of its
	// length while the work runs: work that takes longer than Lease may then be
	// taken over while it runs, and is not told. Default: it is extended.
	DisableHeartbeat bool

	// OnOutcome, if set, is called at the end of each call that had a key or
	// should have had one. It must be quick and may be called by several
	// goroutines. Default: none.
	OnOutcome func(context.Context, Event)
}

const (
	defaultLease        = 30 * time.Second
	defaultTTL          = 24 * time.Hour
	defaultStoreTimeout = 5 * time.Second
)

// New returns a Guard whose records are in store, or an error that lists every
// fault of the config.
func New(store Store, config Config) (*Guard, error) {
	var f faults
	if store == nil {
		f.add("the store is nil")
	}
	memory, instant := store.(*Memory)
	if instant && memory == nil {
		f.add("the store is a nil *Memory: look at the error of NewMemory")
	}
	f.negative("Lease", config.Lease)
	f.negative("TTL", config.TTL)
	f.negative("StoreTimeout", config.StoreTimeout)
	if config.Lease == 0 {
		config.Lease = defaultLease
	}
	if config.TTL == 0 {
		config.TTL = defaultTTL
	}
	if config.StoreTimeout == 0 {
		config.StoreTimeout = defaultStoreTimeout
	}
	if config.TTL > 0 && config.TTL < config.Lease {
		f.add("TTL %v is shorter than Lease %v", config.TTL, config.Lease)
	}
	if err := f.err("config"); err != nil {
		return nil, err
	}
	return &Guard{store: store, config: config, instant: instant}, nil
}

// run is what HTTP requests, functions and messages have in common: it does the
// work if the claim is acquired, waits for up to wait if another call is doing
// it, and returns what was recorded if it has been done. An error of the work
// releases the claim; so does a panic, unless the work has set happened, and goes
// on. The hold is the context of the work, which ends with the call.
func (g *Guard) run(ctx context.Context, kind string, c Claim, wait time.Duration,
	work func(*hold) (Result, error),
) (r Result, replayed bool, err error) {
	e := Event{Kind: kind, Ending: EndFailed} // as a panic leaves it
	if g.config.OnOutcome != nil {
		start := time.Now()
		defer func() {
			e.Elapsed = time.Since(start)
			g.config.OnOutcome(ctx, e)
		}()
	}
	c.Lease, c.TTL = g.config.Lease, g.config.TTL
	out, asked, err := g.acquire(ctx, c, wait)
	if err == nil {
		switch out.Status {
		case Acquired:
			e.Attempt, e.TakenOver = out.Attempt, out.TakenOver
			r, err = g.execute(ctx, c.ID, out, asked, &e, work)
			return r, false, err
		case Completed:
			e.Ending = EndReplayed
			if out.Result.NotStored {
				e.Ending = EndNotStored
			}
			return out.Result, true, nil
		case Mismatch:
			e.Ending, err = EndMismatch, ErrMismatch
		case Busy:
			e.Ending, err = EndBusy, &RejectedError{Reason: ErrBusy, After: out.LeaseLeft}
		default:
			err = unavailable(fmt.Errorf("idempotency: the store answered with the unknown status %d", out.Status))
		}
	}
	switch {
	case e.Ending != EndFailed:
	case ctx.Err() != nil:
		// The caller left; that says nothing about the store.
		e.Ending, err = EndCanceled, fmt.Errorf("idempotency: the context ended before the work began: %w", context.Cause(ctx))
	default:
		e.Ending = EndUnavailable
	}
	e.Err = err
	return Result{}, false, err
}

// invalid reports a call that was refused before the store was asked.
func (g *Guard) invalid(ctx context.Context, kind string, err error) {
	if g.config.OnOutcome != nil {
		g.config.OnOutcome(ctx, Event{Kind: kind, Ending: EndInvalid, Err: err})
	}
}

// execute does the work under the claim in out and settles the claim. The
// result is that of the work also where it could not be recorded: the work is
// done, and an error would have it repeated.
func (g *Guard) execute(ctx context.Context, id ID, out Outcome, asked time.Time, e *Event,
	work func(*hold) (Result, error),
) (Result, error) {
	h := g.hold(ctx, id, out, asked)
	returned := false
	defer func() {
		switch { // where the work panicked or called runtime.Goexit
		case returned:
		case h.happened:
			h.complete(ctx, Result{NotStored: true}, e)
		default:
			h.release(ctx)
		}
	}()
	r, err := work(h)
	returned = true
	if err != nil {
		e.Err = err
		h.release(ctx)
		return r, err
	}
	h.complete(ctx, r, e)
	return r, nil
}

// acquire asks the store, again and again while another call is running and
// wait lasts. asked is when it did so last.
func (g *Guard) acquire(ctx context.Context, c Claim, wait time.Duration) (out Outcome, asked time.Time, err error) {
	start := time.Now()
	asked = start
	out, err = g.ask(ctx, c)
	const first, longest = 5 * time.Millisecond, 250 * time.Millisecond
	for pause := first; err == nil && out.Status == Busy; pause = min(2*pause, longest) {
		left := wait - time.Since(start)
		if left <= 0 {
			break
		}
		timer := time.NewTimer(min(pause, left, out.LeaseLeft))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Outcome{}, asked, context.Cause(ctx)
		}
		asked = time.Now()
		next, failed := g.ask(ctx, c)
		if failed != nil && ctx.Err() == nil {
			break // what the store said before stands: FailOpen must not run the work beside another call
		}
		out, err = next, failed
	}
	return out, asked, err
}

func (g *Guard) ask(ctx context.Context, c Claim) (Outcome, error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	out, err := g.store.Acquire(ctx, c)
	if err != nil {
		return Outcome{}, unavailable(err)
	}
	return out, nil
}

// settling returns the context of the call that ends a claim, which goes on when
// the caller has left.
func (g *Guard) settling(ctx context.Context) (context.Context, context.CancelFunc) {
	if g.instant {
		return context.Background(), func() {} // it looks at nothing of it
	}
	return g.bounded(context.WithoutCancel(ctx))
}

// bounded returns ctx with the time limit of one call of the store.
func (g *Guard) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if g.instant {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, g.config.StoreTimeout)
}

// unavailable asks for a second, which a store that fails over needs at least.
func unavailable(err error) error {
	return &RejectedError{Reason: ErrUnavailable, After: time.Second, Err: err}
}

// faults collects what is wrong with a config.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f *faults) negative(field string, d time.Duration) {
	if d < 0 {
		f.add("%s %v is negative", field, d)
	}
}

func (f *faults) err(what string) error {
	if len(*f) == 0 {
		return nil
	}
	return fmt.Errorf("idempotency: %s: %s", what, strings.Join(*f, "; "))
}
