// Package attempt carries the number of the current attempt in a context, from
// the retry package, which counts, to whoever reports it: tracing writes it on
// the span of each attempt, and a nested retry policy that sees it tries once.
package attempt

import "context"

type key struct{}

// numbered is a context of one allocation; context.WithValue needs more memory
// for the same, and every retry pays for it.
type numbered struct {
	context.Context //nolint:containedctx // it is a context
	n               int
}

func (c *numbered) Value(k any) any {
	if k == (key{}) {
		return c.n
	}
	return c.Context.Value(k)
}

// NewContext returns a context that says that attempt n is running.
// Attempt 1 is the first try; the retry package leaves it unmarked, so that a
// call that succeeds at once pays for no context.
func NewContext(ctx context.Context, n int) context.Context {
	return &numbered{ctx, n}
}

// From returns the number of the attempt that ctx belongs to, 1 where nothing
// was said.
func From(ctx context.Context) int {
	if n, ok := ctx.Value(key{}).(int); ok {
		return n
	}
	return 1
}
