package idempotency_test

import (
	"context"
	"errors"
	"testing"

	"github.com/parley-go/parley/idempotency"
)

type tenantKey struct{}

// contextOf returns the context of work that has ended, which look has seen before.
func contextOf(caller context.Context, t *testing.T, look func(context.Context)) context.Context {
	t.Helper()
	g, _ := newGuard(t, newFaulty(t), idempotency.Config{})
	work := make(chan context.Context, 1)
	_, _, err := idempotency.Value(caller, g, charge, func(ctx context.Context) (int, error) {
		work <- ctx
		look(ctx)
		return 1, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return <-work
}

func TestTheContextOfWorkEndsWithItWhoeverLookedAtIt(t *testing.T) {
	caller := context.WithValue(t.Context(), tenantKey{}, "seven")
	for name, look := range map[string]func(context.Context){
		"nobody": func(context.Context) {},
		"for its error": func(ctx context.Context) {
			if ctx.Err() != nil || context.Cause(ctx) != nil {
				t.Errorf("during the work Err() = %v, cause %v, want nil", ctx.Err(), context.Cause(ctx))
			}
		},
		"waiting for its end": func(ctx context.Context) {
			select {
			case <-ctx.Done():
				t.Error("the context has ended before the work")
			default:
			}
		},
	} {
		work := contextOf(caller, t, look)
		select {
		case <-work.Done():
		default:
			t.Errorf("%s: the context goes on after the work", name)
		}
		if !errors.Is(work.Err(), context.Canceled) || !errors.Is(context.Cause(work), context.Canceled) {
			t.Errorf("%s: Err() = %v, cause %v, want both context.Canceled", name, work.Err(), context.Cause(work))
		}
		if work.Value(tenantKey{}) != "seven" || caller.Err() != nil {
			t.Errorf("%s: Value() = %v and the caller's error %v, want what the caller had", name, work.Value(tenantKey{}), caller.Err())
		}
	}
}

func TestAContextMadeOfThatOfWorkEndsWithTheWork(t *testing.T) {
	during := make(chan context.Context, 1)
	work := contextOf(t.Context(), t, func(ctx context.Context) {
		inner, cancel := context.WithCancel(ctx)
		t.Cleanup(cancel)
		during <- inner
	})
	after, cancel := context.WithCancel(work)
	defer cancel()
	for name, ctx := range map[string]context.Context{"during": <-during, "after": after} {
		select {
		case <-ctx.Done():
		default:
			t.Errorf("a context made %s the work goes on after it", name)
		}
	}
}

func TestTheCallersCauseReachesTheWork(t *testing.T) {
	gone := errors.New("the client is gone")
	for name, look := range map[string]func(context.Context) error{
		"its error": context.Context.Err,
		"its end":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		caller, leave := context.WithCancelCause(t.Context())
		contextOf(caller, t, func(ctx context.Context) {
			leave(gone)
			if err := look(ctx); !errors.Is(err, context.Canceled) || !errors.Is(context.Cause(ctx), gone) {
				t.Errorf("%s: %v, cause %v, want context.Canceled and the caller's cause", name, err, context.Cause(ctx))
			}
		})
	}
}

// Those that wait for the end of the work ask while it ends: each must hear of it,
// and the race detector watches.
func TestWhoeverAsksWhileTheWorkEndsHearsOfIt(t *testing.T) {
	for range 200 {
		heard := make(chan error)
		const waiters = 3
		contextOf(t.Context(), t, func(ctx context.Context) {
			for range waiters {
				go func() {
					<-ctx.Done()
					heard <- ctx.Err()
				}()
			}
		})
		for range waiters {
			if err := <-heard; !errors.Is(err, context.Canceled) {
				t.Errorf("Err() = %v once the work has ended, want context.Canceled", err)
			}
		}
	}
}
