package breaker_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
)

func BenchmarkDo(b *testing.B) {
	ctx := b.Context()
	open := mustNew(b, breaker.Config{Consecutive: 1, OpenFor: time.Hour})
	_ = open.Do(ctx, down)
	disabled := mustNew(b, breaker.Config{})
	disabled.Disable()
	for _, c := range []struct {
		name    string
		breaker *breaker.Breaker
		fn      func(context.Context) error
	}{
		{"closed", mustNew(b, breaker.Config{}), ok},
		{"closed-window-of-calls", mustNew(b, breaker.Config{WindowCalls: 100}), ok},
		{"closed-slow-calls", mustNew(b, breaker.Config{SlowCall: time.Hour}), ok},
		{"closed-failure", mustNew(b, breaker.Config{MinCalls: 1 << 60}), down},
		{"consecutive", mustNew(b, breaker.Config{Consecutive: 5}), ok},
		{"open", open, ok},
		{"disabled", disabled, ok},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = c.breaker.Do(ctx, c.fn)
			}
		})
		b.Run(c.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = c.breaker.Do(ctx, c.fn)
				}
			})
		})
	}
}

func BenchmarkAllow(b *testing.B) {
	closed := mustNew(b, breaker.Config{})
	b.ReportAllocs()
	for b.Loop() {
		if p, err := closed.Allow(); err == nil {
			p.Done(breaker.Success)
		}
	}
}

func BenchmarkTransport(b *testing.B) {
	req := request(b.Context(), b, nil)
	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	next := roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })
	for name, rt := range map[string]http.RoundTripper{
		"breaker": mustNew(b, breaker.Config{}).Transport(next),
		"group":   mustGroup[string](b, breaker.GroupConfig{}).Transport(next, breaker.Host),
		"none":    next,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = rt.RoundTrip(req)
			}
		})
	}
}

func BenchmarkGroup(b *testing.B) {
	g := mustGroup[string](b, breaker.GroupConfig{})
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.Get("inventory")
		}
	})
	b.Run("full", func(b *testing.B) {
		g := mustGroup[int](b, breaker.GroupConfig{})
		for key := 0; b.Loop(); key++ {
			g.Get(key)
		}
	})
}

// BenchmarkFloor measures what a call in a window of time cannot do without.
func BenchmarkFloor(b *testing.B) {
	ctx, base := b.Context(), time.Now()
	var counter atomic.Uint64
	call := ok
	b.Run("call", func(b *testing.B) {
		for b.Loop() {
			_ = call(ctx)
		}
	})
	b.Run("add", func(b *testing.B) {
		for b.Loop() {
			counter.Add(1)
		}
	})
	b.Run("clock", func(b *testing.B) {
		for b.Loop() {
			_ = time.Since(base)
		}
	})
	b.Run("sum", func(b *testing.B) {
		for b.Loop() {
			counter.Add(uint64(time.Since(base)) & 1)
			_ = call(ctx)
		}
	})
}
