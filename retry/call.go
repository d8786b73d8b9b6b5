package retry

import (
	"context"
	"time"

	"github.com/parley-go/parley/internal/attempt"
)

// maxRecent is how many errors a call remembers, so that a call that retries for
// days stays small.
const maxRecent = 8

// call is the state of one call under a policy. It lives on the stack of Do or
// RoundTrip and belongs to one goroutine. The policy stands beside it and not in
// it: a pointer in it would move the caller's Policy to the heap.
type call struct {
	budget   *Budget
	start    time.Time // set where MaxElapsed or OnDone needs it
	attempts int
	delay    time.Duration // that the backoff gave last
	waited   time.Duration
	reason   Reason
	first    error
	last     error
	recent   []error          // of the last attempts; nil up to the second, which first and last tell
	contexts attempt.Contexts // of the attempts
	timer    *time.Timer      // reused by all waits
}

// begin checks policy and context. Unless it returns an error, the caller
// defers end.
func (p *Policy) begin(ctx context.Context, c *call) error {
	if err := p.check(ctx, c.budget); err != nil {
		return err
	}
	if p.MaxElapsed > 0 || p.OnDone != nil {
		c.start = time.Now()
	}
	if ctx.Err() != nil {
		err := p.err(ctx, c, ErrCanceled)
		p.end(ctx, c)
		return err
	}
	if c.budget != nil {
		c.budget.called()
	}
	// Until the call is decided, this is what is known about it: end runs on
	// every way out, a panic and runtime.Goexit of a hook included.
	c.reason = ErrPanicked
	return nil
}

// end reports the call. It is deferred, so that it runs on every way out.
func (p *Policy) end(ctx context.Context, c *call) {
	if p.OnDone != nil {
		p.OnDone(ctx, Result{Name: p.Name, Attempts: c.attempts, Elapsed: time.Since(c.start), Reason: c.reason, Err: c.last})
	}
}

// next counts an attempt and returns the context to make it with.
func (c *call) next(ctx context.Context) context.Context {
	c.attempts++
	return c.contexts.Next(ctx, c.attempts)
}

// over notes that the attempt needs no other; well says that it also shows a
// dependency in health.
func (c *call) over(well bool) {
	c.reason, c.last = "", nil
	if c.budget != nil && well {
		c.budget.succeeded()
	}
}

// failed notes the error of an attempt.
func (c *call) failed(err error) {
	switch {
	case c.attempts == 1:
		c.first = err
	case c.attempts == 2:
	case c.recent == nil:
		c.recent = append(make([]error, 0, maxRecent), c.first, c.last, err)
	case len(c.recent) == maxRecent:
		copy(c.recent, c.recent[1:])
		c.recent[maxRecent-1] = err
	default:
		c.recent = append(c.recent, err)
	}
	c.last = err
}

// again decides about the error of an attempt: after what wait there is to be
// another, or why there is to be none.
func (p *Policy) again(ctx context.Context, c *call, err error) (time.Duration, Reason) {
	c.failed(err)
	if ctx.Err() != nil {
		return 0, ErrCanceled
	}
	if c.attempts == 1 && !p.AllowNested && attempt.From(ctx) > 1 {
		return 0, ErrNested
	}
	f := factsOf(err)
	if f.final(p.RetryRejected) || p.Retryable != nil && !p.Retryable(err) {
		return 0, ErrNotRetryable
	}
	if c.budget != nil {
		c.budget.failed()
	}
	if !p.Forever && c.attempts >= p.maxAttempts() {
		return 0, ErrExhausted
	}
	c.delay = p.backoff(c.attempts, c.delay)
	if f.after > p.maxRetryAfter() {
		return 0, ErrRetryAfter
	}
	d := c.delay
	if f.after > 0 {
		// On top of each other: callers that were told the same must not come
		// back together. Where the sum overflows, the larger one is long enough.
		d = max(f.after+c.delay, f.after, c.delay)
	}
	if p.late(c, d) || pastDeadline(ctx, d) {
		return 0, ErrDeadline
	}
	// The budget comes last, so that no retry is taken out that is not made.
	if c.budget != nil && !c.budget.take() {
		return 0, ErrBudget
	}
	return d, ""
}

// barred says why no attempt may start in d from now, if so.
func (p *Policy) barred(ctx context.Context, c *call, d time.Duration) Reason {
	switch {
	case ctx.Err() != nil:
		return ErrCanceled
	case p.late(c, d) || pastDeadline(ctx, d):
		return ErrDeadline
	}
	return ""
}

// pastDeadline reports whether a wait of d would end at the context's deadline
// or after it. Where nothing is waited for, the context's own word is enough,
// and the deadline need not be read.
func pastDeadline(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return false
	}
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= d
}

// announce tells the hook about the attempt that failed, and says why the wait is
// not to begin after that, if so: the hook may have taken its time.
func (p *Policy) announce(ctx context.Context, c *call, d time.Duration) Reason {
	if p.OnRetry == nil {
		return ""
	}
	p.OnRetry(ctx, Attempt{Name: p.Name, Number: c.attempts, Delay: d, Err: c.last})
	return p.barred(ctx, c, d)
}

// wait waits for d and says why the next attempt may not begin after it, if so. A
// context that ended in a hook, or at the very instant the wait is over, wins.
func (p *Policy) wait(ctx context.Context, c *call, d time.Duration) Reason {
	if d > 0 {
		c.sleep(ctx, d)
	}
	return p.barred(ctx, c, 0)
}

// sleep returns after d or when ctx ends.
func (c *call) sleep(ctx context.Context, d time.Duration) {
	if c.timer == nil {
		c.timer = time.NewTimer(d)
	} else {
		c.timer.Reset(d)
	}
	select {
	case <-c.timer.C:
		c.waited += d
	case <-ctx.Done():
		c.timer.Stop()
	}
}

// late reports whether an attempt that starts in d starts after MaxElapsed. It
// compares with what is left, for a sum could overflow.
func (p *Policy) late(c *call, d time.Duration) bool {
	return p.MaxElapsed > 0 && d >= p.MaxElapsed-time.Since(c.start)
}

// err ends the call for the reason and returns what the caller gets: the
// operation's own error where the policy had no part in the failure, an *Error
// otherwise.
func (p *Policy) err(ctx context.Context, c *call, reason Reason) error {
	c.reason = reason
	if c.reason == ErrNotRetryable || c.reason == ErrNested {
		return c.last
	}
	e := &Error{
		Name: p.Name, Attempts: c.attempts, Waited: c.waited, Reason: c.reason,
		First: c.first, Last: c.last, Recent: c.recent,
	}
	switch c.attempts {
	case 1:
		e.Recent = []error{c.last}
	case 2:
		e.Recent = []error{c.first, c.last}
	}
	if c.reason == ErrCanceled {
		e.Cause = context.Cause(ctx)
	}
	return e
}
