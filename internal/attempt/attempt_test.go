package attempt_test

import (
	"context"
	"testing"

	"github.com/parley-go/parley/internal/attempt"
)

func TestFromIsOneWhereNothingWasSaid(t *testing.T) {
	if got := attempt.From(t.Context()); got != 1 {
		t.Errorf("From() = %d, want 1", got)
	}
}

func TestFromReturnsTheInnermostNumber(t *testing.T) {
	ctx := attempt.NewContext(attempt.NewContext(t.Context(), 2), 3)
	if got := attempt.From(ctx); got != 3 {
		t.Errorf("From() = %d, want 3", got)
	}
}

func TestContextsNumberEveryAttemptOfACallAndKeepTheNumbersOfEarlierOnes(t *testing.T) {
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
	defer cancel()
	var contexts attempt.Contexts
	var made []context.Context
	for n := 1; n <= 5; n++ {
		made = append(made, contexts.Next(parent, n))
	}
	cancel()
	for i, ctx := range made {
		if got := attempt.From(ctx); got != i+1 {
			t.Errorf("From() = %d for attempt %d", got, i+1)
		}
		if got := ctx.Value(key{}); got != "kept" {
			t.Errorf("Value() = %v for attempt %d, want that of the caller's context", got, i+1)
		}
		if ctx.Err() == nil {
			t.Errorf("Err() = nil for attempt %d, want that of the caller's context", i+1)
		}
	}
	if made[0] != parent {
		t.Error("Next(1) is not the caller's own context")
	}
}
