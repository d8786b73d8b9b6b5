package breaker_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

func mustGroup[K comparable](t testing.TB, c breaker.GroupConfig) *breaker.Group[K] {
	t.Helper()
	g, err := breaker.NewGroup[K](c)
	if err != nil {
		t.Fatalf("NewGroup() = %v, want nil", err)
	}
	return g
}

func wantStats[K comparable](t testing.TB, g *breaker.Group[K], want breaker.GroupStats) {
	t.Helper()
	if got := g.Stats(); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestNewGroupReportsAllFaultsOnOneLine(t *testing.T) {
	for want, c := range map[string]breaker.GroupConfig{
		"breaker: config: MaxKeys -1 is outside 1 to 1000000":                               {MaxKeys: -1},
		"breaker: config: MinCalls -1 is negative":                                          {Breaker: breaker.Config{MinCalls: -1}},
		"breaker: config: MinCalls -1 is negative; MaxKeys 1000001 is outside 1 to 1000000": {Breaker: breaker.Config{MinCalls: -1}, MaxKeys: 1_000_001},
	} {
		if g, err := breaker.NewGroup[string](c); g != nil || err == nil || err.Error() != want {
			t.Errorf("NewGroup() = %v, %v, want nil, %q", g, err, want)
		}
	}
}

func TestAGroupKeepsABreakerForEachKey(t *testing.T) {
	g := mustGroup[int](t, breaker.GroupConfig{Breaker: breaker.Config{Name: "shard", Consecutive: 1}})
	a, b := g.Get(1), g.Get(2)
	if a == b || a != g.Get(1) || b != g.Get(2) {
		t.Errorf("Get() returns another breaker for the same key, or the same for another")
	}
	fail(t, a, 1)
	if got, want := wantRejected(t, g.Get(1)).Name, "shard/1"; got != want {
		t.Errorf("the name of the breaker is %q, want %q", got, want)
	}
	wantState(t, b, breaker.Closed)
	seen := map[int]*breaker.Breaker{}
	for k, v := range g.All() {
		seen[k] = v
	}
	if len(seen) != 2 || seen[1] != a || seen[2] != b {
		t.Errorf("All() yields %v, want both breakers by key", seen)
	}
	for range g.All() {
		break // is allowed
	}
	wantStats(t, g, breaker.GroupStats{Keys: 2})
}

func TestConcurrentFirstGetsReturnOneBreaker(t *testing.T) {
	g := mustGroup[int](t, breaker.GroupConfig{MaxKeys: 100})
	for key := range 100 {
		got := make([]*breaker.Breaker, 16)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() { got[i] = g.Get(key) })
		}
		wg.Wait()
		for _, b := range got {
			if b != got[0] {
				t.Fatalf("Get(%d) returned two breakers", key)
			}
		}
	}
	wantStats(t, g, breaker.GroupStats{Keys: 100})
}

// nosy is a key whose text asks the group for the same key first.
type nosy struct{ ask *func() }

func (k nosy) String() string {
	if ask := *k.ask; ask != nil {
		*k.ask = nil
		ask()
	}
	return "nosy"
}

func TestTheTextOfAKeyMayUseTheGroup(t *testing.T) {
	g := mustGroup[nosy](t, breaker.GroupConfig{})
	key := nosy{new(func())}
	var first *breaker.Breaker
	*key.ask = func() { first = g.Get(key) }
	if got := g.Get(key); got != first || got == nil {
		t.Errorf("Get() = %p, want %p, which it returned first", got, first)
	}
	wantStats(t, g, breaker.GroupStats{Keys: 1})
}

func TestAGroupKeepsAtMostMaxKeysBreakersAndNeverEvictsAnOpenOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := 1_000_000
		if raceEnabled {
			keys = 200_000 // of which one costs ten times as much
		}
		ctx := t.Context()
		g := mustGroup[int](t, breaker.GroupConfig{MaxKeys: 1000, Breaker: breaker.Config{Consecutive: 2, OpenFor: 24 * time.Hour}})
		open, failing := g.Get(-1), g.Get(-2)
		fail(t, open, 2)
		fail(t, failing, 1)
		for key := range keys {
			if err := g.Get(key).Do(ctx, ok); err != nil {
				t.Fatal(err)
			}
			if key%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		s := g.Stats()
		if s.Keys != 1000 {
			t.Errorf("Keys = %d after %d keys, want 1000", s.Keys, keys)
		}
		// Each key was either kept, at one time, or not; and room was found for
		// some of them.
		if got := uint64(s.Keys-2) + s.Evicted + s.Overflow; got != uint64(keys) || s.Evicted < uint64(keys/4) {
			t.Errorf("Stats() = %+v, which accounts for %d keys, want %d, with a good part evicted", s, got, keys)
		}
		if g.Get(-1) != open || g.Get(-2) != failing {
			t.Errorf("the breakers that are open, or have failures, were evicted")
		}
		wantState(t, open, breaker.Open)
	})
}

