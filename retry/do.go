package retry

import (
	"context"

	"github.com/parley-go/parley/internal/attempt"
)

// Do calls op until it returns nil, until its error is not to be retried, or
// until attempts, time or budget are spent. It returns nil, the operation's own
// error where that is not to be retried, or an [*Error] that keeps the
// operation's error and says why retrying ended.
//
// The first attempt runs on ctx itself; later ones on a context that carries
// their number (see [AttemptNumber]). With AttemptTimeout each has a deadline of
// its own. When ctx ends, no further attempt starts and the error is both the
// last one of op and the cause of ctx. When ctx has ended before, or when the
// policy is faulty, op is not called.
//
// Op must be safe to repeat. A panic of op goes through Do with its stack. Do is
// safe for concurrent use.
func (p Policy) Do(ctx context.Context, op func(context.Context) error) error {
	if op == nil {
		return p.fault([]string{"the operation is nil"})
	}
	if !p.bare() || !p.sound() || ctx.Err() != nil {
		return p.do(ctx, op)
	}
	// Nothing watches the first attempt of a bare policy: no clock, no budget,
	// no hook. All state begins with the first failure, so that a call that
	// succeeds at once costs a few comparisons.
	err := op(ctx)
	if err == nil {
		return nil
	}
	return p.run(ctx, &call{attempts: 1}, op, err)
}

func (p *Policy) bare() bool {
	return !p.Forever && p.MaxElapsed == 0 && p.AttemptTimeout == 0 &&
		p.Budget == nil && p.OnDone == nil
}

func (p *Policy) do(ctx context.Context, op func(context.Context) error) error {
	c := call{budget: p.Budget}
	if err := p.begin(ctx, &c); err != nil {
		return err
	}
	defer p.end(ctx, &c)
	err := p.run(ctx, &c, op, p.try(c.next(ctx), op))
	if err == nil {
		c.over(true)
	}
	return err
}

// run is the loop: err is what the attempt before it returned.
func (p *Policy) run(ctx context.Context, c *call, op func(context.Context) error, err error) error {
	for err != nil {
		d, stop := p.again(ctx, c, err)
		if stop == "" && (d > 0 || p.foreign()) {
			if stop = p.announce(ctx, c, d); stop == "" {
				stop = p.wait(ctx, c, d)
			}
		}
		if stop != "" {
			return p.err(ctx, c, stop)
		}
		err = p.try(c.next(ctx), op)
	}
	return nil
}

// foreign reports whether code of others may have run since the last attempt
// failed, so that time has passed or the context has ended. Where none has, a
// retry without a wait needs no second look at them, which is a sixth of its cost.
func (p *Policy) foreign() bool {
	switch p.Backoff.(type) {
	case nil, Constant, Exponential:
		return p.OnRetry != nil || p.Retryable != nil
	}
	return true
}

// try makes one attempt.
func (p *Policy) try(ctx context.Context, op func(context.Context) error) error {
	if p.AttemptTimeout == 0 {
		return op(ctx)
	}
	return p.bounded(ctx, op)
}

// bounded makes an attempt within AttemptTimeout.
func (p *Policy) bounded(ctx context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.AttemptTimeout, ErrAttemptTimeout)
	defer cancel()
	return markTimeout(ctx, op(ctx))
}

// Value is [Policy.Do] for an operation with a result. With a nil error it
// returns the result of the attempt that succeeded, with an error that of the
// last attempt, or the zero value where none was made.
func Value[T any](ctx context.Context, p Policy, op func(context.Context) (T, error)) (T, error) {
	var v T
	if op == nil {
		return v, p.Do(ctx, nil)
	}
	err := p.Do(ctx, func(ctx context.Context) error {
		var err error
		v, err = op(ctx)
		return err
	})
	return v, err
}

// AttemptNumber returns the number of the attempt that ctx belongs to: 1 for a
// first try and outside of any policy, 2 for the first retry. It lets a
// RoundTripper or a driver below a policy report retries.
func AttemptNumber(ctx context.Context) int { return attempt.From(ctx) }
