package rabbitmq

import (
	"math/rand/v2"
	"testing"
)

func TestLedgerKnowsUpToWhereAllIsSettled(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var l ledger
		window := 1 + rnd.IntN(40)
		open, done, next := []uint64{}, map[uint64]bool{}, uint64(1)
		for range 2000 {
			for len(open) < window {
				open = append(open, next)
				next++
			}
			i := rnd.IntN(len(open))
			if rnd.IntN(3) > 0 { // in order more often than not, the oldest left lying now and then
				i = min(1, len(open)-1)
			}
			tag := open[i]
			open = append(open[:i], open[i+1:]...)
			done[tag] = true
			l.settle(tag)

			low := uint64(0)
			for done[low+1] {
				low++
				delete(done, low-1)
			}
			if l.low < low || l.low+1 <= next && done[l.low+1] {
				t.Fatalf("seed %d: low = %d, want %d", seed, l.low, low)
			}
			for _, tag := range open {
				if tag <= l.low {
					t.Fatalf("seed %d: low = %d, and %d is not settled", seed, l.low, tag)
				}
			}
			if len(l.runs) > window {
				t.Fatalf("seed %d: the ledger holds %d runs with %d unsettled, want no more", seed, len(l.runs), window)
			}
			for i, r := range l.runs {
				if r.first > r.last || i > 0 && l.runs[i-1].last+1 >= r.first {
					t.Fatalf("seed %d: runs %v overlap or touch", seed, l.runs)
				}
			}
		}
	}
}

func TestLedgerTakesNoMemoryForWhatFollowsAStuckDelivery(t *testing.T) {
	t.Parallel()
	var l ledger
	for tag := uint64(2); tag < 100_000; tag++ { // 1 stays
		l.settle(tag)
	}
	if l.low != 0 || len(l.runs) != 1 {
		t.Errorf("low = %d with %d runs, want 0 with 1", l.low, len(l.runs))
	}
	l.settle(1)
	if l.low != 99_999 || len(l.runs) != 0 {
		t.Errorf("low = %d with %d runs, want 99999 with 0", l.low, len(l.runs))
	}
}