func TestAGroupEvictsOnlyWhatANewBreakerWouldEqualOrIsLongPast(t *testing.T) {
	full := func(t *testing.T, c breaker.Config, before func(*breaker.Breaker)) (*breaker.Group[int], *breaker.Breaker) {
		g := mustGroup[int](t, breaker.GroupConfig{MaxKeys: 1, Breaker: c})
		time.Sleep(24 * time.Hour) // idle is what nobody asks for, not what is old
		b := g.Get(0)
		before(b)
		g.Get(1) // the hand comes by for the first time
		return g, b
	}
	timed := breaker.Config{Window: time.Minute, MinCalls: 2, OpenFor: time.Hour, SlowCall: time.Second}
	counted := breaker.Config{WindowCalls: 10, MinCalls: 2, SlowCall: time.Second}
	row := breaker.Config{Consecutive: 2}
	slow := breaker.Config{Consecutive: 2, ProbeTimeout: time.Hour}
	const past = time.Minute + 10*time.Second // MaxOpenFor and a Window
	for name, c := range map[string]struct {
		config  breaker.Config
		before  func(*testing.T, *breaker.Breaker)
		wait    time.Duration
		evicted bool
	}{
		"not before a Window without use": {timed, nil, time.Minute - 1, false},
		"after a Window without use":      {timed, nil, time.Minute, true},
		"its successes forgotten":         {timed, func(t *testing.T, b *breaker.Breaker) { succeed(t, b, 1) }, 2 * time.Minute, true},
		"its failures forgotten":          {timed, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 1) }, 2 * time.Minute, true},
		"not while open":                  {timed, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 2) }, 10 * time.Minute, false},
		"not while forced open":           {timed, func(_ *testing.T, b *breaker.Breaker) { b.ForceOpen() }, 10 * time.Minute, false},
		"not while disabled":              {timed, func(_ *testing.T, b *breaker.Breaker) { b.Disable() }, 10 * time.Minute, false},
		"with successes in the count":     {counted, func(t *testing.T, b *breaker.Breaker) { succeed(t, b, 5) }, 10 * time.Second, true},
		"not with failures in the count":  {counted, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 1) }, past - 1, false},
		"with old failures in the count":  {counted, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 1) }, past, true},
		"not with slow calls in the count": {counted, func(t *testing.T, b *breaker.Breaker) {
			p := allow(t, b)
			time.Sleep(time.Second)
			p.Done(breaker.Success)
		}, past - 1, false},
		"not with failures in a row":   {row, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 1) }, past - 1, false},
		"with old failures in a row":   {row, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 1) }, past, true},
		"not with its open time over":  {row, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 2) }, past - 1, false},
		"with its open time long over": {row, func(t *testing.T, b *breaker.Breaker) { fail(t, b, 2) }, past, true},
		"not while a probe runs": {slow, func(t *testing.T, b *breaker.Breaker) {
			fail(t, b, 2)
			time.Sleep(time.Minute)
			allow(t, b)
		}, time.Hour - 1, false},
		"not before the probe that was given up is long past": {slow, func(t *testing.T, b *breaker.Breaker) {
			fail(t, b, 2)
			time.Sleep(time.Minute)
			allow(t, b)
		}, time.Hour + past - 1, false},
		"with a probe that was given up long ago": {slow, func(t *testing.T, b *breaker.Breaker) {
			fail(t, b, 2)
			time.Sleep(time.Minute)
			allow(t, b)
		}, time.Hour + past, true},
		"with a probe that said nothing long ago": {slow, func(t *testing.T, b *breaker.Breaker) {
			fail(t, b, 2)
			time.Sleep(time.Minute)
			allow(t, b).Done(breaker.Ignored)
		}, past, true},
		"not while forced open, ever": {row, func(_ *testing.T, b *breaker.Breaker) { b.ForceOpen() }, 365 * 24 * time.Hour, false},
		"not while disabled, ever":    {row, func(_ *testing.T, b *breaker.Breaker) { b.Disable() }, 365 * 24 * time.Hour, false},
		"not before 10s without use":  {counted, nil, 10*time.Second - 1, false},
	} {
		bubble(t, name, func(t *testing.T) {
			g, _ := full(t, c.config, func(b *breaker.Breaker) {
				if c.before != nil {
					c.before(t, b)
				}
			})
			time.Sleep(c.wait)
			g.Get(2)
			if evicted := g.Stats().Evicted == 1; evicted != c.evicted {
				t.Errorf("the breaker was evicted: %v, want %v", evicted, c.evicted)
			}
		})
	}
	bubble(t, "not if it was asked for meanwhile", func(t *testing.T) {
		g, b := full(t, timed, func(*breaker.Breaker) {})
		time.Sleep(time.Hour)
		g.Get(0)
		g.Get(2)
		if g.Get(0) != b {
			t.Errorf("the breaker in use was evicted")
		}
		wantStats(t, g, breaker.GroupStats{Keys: 1, Overflow: 2})
	})
	bubble(t, "not if it is called through a breaker that was kept", func(t *testing.T) {
		g, b := full(t, timed, func(*breaker.Breaker) {})
		time.Sleep(time.Hour)
		succeed(t, b, 1)
		g.Get(2)
		if g.Get(0) != b {
			t.Errorf("the breaker in use was evicted")
		}
	})
}

