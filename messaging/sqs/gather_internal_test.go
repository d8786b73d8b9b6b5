package sqs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

// gathering returns a gatherer whose requests take a time each.
func gathering(t *testing.T, limit int, do func(calls []*call[int])) *gatherer[int] {
	t.Helper()
	b := &Broker{}
	b.base, b.abandon = context.WithCancel(context.Background())
	t.Cleanup(func() { b.abandon(); b.workers.Wait() })
	return &gatherer[int]{broker: b, limit: limit, do: func(ctx context.Context, _ *flight, calls []*call[int]) {
		if pause(ctx, time.Duration(1+rand.IntN(20))*time.Millisecond) == nil {
			do(calls)
			finish(calls, nil)
			return
		}
		finish(calls, context.Cause(ctx))
	}}
}

// TestAGathererAgainstItsModel holds that each call is carried out once, that no
// request is over its limits, and that a lane keeps its order, one request at a time.
func TestAGathererAgainstItsModel(t *testing.T) {
	const callers, each, lanes = 8, 60, 5
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		done := map[int]int{}
		last := map[string]int{}
		limit := 50
		g := gathering(t, limit, func(calls []*call[int]) {
			mu.Lock()
			defer mu.Unlock()
			size := 0
			for _, c := range calls {
				size += c.size
				done[c.entry]++
				if c.lane != "" && c.entry < last[c.lane] {
					t.Errorf("lane %s: %d after %d", c.lane, c.entry, last[c.lane])
				}
				last[c.lane] = c.entry
			}
			if len(calls) > maxEntries || size > limit && len(calls) > 1 {
				t.Errorf("a request has %d entries of %d bytes, want at most %d and %d", len(calls), size, maxEntries, limit)
			}
		})
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for i := 0; i < each; {
					var calls []*call[int]
					for range min(1+rand.IntN(15), each-i) {
						lane := ""
						if caller < lanes { // one publisher each, or there is no order
							lane = string(rune('a' + caller))
						}
						calls = append(calls, newCall(caller*each+i, lane, 1+rand.IntN(60)))
						i++
					}
					g.submit(calls...)
					for _, c := range calls {
						if err := g.wait(t.Context(), c); err != nil {
							t.Errorf("wait() = %v, want nil", err)
						}
					}
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if len(done) != callers*each || !g.idle() {
			t.Errorf("%d calls were carried out, idle %t, want %d, true", len(done), g.idle(), callers*each)
		}
		for n, times := range done {
			if times != 1 {
				t.Errorf("call %d was carried out %d times, want once", n, times)
			}
		}
	})
}

func TestACallerThatLeavesBeforeItsTurnIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		g := gathering(t, 100, func(calls []*call[int]) { sent += len(calls) })
		first, second := newCall(1, "k", 1), newCall(2, "k", 1)
		g.submit(first)
		g.submit(second) // behind the first, which is under way
		gone, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the caller has left")
		cancel(why)
		if err := g.wait(gone, second); !errors.Is(err, why) || errors.Is(err, messaging.ErrNotConfirmed) {
			t.Errorf("wait() of one that waited = %v, want its cause alone", err)
		}
		if err := g.wait(t.Context(), first); err != nil {
			t.Errorf("wait() = %v, want nil", err)
		}
		synctest.Wait()
		if sent != 1 {
			t.Errorf("%d calls were sent, want 1", sent)
		}
	})
}

func TestARequestNobodyWaitsForEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gathering(t, 100, func([]*call[int]) {})
		g.do = func(ctx context.Context, _ *flight, calls []*call[int]) {
			<-ctx.Done()
			finish(calls, context.Cause(ctx))
		}
		c := newCall(1, "", 1)
		g.submit(c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.wait(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait() = %v, want the cause of its context", err)
		}
		synctest.Wait()
		if !g.idle() {
			t.Error("the request is under way, want it ended")
		}
	})
}

// While the service is silent, callers that give up are many.
func TestCallersThatLeaveKeepNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gathering(t, 100, nil)
		g.do = func(ctx context.Context, _ *flight, calls []*call[int]) {
			<-ctx.Done()
			finish(calls, context.Cause(ctx))
		}
		stuck, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range maxFlights { // in requests that end with the outage alone
			calls := make([]*call[int], maxEntries)
			for i := range calls {
				calls[i] = newCall(0, "", 1)
			}
			g.submit(calls...)
			for _, c := range calls {
				all.Go(func() { _ = g.wait(stuck, c) })
			}
		}
		for i := range 1000 {
			gone, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			c := newCall(i, []string{"", fmt.Sprint("lane ", i%7)}[i%2], 1)
			g.submit(c)
			all.Go(func() {
				defer cancel()
				_ = g.wait(gone, c)
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		g.mu.Lock()
		if left := len(g.lanes); left != 0 || len(g.ready) != 0 || g.waiting != 0 {
			t.Errorf("%d lanes, %d of them ready, with %d calls are left, want none", left, len(g.ready), g.waiting)
		}
		g.mu.Unlock()
		cancel()
		all.Wait()
		synctest.Wait()
		if !g.idle() {
			t.Error("something is under way still")
		}
	})
}
