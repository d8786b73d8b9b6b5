package breaker_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
)

// TestChangesAlternateAndEachTripOpensOnceInAStorm runs in real time and on real
// threads, so that the race detector sees what a bubble would order.
func TestChangesAlternateAndEachTripOpensOnceInAStorm(t *testing.T) {
	const goroutines, calls = 64, 100_000
	for name, c := range map[string]breaker.Config{
		"window of time":  {Window: 10 * time.Millisecond, MinCalls: 5},
		"window of calls": {WindowCalls: 70, MinCalls: 5},
		"consecutive":     {Consecutive: 3},
		"slow calls":      {MinCalls: 5, SlowCall: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			var heard recorder
			var working atomic.Int32
			c.OpenFor, c.MaxOpenFor, c.Probes, c.ProbeSuccesses = time.Microsecond, time.Millisecond, 3, 5
			c.OnChange = func(c breaker.Change) {
				if working.Add(1) != 1 {
					t.Errorf("two OnChange run at once")
				}
				heard.hear(c)
				working.Add(-1)
			}
			b := mustNew(t, c)
			var made, rejected, failed atomic.Uint64
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					for i := range calls / goroutines {
						err := b.Do(t.Context(), func(context.Context) error {
							made.Add(1)
							if (i/8+g)%3 == 0 {
								failed.Add(1)
								return errDown
							}
							return nil
						})
						if errors.Is(err, breaker.ErrOpen) {
							rejected.Add(1)
						}
						if i%512 == g {
							b.Reset()
						}
					}
				})
			}
			wg.Wait()

			state, opened := breaker.Closed, uint64(0)
			for i, c := range heard.all() {
				if c.From != state || c.To == state {
					t.Fatalf("change %d is from %v to %v, but the one before was to %v", i, c.From, c.To, state)
				}
				if c.To == breaker.Open {
					opened++
				}
				if c.From == breaker.Open && c.To == breaker.Open {
					t.Fatalf("change %d opens what is open", i)
				}
				state = c.To
			}
			s := b.Stats()
			if s.Opened != opened || opened == 0 {
				t.Errorf("opened %d times, but heard of %d, want the same and some", s.Opened, opened)
			}
			if s.Rejected != rejected.Load() || made.Load()+s.Rejected != calls/goroutines*goroutines {
				t.Errorf("%d calls made and %d rejected, Stats() says %d, want %d in all", made.Load(), rejected.Load(), s.Rejected, calls/goroutines*goroutines)
			}
			if s.Failures > failed.Load() || s.Failures+s.Stale < failed.Load() {
				t.Errorf("%d failures and %d stale calls counted, want all of %d failures among them", s.Failures, s.Stale, failed.Load())
			}
			t.Logf("%d trips, %d calls rejected, %d stale", opened, s.Rejected, s.Stale)
		})
	}
}

func TestNoCountIsLostWhenManyCount(t *testing.T) {
	const goroutines, calls = 16, 5000
	for name, c := range map[string]breaker.Config{
		"window of time":  {Window: time.Hour, MinCalls: 1 << 40},
		"window of calls": {WindowCalls: 10_000, MinCalls: 10_000, FailureRate: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, c)
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for range calls {
						_ = b.Do(t.Context(), ok)
						_ = b.Do(t.Context(), down)
					}
				})
			}
			wg.Wait()
			want := uint64(2 * goroutines * calls)
			if c.WindowCalls > 0 {
				want = uint64(c.WindowCalls)
			}
			if got := b.Stats(); got.Counts.Calls() != want || got.Failures != goroutines*calls {
				t.Errorf("Stats() = %+v, want %d calls in the window and %d failures", got, want, goroutines*calls)
			}
		})
	}
}
