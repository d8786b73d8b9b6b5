package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"maps"
	"net/http"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/sqlstore"
)

// The examples that need a database have no output here; the same calls run in
// internal/integration against real ones.
var (
	db    *sql.DB
	store *sqlstore.Store
)

func ExampleMigrations() {
	scripts, err := sqlstore.Migrations(sqlstore.Config{Dialect: sqlstore.PostgreSQL})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range scripts {
		fmt.Print(s)
	}
	// Output:
	// SELECT pg_advisory_xact_lock(hashtext('sqlstore'), hashtext('idempotency'));
	// CREATE SEQUENCE IF NOT EXISTS idempotency_token;
	// CREATE TABLE IF NOT EXISTS idempotency (
	// 	id          bytea       PRIMARY KEY, -- SHA-256 of use, scope and key
	// 	fingerprint bytea       NOT NULL,    -- SHA-256 of what must be the same
	// 	token       bigint      NOT NULL,    -- the fencing token of the last claim
	// 	attempt     integer     NOT NULL,    -- claims so far
	// 	taken_over  boolean     NOT NULL,    -- the owner before did not finish
	// 	state       smallint    NOT NULL,    -- 1 in progress, 2 released, 3 completed, 4 completed without result
	// 	lease_until timestamptz NOT NULL,
	// 	expires_at  timestamptz NOT NULL,
	// 	result      bytea
	// );
	// CREATE INDEX IF NOT EXISTS idempotency_expires_at ON idempotency (expires_at);
}

func ExampleNew() {
	db, err := sql.Open("pgx", "postgres://…")
	if err != nil {
		log.Fatal(err)
	}
	store, err := sqlstore.New(db, sqlstore.Config{Dialect: sqlstore.PostgreSQL})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := idempotency.New(store, idempotency.Config{})
	if err != nil {
		log.Fatal(err)
	}
	_ = guard
}

// A message is handled once in effect, whatever crashes.
func ExampleInTx() {
	handle := func(ctx context.Context, orderID string) error {
		key := idempotency.Key{Scope: "orders/billing", ID: orderID}
		_, _, err := sqlstore.InTx(ctx, store, key, func(ctx context.Context, tx *sql.Tx) (struct{}, error) {
			_, err := tx.ExecContext(ctx, "INSERT INTO invoices (order_id) VALUES ($1)", orderID)
			return struct{}{}, err
		})
		return err
	}
	_ = handle
}

// A handler behind Guard.Middleware records its answer with its effect.
func ExampleStore_CompleteTx() {
	place := func(w http.ResponseWriter, r *http.Request) error {
		ctx := r.Context()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (item) VALUES ($1)", "item1"); err != nil {
			return err
		}
		header, answer := http.Header{"Location": {"/orders/1"}}, []byte(`{"ordered":"item1"}`)
		if err := store.CompleteTx(ctx, tx, idempotency.HTTPResult(http.StatusCreated, header, answer)); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		maps.Copy(w.Header(), header)
		w.WriteHeader(http.StatusCreated)
		_, err = w.Write(answer)
		return err
	}
	_ = place
}

// A job of the service deletes what has expired, in batches.
func ExampleStore_Sweep() {
	sweep := func(ctx context.Context) error {
		const batch = 1000
		for {
			if n, err := store.Sweep(ctx, batch); err != nil || n < batch {
				return err
			}
		}
	}
	_ = sweep
}
