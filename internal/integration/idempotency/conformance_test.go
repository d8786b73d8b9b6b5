package idempotency

import (
	"testing"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/idempotencytest"
	"github.com/parley-go/parley/idempotency/sqlstore"
)

func TestSQLStoreKeepsThePromisesOfAStore(t *testing.T) {
	both(t, func(t *testing.T, d *database) {
		s := d.store(t)
		idempotencytest.Run(t, func(*testing.T) idempotency.Store { return s })
	})
}

func TestTheTableMayHaveASchemaAndMigrationsMayRunAgain(t *testing.T) {
	both(t, func(t *testing.T, d *database) {
		s := newShop(t, d)
		d.config.Table = "main.keys"
		if d.config.Dialect == sqlstore.PostgreSQL {
			schema := s.orders + "_app"
			d.exec(t, "CREATE SCHEMA "+schema)
			t.Cleanup(func() { _, _ = d.Exec("DROP SCHEMA " + schema + " CASCADE") })
			d.config.Table = schema + ".keys"
		}
		s.store = d.store(t)
		for range 2 {
			d.migrate(t)
			if n, _, err := s.place(t.Context(), "a"); n != 1 || err != nil {
				t.Errorf("InTx() = %d, %v, want 1", n, err)
			}
		}
		if n := s.count(t, "SELECT count(*) FROM "+d.config.Table); n != 1 {
			t.Errorf("%s has %d records, want 1: a migration that runs again changes nothing", d.config.Table, n)
		}
		s.wantEffects(t, "a", 1)
	})
}
