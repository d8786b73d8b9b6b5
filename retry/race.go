package retry

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/parley-go/parley/internal/attempt"
)

// race is the state of one hedged call. It belongs to the goroutine that called
// Hedge; attempts only send their outcome.
type race[T any] struct {
	hedging  *Hedging
	op       func(context.Context) (T, error)
	discard  func(T)
	limit    int // of attempts; lowered where no further one may start
	delay    time.Duration
	nested   bool
	outcomes chan outcome[T]
	cancels  []context.CancelCauseFunc // of the attempts started, by number from 0
	running  int
	timer    *time.Timer
	pending  bool        // timer will start an attempt
	stopped  Reason      // why no further attempt may start; empty where limit says it
	reason   Reason      // of the Result
	errs     []error     // in the order in which attempts failed
	panicked *PanicError // the first
	exited   bool        // an attempt called runtime.Goexit
	unclaim  func()      // discards the winner's result, if the caller does not get it
}

// outcome is how an attempt ended. It has returned, or panicked, or neither:
// then it called runtime.Goexit.
type outcome[T any] struct {
	attempt  int // from 0
	value    T
	err      error
	returned bool
	panicked *PanicError
}

func (o *outcome[T]) won() bool { return o.returned && o.err == nil }

// run starts attempts and hears them until one decides the call or none is left.
func (r *race[T]) run(ctx context.Context) (T, error) {
	if ctx.Err() == nil {
		if b := r.hedging.Budget; b != nil {
			b.called()
		}
		// Room for all, so that an attempt never waits to be heard.
		r.outcomes = make(chan outcome[T], r.limit)
		r.timer = time.NewTimer(r.delay)
		r.start(ctx)
	}
	ended := ctx.Done()
	for r.running > 0 || r.pending {
		select {
		case o := <-r.outcomes:
			r.running--
			if r.decides(ctx, &o) {
				return r.finish(&o)
			}
		case <-r.timer.C:
			r.pending = false
			r.more(ctx)
		case <-ended:
			// The attempts see it too; what is left is to hear them.
			ended, r.pending = nil, false
		}
	}
	var none T
	return none, r.err(ctx)
}

// start starts an attempt and plans the next.
func (r *race[T]) start(ctx context.Context) {
	n := len(r.cancels)
	own := ctx
	if n > 0 {
		own = attempt.NewContext(ctx, n+1)
	}
	own, cancel := context.WithCancelCause(own)
	r.cancels = append(r.cancels, cancel)
	r.running++
	r.stopped = ""
	go try(own, n, r.op, r.outcomes)
	r.plan(ctx, r.delay)
}

// try makes an attempt on a goroutine of its own and always sends its outcome,
// as the last thing it does.
func try[T any](ctx context.Context, n int, op func(context.Context) (T, error), outcomes chan<- outcome[T]) {
	o := outcome[T]{attempt: n}
	defer func() {
		if !o.returned {
			if v := recover(); v != nil {
				o.panicked = &PanicError{Value: v, Stack: debug.Stack()}
			}
		}
		outcomes <- o
	}()
	o.value, o.err = op(ctx)
	o.returned = true
}

// plan sets the timer for the next attempt, if there may be one after d.
func (r *race[T]) plan(ctx context.Context, d time.Duration) {
	r.pending = false
	r.timer.Stop()
	switch {
	case len(r.cancels) >= r.limit:
	case pastDeadline(ctx, d):
		r.stopped = ErrDeadline
	default:
		r.pending = true
		r.timer.Reset(d)
	}
}

// more starts another attempt, if there may be one now.
func (r *race[T]) more(ctx context.Context) {
	if ctx.Err() != nil || len(r.cancels) >= r.limit {
		return
	}
	if b := r.hedging.Budget; b != nil && !b.take() {
		r.stop(ErrBudget)
		return
	}
	r.start(ctx)
}

// stop lets no further attempt start.
func (r *race[T]) stop(reason Reason) {
	r.limit, r.stopped, r.pending = len(r.cancels), reason, false
}

