package idempotencytest_test

import (
	"testing"
	"time"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/idempotencytest"
)

func TestMemoryKeepsThePromisesOfAStore(t *testing.T) {
	idempotencytest.Run(t, func(t *testing.T) idempotency.Store {
		m, err := idempotency.NewMemory(idempotency.MemoryConfig{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	})
}

// The TTLs of the suite end within a second, so that a record may not be held for
// longer.
func TestCacheKeepsThePromisesOfAStore(t *testing.T) {
	idempotencytest.Run(t, func(t *testing.T) idempotency.Store {
		m, err := idempotency.NewMemory(idempotency.MemoryConfig{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := idempotency.NewCache(m, idempotency.CacheConfig{MaxAge: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}
