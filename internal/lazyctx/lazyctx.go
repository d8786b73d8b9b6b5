// Package lazyctx has the context of work that is mostly over before anybody asks
// whether it is: what ends it is made when it is first asked for. Until then it
// costs its parent nothing, where that of context.WithCancel is entered into the
// parent's list and taken off again under a lock.
package lazyctx

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// A Context ends with its Parent, or when [Context.End] says so, whatever comes
// first. Embed it in what the work needs anyway; it must not be copied once it is
// in use. Its methods are safe for concurrent use.
type Context struct {
	// Parent is the context of which this is one that ends earlier.
	Parent context.Context //nolint:containedctx // it is one itself

	// Whoever sets over looks for end afterwards, and whoever makes end looks at over
	// afterwards: one of them sees the other.
	end  atomic.Pointer[end]
	over atomic.Bool
}

var _ context.Context = (*Context)(nil)

// An end is a context that somebody waits for, and what ends it.
type end struct {
	context.Context //nolint:containedctx // part of a context
	cancel          context.CancelCauseFunc
}

// End ends c as context.CancelFunc does. Values outlive it. Who asks for the first
// time only afterwards, and after the Parent has ended too, hears of the Parent's end.
func (c *Context) End() {
	c.over.Store(true)
	if e := c.end.Load(); e != nil {
		e.cancel(nil)
	}
}

// EndFor ends c for a reason, as context.CancelCauseFunc does. It makes what ends c,
// so use [Context.End] where nobody needs the reason.
func (c *Context) EndFor(cause error) { c.ending().cancel(cause) }

// ending returns what ends c.
func (c *Context) ending() *end {
	if e := c.end.Load(); e != nil {
		return e
	}
	ctx, cancel := context.WithCancelCause(c.Parent)
	if e := (&end{ctx, cancel}); !c.end.CompareAndSwap(nil, e) {
		cancel(nil) // somebody else was faster
	}
	e := c.end.Load()
	if c.over.Load() {
		e.cancel(nil)
	}
	return e
}

// current returns the context that tells the state of c without changing it.
func (c *Context) current() context.Context {
	if c.end.Load() == nil && !c.over.Load() {
		return c.Parent
	}
	return c.ending()
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) { return c.Parent.Deadline() }

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} { return c.ending().Done() }

// Err implements [context.Context].
func (c *Context) Err() error { return c.current().Err() }

// String is for those who print contexts, who must not read what others write: of a
// Parent that is not made to be printed, it tells the type.
func (c *Context) String() string {
	if p, ok := c.Parent.(fmt.Stringer); ok {
		return p.String() + ".lazyctx"
	}
	return fmt.Sprintf("%T.lazyctx", c.Parent)
}

// Value implements [context.Context].
func (c *Context) Value(key any) any {
	return c.current().Value(key) // where [context.Cause] and children find what ends c
}