// decides reports whether the call ends with o. Where it does not, it starts or
// plans the next attempt.
func (r *race[T]) decides(ctx context.Context, o *outcome[T]) bool {
	if !o.returned || o.err == nil {
		return true
	}
	r.errs = append(r.errs, o.err)
	f := factsOf(o.err)
	switch {
	case ctx.Err() != nil:
		return false
	case r.nested, f.permanent:
		return true
	case f.givenUp, f.rejected:
		// It says nothing about the attempts that run.
		r.stop(ErrNotRetryable)
		return false
	case r.hedging.Retryable != nil && !r.hedging.Retryable(o.err):
		return true
	}
	if b := r.hedging.Budget; b != nil {
		b.failed()
	}
	switch {
	case f.after < 0 || f.after > defaultMaxRetryAfter:
		r.stop(ErrRetryAfter)
	case f.after > 0:
		r.plan(ctx, f.after)
	default:
		r.more(ctx)
	}
	return false
}

// finish ends the call with o: the result of the winner, an error that is not to
// be retried, or a way out without return.
func (r *race[T]) finish(o *outcome[T]) (T, error) {
	var none T
	if o.won() {
		r.unclaim = func() { r.drop(o.value) }
		r.settle(o.attempt)
	} else {
		r.unwound(o)
		r.settle(-1)
	}
	if r.panicked != nil || r.exited {
		if r.panicked != nil {
			panic(r.panicked) //nolint:forbidigo // op's own panic goes on in the goroutine that called Hedge
		}
		runtime.Goexit()
	}
	if !o.won() {
		r.reason = ErrNotRetryable
		if r.nested {
			r.reason = ErrNested
		}
		return none, o.err
	}
	r.reason = ""
	if b := r.hedging.Budget; b != nil {
		b.succeeded()
	}
	r.keep(o)
	return o.value, nil
}

// unwound notes an attempt that did not return.
func (r *race[T]) unwound(o *outcome[T]) {
	switch {
	case o.returned:
	case o.panicked == nil:
		r.exited = true
	case r.panicked == nil:
		r.panicked = o.panicked
	}
}

// settle ends all attempts but the winner, waits for them, and discards what
// they still brought.
func (r *race[T]) settle(winner int) {
	for n, cancel := range r.cancels {
		if n != winner {
			cancel(ErrLost)
		}
	}
	var late []T
	for ; r.running > 0; r.running-- {
		o := <-r.outcomes
		r.unwound(&o)
		if o.won() {
			late = append(late, o.value)
		}
	}
	// After the last has ended, and deferred: discard is the user's, and the
	// others are discarded though it should panic for one.
	for _, v := range slices.Backward(late) {
		defer r.drop(v)
	}
}

func (r *race[T]) drop(v T) {
	if r.discard != nil {
		r.discard(v)
	} else if resp, ok := any(v).(*http.Response); ok && resp != nil {
		closeBody(resp.Body) // unread: its context has ended
	}
}

// keep lets the winner's context live as long as its result needs it.
func (r *race[T]) keep(o *outcome[T]) {
	release := r.cancels[o.attempt]
	if resp, ok := any(o.value).(*http.Response); ok && resp != nil {
		r.cancels[o.attempt] = func(error) {} // from now on the body's
		resp.Body = releaseAfter(resp.Body, func() { release(nil) })
	}
}

// end is deferred: no attempt outlives the call and no result is left behind,
// also when the user's Retryable, discard or OnDone panics.
func (r *race[T]) end(ctx context.Context, start time.Time) {
	told := false
	defer func() {
		if r.unclaim != nil && (r.reason != "" || !told) {
			r.unclaim()
		}
	}()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.settle(-1)
	if h := r.hedging; h.OnDone != nil {
		res := Result{Name: h.Name, Attempts: len(r.cancels), Elapsed: time.Since(start), Reason: r.reason}
		if n := len(r.errs); n > 0 && r.reason != "" {
			res.Err = r.errs[n-1]
		}
		h.OnDone(ctx, res)
	}
	told = true
}

// err is what the caller gets when no attempt succeeded: see call.err.
func (r *race[T]) err(ctx context.Context) error {
	r.reason = ErrExhausted
	if r.stopped != "" {
		r.reason = r.stopped
	}
	e := &Error{Name: r.hedging.Name, Attempts: len(r.cancels)}
	if ctx.Err() != nil {
		r.reason, e.Cause = ErrCanceled, context.Cause(ctx)
	}
	if n := len(r.errs); n > 0 {
		e.First, e.Last, e.Recent = r.errs[0], r.errs[n-1], r.errs[max(0, n-maxRecent):]
	}
	if r.reason == ErrNotRetryable {
		return e.Last
	}
	e.Reason = r.reason
	return e
}
