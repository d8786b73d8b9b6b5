package idempotency

import (
	"testing"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/idempotencytest"
)

func TestSQLStoreKeepsThePromisesOfAStore(t *testing.T) {
	both(t, func(t *testing.T, d *database) {
		s := d.store(t)
		idempotencytest.Run(t, func(*testing.T) idempotency.Store { return s })
	})
}