func TestTheKeysThatAFullGroupDoesNotKeepShareABreaker(t *testing.T) {
	g := mustGroup[string](t, breaker.GroupConfig{MaxKeys: 1, Breaker: breaker.Config{Name: "hosts", Consecutive: 2}})
	g.Get("kept")
	succeed(t, g.Get("too many"), 1)
	fail(t, g.Get("too many"), 1)
	fail(t, g.Get("another"), 1)
	if got, want := wantRejected(t, g.Get("too many")).Name, "hosts/*"; got != want {
		t.Errorf("the name of the shared breaker is %q, want %q", got, want)
	}
	wantState(t, g.Get("kept"), breaker.Closed)
	for key := range g.All() {
		if key != "kept" {
			t.Errorf("All() yields %q, want only what the group keeps", key)
		}
	}
	wantStats(t, g, breaker.GroupStats{Keys: 1, Overflow: 4})
}

func TestKeysThatFailOnceCannotFillAGroupForEver(t *testing.T) {
	for name, c := range map[string]breaker.Config{
		"and are open":                    {MinCalls: 1},
		"and have a failure in the count": {WindowCalls: 100},
		"and have a failure in a row":     {Consecutive: 5},
	} {
		bubble(t, name, func(t *testing.T) {
			g := mustGroup[int](t, breaker.GroupConfig{MaxKeys: 8, Breaker: c})
			for key := range 8 {
				fail(t, g.Get(key), 1)
			}
			called := 0
			dead := func(context.Context) error { called++; return errDown }
			for range 1000 {
				_ = g.Get(1000).Do(t.Context(), dead)
				time.Sleep(time.Second)
			}
			if got := g.Stats(); called > 150 || got.Evicted == 0 || got.Overflow > 100 {
				t.Errorf("a dead dependency was called %d times of 1000, Stats() = %+v, want it protected and its key kept", called, got)
			}
		})
	}
}

func TestChainsStayWholeUnderEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup[int](t, breaker.GroupConfig{MaxKeys: 64, Breaker: breaker.Config{Consecutive: 1}})
		for round := range 200 {
			var wg sync.WaitGroup
			for i := range 64 {
				wg.Go(func() {
					if b := g.Get(round*40 + i); b.State() != breaker.Closed {
						t.Errorf("a new key has a breaker that is %v", b.State())
					}
				})
			}
			wg.Wait()
			for k, b := range g.All() {
				if g.Get(k) != b {
					t.Fatalf("Get(%d) does not find what All() yields", k)
				}
			}
			time.Sleep(time.Minute)
			for range 3 {
				g.Get(-round - 1) // the hand comes by
			}
			time.Sleep(time.Minute)
		}
		if s := g.Stats(); s.Keys != 64 || s.Evicted == 0 {
			t.Errorf("Stats() = %+v, want 64 keys and evictions", s)
		}
	})
}

func TestKeysThatEqualNothingStayBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup[float64](t, breaker.GroupConfig{MaxKeys: 8})
		for range 1000 {
			g.Get(math.NaN())
			time.Sleep(time.Minute)
		}
		if s := g.Stats(); s.Keys != 8 || s.Evicted == 0 {
			t.Errorf("Stats() = %+v, want 8 keys and evictions", s)
		}
	})
}

func TestTheZeroGroupKeepsNothing(t *testing.T) {
	var g breaker.Group[string]
	succeed(t, g.Get("x"), 1)
	if _, err := g.Transport(nil, nil).RoundTrip(request(t.Context(), t, nil)); err == nil || errors.Is(err, breaker.ErrOpen) {
		t.Errorf("RoundTrip() without a key function = %v, want an error that says so", err)
	}
	wantStats(t, &g, breaker.GroupStats{})
}
