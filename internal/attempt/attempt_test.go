package attempt_test

import (
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
