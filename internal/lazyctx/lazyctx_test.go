package lazyctx_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/lazyctx"
)

type tenantKey struct{}

var errGone = errors.New("the client is gone")

func within(t *testing.T) (*lazyctx.Context, context.CancelCauseFunc) {
	t.Helper()
	parent, leave := context.WithCancelCause(context.WithValue(t.Context(), tenantKey{}, "seven"))
	t.Cleanup(func() { leave(nil) })
	return &lazyctx.Context{Parent: parent}, leave
}

func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

func TestItGoesOnUntilItEndsWhoeverAskedBefore(t *testing.T) {
	for name, look := range map[string]func(context.Context){
		"nobody":        func(context.Context) {},
		"for its error": func(ctx context.Context) { _ = ctx.Err() },
		"for its end":   func(ctx context.Context) { _ = ctx.Done() },
		"for a value":   func(ctx context.Context) { ctx.Value(tenantKey{}) },
	} {
		c, _ := within(t)
		look(c)
		if c.Err() != nil || context.Cause(c) != nil || ended(c) {
			t.Errorf("%s: Err() = %v, cause %v before the end, want nil", name, c.Err(), context.Cause(c))
		}
		d, _ := within(t)
		look(d)
		d.End()
		d.End()
		if !errors.Is(d.Err(), context.Canceled) || !errors.Is(context.Cause(d), context.Canceled) || !ended(d) {
			t.Errorf("%s: Err() = %v, cause %v after the end, want context.Canceled", name, d.Err(), context.Cause(d))
		}
		if d.Value(tenantKey{}) != "seven" || d.Parent.Err() != nil {
			t.Errorf("%s: Value() = %v, parent's error %v, want what the parent has, untouched", name, d.Value(tenantKey{}), d.Parent.Err())
		}
	}
}

func TestItEndsForAReason(t *testing.T) {
	c, _ := within(t)
	c.EndFor(errGone)
	c.End() // comes too late to change it
	if !errors.Is(c.Err(), context.Canceled) || !errors.Is(context.Cause(c), errGone) {
		t.Errorf("Err() = %v, cause %v, want context.Canceled and the reason", c.Err(), context.Cause(c))
	}
}

func TestItEndsWithItsParentAndForItsReason(t *testing.T) {
	for name, look := range map[string]func(context.Context){
		"nobody": func(context.Context) {},
		"asked":  func(ctx context.Context) { _ = ctx.Done() },
	} {
		c, leave := within(t)
		look(c)
		leave(errGone)
		<-c.Done()
		if !errors.Is(c.Err(), context.Canceled) || !errors.Is(context.Cause(c), errGone) {
			t.Errorf("%s: Err() = %v, cause %v, want context.Canceled and the parent's reason", name, c.Err(), context.Cause(c))
		}
	}
}

func TestItsDeadlineIsItsParents(t *testing.T) {
	at := time.Now().Add(time.Hour)
	parent, cancel := context.WithDeadline(t.Context(), at)
	defer cancel()
	if got, ok := (&lazyctx.Context{Parent: parent}).Deadline(); !ok || !got.Equal(at) {
		t.Errorf("Deadline() = %v, %v, want %v", got, ok, at)
	}
}

func TestContextsWithinItEndWithIt(t *testing.T) {
	c, _ := within(t)
	called := make(chan struct{})
	context.AfterFunc(c, func() { close(called) })
	before, cancel := context.WithCancel(c)
	defer cancel()
	c.EndFor(errGone)
	after, cancel := context.WithCancel(c)
	defer cancel()
	<-called
	for name, ctx := range map[string]context.Context{"before": before, "after": after} {
		if !ended(ctx) || !errors.Is(context.Cause(ctx), errGone) {
			t.Errorf("a context made %s the end has the cause %v, want that of the end", name, context.Cause(ctx))
		}
	}
}

// Those that wait ask while it ends: each must hear of it.
func TestWhoeverAsksWhileItEndsHearsOfIt(t *testing.T) {
	for range 500 {
		c, _ := within(t)
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				<-c.Done()
				if !errors.Is(c.Err(), context.Canceled) {
					t.Errorf("Err() = %v once it has ended, want context.Canceled", c.Err())
				}
			})
		}
		c.End()
		waiting.Wait()
	}
}

// A watched is a context that counts who waits for its end.
type watched struct {
	context.Context
	end     chan struct{}
	waiting atomic.Int64
}

func (w *watched) Done() <-chan struct{} { return w.end }

// AfterFunc is what contexts made within w call.
func (w *watched) AfterFunc(func()) func() bool {
	w.waiting.Add(1)
	return sync.OnceValue(func() bool {
		w.waiting.Add(-1)
		return true
	})
}

func TestNothingStaysWithItsParentOnceItHasEndedHoweverManyAskedAtOnce(t *testing.T) {
	parent := &watched{Context: t.Context(), end: make(chan struct{})}
	for range 2000 {
		c := &lazyctx.Context{Parent: parent}
		begin := make(chan struct{})
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				<-begin
				_ = c.Done()
			})
		}
		close(begin)
		asking.Wait()
		c.End()
	}
	if n := parent.waiting.Load(); n != 0 {
		t.Errorf("%d wait for the end of the parent, want none", n)
	}
}

// It is printed by loggers while others end it, and the race detector watches.
func TestItCanBePrintedAtAnyTime(t *testing.T) {
	c, _ := within(t)
	var printing sync.WaitGroup
	printing.Go(func() {
		if got, want := fmt.Sprintf("%v", c), fmt.Sprint(c.Parent)+".lazyctx"; got != want {
			t.Errorf("it prints as %q, want %q", got, want)
		}
	})
	c.EndFor(errGone)
	printing.Wait()
}

// A caller's context may be any type, whose fields are its own.
type counting struct {
	context.Context
	n int
}

func TestToPrintItReadsNothingOfAParentThatIsNotMadeToBePrinted(t *testing.T) {
	parent := &counting{Context: t.Context()}
	var printing sync.WaitGroup
	printing.Go(func() {
		if got, want := fmt.Sprint(&lazyctx.Context{Parent: parent}), "*lazyctx_test.counting.lazyctx"; got != want {
			t.Errorf("it prints as %q, want %q", got, want)
		}
	})
	parent.n++
	printing.Wait()
}

func TestUnaskedItCostsNothingBesideItself(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	var c lazyctx.Context
	if n := testing.AllocsPerRun(100, func() {
		c = lazyctx.Context{Parent: parent} // nobody has the last one any more
		if c.Err() != nil {
			t.Error("it has ended")
		}
		c.End()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
