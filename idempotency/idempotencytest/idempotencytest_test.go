package idempotencytest_test

import (
	"testing"

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
