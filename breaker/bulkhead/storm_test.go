package bulkhead_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

// 64 goroutines call, wait, give up, panic, exit and release twice. The limit
// holds throughout, and at the end every slot is there, once.
func TestPermitsAreConservedInAStorm(t *testing.T) {
	for name, c := range map[string]bulkhead.Config{
		"fixed":                 {Limit: 8},
		"fixed with a queue":    {Limit: 3, Queue: 40, Wait: time.Millisecond},
		"adaptive with a queue": {Limit: 8, Queue: 40, Wait: time.Millisecond, SlowCall: 50 * time.Microsecond, Max: 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mustNew(t, c)
			most := int64(max(c.Limit, c.Max))
			var running, calls, refused atomic.Int64
			op := func(rnd *rand.Rand) func(context.Context) error {
				return func(context.Context) error {
					defer running.Add(-1)
					if n := running.Add(1); n > most {
						t.Errorf("%d calls run at once, want at most %d", n, most)
					}
					calls.Add(1)
					for range rnd.IntN(4) {
						runtime.Gosched()
					}
					switch rnd.IntN(8) {
					case 0:
						panic("boom")
					case 1:
						runtime.Goexit()
					case 2:
						return errDown
					}
					return nil
				}
			}
			call := func(rnd *rand.Rand) {
				defer func() { _ = recover() }()
				ctx := t.Context()
				if rnd.IntN(2) == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(200))*time.Microsecond)
					defer cancel()
				}
				if rnd.IntN(2) == 0 {
					if err := b.Do(ctx, op(rnd)); err != nil && !errors.Is(err, errDown) {
						wantRejected(t, err)
						refused.Add(1)
					}
					return
				}
				p, err := b.Acquire(ctx)
				if err != nil {
					refused.Add(1)
					return
				}
				copied := copyOf(&p)
				defer p.Done(nil)
				defer copied.Done(nil)
				_ = op(rnd)(ctx)
			}
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(1, uint64(g)))
					for range 150 {
						var one sync.WaitGroup
						one.Go(func() { call(rnd) })
						one.Wait()
					}
				})
			}
			wg.Wait()
			s := b.Stats()
			if s.Running != 0 || s.Waiting != 0 {
				t.Fatalf("Stats() after the storm = %+v, want none running or waiting", s)
			}
			if s.Admitted != uint64(calls.Load()) || s.Rejected+s.Canceled != uint64(refused.Load()) {
				t.Errorf("Stats() = %+v, want %d admitted, %d rejected or canceled", s, calls.Load(), refused.Load())
			}
			for range s.Limit {
				mustAcquire(t, b)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := b.Acquire(ctx); err == nil {
				t.Error("Acquire() beyond the limit = nil: the storm made a slot")
			}
		})
	}
}
