package bulkhead

import "context"

// Do calls fn with ctx when there is a slot for it, and returns what fn returns,
// unchanged. If there is none, now or after the wait in the queue, it returns a
// [*FullError] and does not call fn. The same goes for a ctx that ends before,
// where the error wraps its cause, and for a nil fn.
//
// The slot is held until fn returns, panics or calls [runtime.Goexit], whatever
// becomes of ctx: Do waits for a fn that ignores it, and leaves no goroutine
// behind.
func (b *Bulkhead) Do(ctx context.Context, fn func(context.Context) error) error {
	if fn == nil {
		return errNoFunc
	}
	p, err := b.Acquire(ctx)
	if err != nil {
		return err
	}
	defer p.Done(errUnfinished) // does nothing but in a panic, since the first Done counts
	err = fn(ctx)
	p.Done(err)
	return err
}

// Value is [Bulkhead.Do] for a function that returns a value too. Where fn is not
// called, the value is zero; else it is what fn returned, even with an error.
func Value[T any](ctx context.Context, b *Bulkhead, fn func(context.Context) (T, error)) (T, error) {
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
