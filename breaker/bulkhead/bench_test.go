package bulkhead_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

func BenchmarkDo(b *testing.B) {
	ctx := context.Background()
	full := mustNew(b, bulkhead.Config{Limit: 1})
	held, err := full.Acquire(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer held.Done(nil)
	for _, bb := range []struct {
		name string
		b    *bulkhead.Bulkhead
	}{
		{"fixed", mustNew(b, bulkhead.Config{})},
		{"queue", mustNew(b, bulkhead.Config{Limit: 1, Queue: 100})},
		{"adaptive", mustNew(b, bulkhead.Config{SlowCall: time.Minute})},
		{"full", full},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = bb.b.Do(ctx, ok)
			}
		})
		b.Run(bb.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = bb.b.Do(ctx, ok)
				}
			})
		})
	}
}

func BenchmarkAcquire(b *testing.B) {
	ctx := context.Background()
	bh := mustNew(b, bulkhead.Config{})
	b.ReportAllocs()
	for b.Loop() {
		if p, err := bh.Acquire(ctx); err == nil {
			p.Done(nil)
		}
	}
}

func BenchmarkFloor(b *testing.B) {
	b.Run("two mutex pairs", func(b *testing.B) {
		var mu sync.Mutex
		n := 0
		for b.Loop() {
			mu.Lock()
			n++
			mu.Unlock()
			mu.Lock()
			n--
			mu.Unlock()
		}
	})
}
