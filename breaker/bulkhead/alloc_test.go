package bulkhead_test

import (
	"context"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

func noAllocs(t *testing.T, f func()) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	if got := testing.AllocsPerRun(1000, f); got != 0 {
		t.Errorf("allocations = %v, want 0", got)
	}
}

func TestAllocsOfACallAreNone(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]bulkhead.Config{
		"with a fixed limit":     {},
		"with a queue":           {Queue: 10},
		"with an adaptive limit": {SlowCall: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, c)
			noAllocs(t, func() { _ = b.Do(ctx, ok) })
		})
	}
}

func TestAllocsOfAcquireAndDoneAreNone(t *testing.T) {
	ctx, b := t.Context(), mustNew(t, bulkhead.Config{})
	noAllocs(t, func() {
		p, err := b.Acquire(ctx)
		if err == nil {
			p.Done(nil)
		}
	})
}

func TestAllocsOfValueAreNone(t *testing.T) {
	ctx, b := t.Context(), mustNew(t, bulkhead.Config{})
	noAllocs(t, func() {
		_, _ = bulkhead.Value(ctx, b, func(context.Context) (int, error) { return 1, nil })
	})
}

func TestAllocsOfARejectionAreNone(t *testing.T) {
	ctx, b := t.Context(), mustNew(t, bulkhead.Config{Limit: 1})
	mustAcquire(t, b)
	noAllocs(t, func() { _ = b.Do(ctx, ok) })
}
