package idempotency

import (
	"context"
	"database/sql"
	"sync"
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

// As when all instances of a service start.
func TestMigrationsMayRunInSeveralPlacesAtOneTime(t *testing.T) {
	both(t, func(t *testing.T, d *database) {
		d.config.Table = d.table("new")
		if d.config.Dialect == sqlstore.PostgreSQL {
			t.Cleanup(func() { d.drop("TABLE "+d.config.Table, "SEQUENCE "+d.config.Table+"_token") })
		}
		scripts, err := sqlstore.Migrations(d.config)
		if err != nil {
			t.Fatal(err)
		}
		var instances [8]*sql.Conn // connected before, so that they meet
		for i := range instances {
			if instances[i], err = d.Conn(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer instances[i].Close()
		}
		var all sync.WaitGroup
		for _, c := range instances {
			all.Go(func() {
				for _, s := range scripts {
					if _, err := c.ExecContext(t.Context(), s); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	})
}

// The token's sequence tells: it would move on with each attempt to write.
func TestAReplayOnPostgreSQLWritesNothing(t *testing.T) {
	s := newShop(t, postgres(t))
	g := newGuard(t, s.store, idempotency.Config{})
	call := func() {
		if _, _, err := idempotency.Value(t.Context(), g, order("a"), func(context.Context) (int, error) { return 1, nil }); err != nil {
			t.Fatal(err)
		}
	}
	call()
	state := "SELECT last_value FROM " + s.config.Table + "_token"
	row := "SELECT xmin::text::bigint FROM " + s.config.Table
	token, version := s.count(t, state), s.count(t, row)
	for range 3 {
		call()
	}
	if s.count(t, state) != token || s.count(t, row) != version {
		t.Errorf("the sequence is at %d after %d and the row at %d after %d, want no change", s.count(t, state), token, s.count(t, row), version)
	}
}
