package retry

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCallsDoNotWriteToAFullBudget(t *testing.T) {
	b := newBucket(1, 1, 5).ledger.(*bucket)
	before := b.mark.Load()
	for range 100 {
		b.called()
	}
	if after := b.mark.Load(); after != before {
		t.Errorf("mark = %d, want %d as before", after, before)
	}
}

func TestTheMarkStopsAtAFullBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(1, 1, 5).ledger.(*bucket)
		time.Sleep(time.Hour)
		b.take()
		for range 1_000_000 {
			b.called()
		}
		if least := -b.depth - b.gain; b.mark.Load() < least {
			t.Errorf("mark = %d, want at least %d: it must not run away", b.mark.Load(), least)
		}
	})
}

func TestRetriesNeverCostLessThanMinPerSecondAllows(t *testing.T) {
	for _, perSecond := range []int{1, 3, 7, 10, 999_999, 1_000_000} {
		b := newBucket(0.2, perSecond, 1).ledger.(*bucket)
		if b.cost*int64(perSecond) < int64(time.Second) {
			t.Errorf("%d a second at %d ns each take less than a second", perSecond, b.cost)
		}
	}
}
