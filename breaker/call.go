package breaker

import (
	"context"
	"errors"
)

// Do calls fn with ctx if the breaker admits the call, and returns what fn
// returns, unchanged. Else it returns an [*OpenError] and does not call fn. Nor
// does it where ctx has ended already, and returns its cause, or where fn is nil.
//
// Config.Classify says what the error means for the dependency. If fn panics or
// calls [runtime.Goexit], that is a Failure, and goes on.
func (b *Breaker) Do(ctx context.Context, fn func(context.Context) error) error {
	if fn == nil {
		return errNoFunc
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p, err := b.Allow()
	if err != nil {
		return err
	}
	defer p.Done(Failure) // does nothing but in a panic, since the first Done counts
	err = fn(ctx)
	p.done(b.classify(ctx, err), err)
	return err
}

// Value is [Breaker.Do] for a function that returns a value too. Where fn is not
// called, the value is zero; else it is what fn returned, even with an error.
func Value[T any](ctx context.Context, b *Breaker, fn func(context.Context) (T, error)) (T, error) {
	var v T
	if fn == nil {
		return v, errNoFunc
	}
	err := b.Do(ctx, func(ctx context.Context) (err error) {
		v, err = fn(ctx)
		return err
	})
	return v, err
}

// Fallback is [Value] with a second choice: each call that b rejects is redirected
// to fallback, which gets ctx and the [*OpenError], and whose results are
// returned. It runs outside the breaker, so nothing about it counts.
//
// Only calls that b rejects are redirected. An error of fn is returned as it is,
// also if it is that of another breaker further in; so is the cause of a ctx that
// has ended already.
func Fallback[T any](
	ctx context.Context, b *Breaker,
	fn func(context.Context) (T, error), fallback func(context.Context, error) (T, error),
) (T, error) {
	var v T
	if fn == nil || fallback == nil {
		return v, errNoFunc
	}
	called := false
	err := b.Do(ctx, func(ctx context.Context) (err error) {
		called = true
		v, err = fn(ctx)
		return err
	})
	if _, open := errors.AsType[*OpenError](err); open && !called {
		return fallback(ctx, err)
	}
	return v, err
}
