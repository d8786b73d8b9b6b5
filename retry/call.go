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
// RoundTrip and belongs to one goroutine.
type call struct {
	policy   Policy // a copy: a pointer would move the caller's Policy to the heap
	budget   *Budget
	start    time.Time // set where MaxElapsed or OnDone needs it
	attempts int
	delay    time.Duration // that the backoff gave last
	waited   time.Duration
	reason   Reason
	first    error
	last     error
	recent   []error     // of the last attempts; nil up to the second, which first and last tell
	timer    *time.Timer // reused by all waits
}

// begin checks policy and context. Unless it returns an error, the caller
// defers end.
func (c *call) begin(ctx context.Context) error {
	p := &c.policy
	if err := p.check(ctx, c.budget); err != nil {
		return err
	}
	if p.MaxElapsed > 0 || p.OnDone != nil {
		c.start = time.Now()
	}
	if ctx.Err() != nil {
		c.reason = ErrCanceled
		c.end(ctx)
		return c.err(ctx)
	}
	if c.budget != nil {
		c.budget.called()
	}
	// Until an attempt returns, this is what is known about the call: end runs
	// on every way out, a panic and runtime.Goexit included.
	c.reason = ErrPanicked
	return nil
}

// end reports the call. It is deferred, so that it runs on every way out.
func (c *call) end(ctx context.Context) {
	if c.timer != nil {
		c.timer.Stop()
	}
	if p := &c.policy; p.OnDone != nil {
		p.OnDone(ctx, Result{Name: p.Name, Attempts: c.attempts, Elapsed: time.Since(c.start), Reason: c.reason, Err: c.last})
	}
}

// next counts an attempt and returns the context to make it with: the caller's
// own for the first, which therefore costs nothing, one that carries the number
// for all others.
func (c *call) next(ctx context.Context) context.Context {
	c.attempts++
	if c.attempts == 1 {
		return ctx
	}
	return attempt.NewContext(ctx, c.attempts)
}

// succeeded notes that the attempt needs no other.
func (c *call) succeeded() {
	c.reason, c.last = "", nil
	if c.budget != nil {
		c.budget.succeeded()
	}
}

// failed notes the error of an attempt, and that the call ends with it unless
// something else is decided.
func (c *call) failed(err error, reason Reason) {
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
	c.last, c.reason = err, reason
}

// again decides about the error of an attempt: whether there is to be another,
// and after what wait.
func (c *call) again(ctx context.Context, err error) (time.Duration, bool) {
	c.failed(err, ErrPanicked) // see begin: the policy's own functions may panic too
	d, reason := c.decide(ctx, err)
	if reason != "" {
		c.reason = reason
		return 0, false
	}
	return d, true
}

// decide returns the wait before the next attempt, or why there is none.
func (c *call) decide(ctx context.Context, err error) (time.Duration, Reason) {
	p := &c.policy
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
	d := max(c.delay, f.after)
	// Compared by what is left, never by adding to d: a sum could overflow.
	if p.MaxElapsed > 0 && d >= p.MaxElapsed-time.Since(c.start) || pastDeadline(ctx, d) {
		return 0, ErrDeadline
	}
	// The budget comes last, so that no retry is taken out that is not made.
	if c.budget != nil && !c.budget.take() {
		return 0, ErrBudget
	}
	return d, ""
}

// pastDeadline reports whether a wait of d would end at the context's deadline
// or after it.
func pastDeadline(ctx context.Context, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= d
}

// announce tells the hook about the attempt that failed.
func (c *call) announce(ctx context.Context, d time.Duration) {
	if p := &c.policy; p.OnRetry != nil {
		p.OnRetry(ctx, Attempt{Name: p.Name, Number: c.attempts, Delay: d, Err: c.last})
	}
}

// wait waits for d and reports whether the next attempt may begin. A context
// that ended in a hook, or at the very instant the wait is over, wins.
func (c *call) wait(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		if c.timer == nil {
			c.timer = time.NewTimer(d)
		} else {
			c.timer.Reset(d)
		}
		select {
		case <-c.timer.C:
			c.waited += d
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		c.reason = ErrCanceled
		return false
	}
	return true
}

// err is what the caller gets: the operation's own error where the policy had
// no part in the failure, an *Error otherwise.
func (c *call) err(ctx context.Context) error {
	if c.reason == ErrNotRetryable || c.reason == ErrNested {
		return c.last
	}
	e := &Error{
		Name: c.policy.Name, Attempts: c.attempts, Waited: c.waited, Reason: c.reason,
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
