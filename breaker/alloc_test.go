package breaker_test

import (
	"context"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
)

func allocs(t *testing.T, want float64, f func()) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	if got := testing.AllocsPerRun(1000, f); got > want {
		t.Errorf("allocations = %v, want at most %v", got, want)
	}
}

func kinds() map[string]breaker.Config {
	return map[string]breaker.Config{
		"with a window of time":  {MinCalls: 1 << 60},
		"with a window of calls": {WindowCalls: 10_000, MinCalls: 10_000},
		"with consecutive calls": {Consecutive: 1_000_000},
		"with slow calls":        {SlowCall: time.Hour, MinCalls: 1 << 60},
		"with a Classify":        {MinCalls: 1 << 60, Classify: breaker.DefaultClassify},
	}
}

func TestAllocsOfASuccessAreNone(t *testing.T) {
	ctx := t.Context()
	for name, c := range kinds() {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, c)
			allocs(t, 0, func() { _ = b.Do(ctx, ok) })
		})
	}
}

func TestAllocsOfAFailureAreNone(t *testing.T) {
	ctx := t.Context()
	for name, c := range kinds() {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, c)
			allocs(t, 0, func() { _ = b.Do(ctx, down) })
			wantState(t, b, breaker.Closed)
		})
	}
}

func TestAllocsOfARejectionAreNone(t *testing.T) {
	ctx := t.Context()
	open := mustNew(t, breaker.Config{Consecutive: 1, OpenFor: time.Hour})
	fail(t, open, 1)
	forced := mustNew(t, breaker.Config{})
	forced.ForceOpen()
	halfOpen := mustNew(t, breaker.Config{Consecutive: 1, OpenFor: 1, ProbeTimeout: time.Hour, DisableJitter: true})
	fail(t, halfOpen, 1)
	for _, err := halfOpen.Allow(); err != nil; _, err = halfOpen.Allow() { // until the nanosecond is over
	}
	for name, b := range map[string]*breaker.Breaker{"while open": open, "while forced open": forced, "while half-open": halfOpen} {
		t.Run(name, func(t *testing.T) {
			allocs(t, 0, func() { _ = b.Do(ctx, ok) })
			wantRejected(t, b)
		})
	}
}

func TestAllocsOfAllowAndDoneAreNone(t *testing.T) {
	b := mustNew(t, breaker.Config{})
	allocs(t, 0, func() {
		if p, err := b.Allow(); err == nil {
			p.Done(breaker.Success)
		}
	})
}

func TestAllocsOfValueAndFallbackAreNone(t *testing.T) {
	ctx := t.Context()
	b := mustNew(t, breaker.Config{})
	n := 0
	fn := func(context.Context) (int, error) { n++; return n, nil }
	instead := func(context.Context, error) (int, error) { return 0, nil }
	allocs(t, 0, func() { _, _ = breaker.Value(ctx, b, fn) })
	allocs(t, 0, func() { _, _ = breaker.Fallback(ctx, b, fn, instead) })
	b.ForceOpen()
	allocs(t, 0, func() { _, _ = breaker.Fallback(ctx, b, fn, instead) })
}

func TestAllocsOfATransportAreNone(t *testing.T) {
	req := request(t.Context(), t, nil)
	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	next := roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })
	b := mustNew(t, breaker.Config{}).Transport(next)
	allocs(t, 0, func() { _, _ = b.RoundTrip(req) })
	g := mustGroup[string](t, breaker.GroupConfig{}).Transport(next, breaker.Host)
	allocs(t, 0, func() { _, _ = g.RoundTrip(req) })
}

func TestAllocsOfAMillionKeysAreNotKept(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector keeps memory of its own: run without -race")
	}
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	g := mustGroup[int](t, breaker.GroupConfig{})
	for key := range 1_000_000 {
		g.Get(key)
	}
	grown := live() - before
	if s := g.Stats(); s.Keys != 4096 || s.Evicted+s.Overflow != 1_000_000-4096 {
		t.Errorf("Stats() = %+v, want 4096 keys, and the rest evicted or not kept", s)
	}
	if grown > 8<<20 {
		t.Errorf("the group of 4096 breakers holds %d bytes, want at most 8 MiB", grown)
	}
	t.Logf("a group of 4096 breakers holds %d KiB", grown>>10)
}
