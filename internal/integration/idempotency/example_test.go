package idempotency

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/sqlstore"
)

// exampleStore is in a database in memory, with a table for the effects.
func exampleStore() (*sql.DB, *sqlstore.Store, error) {
	db, err := sql.Open("sqlite", "file::memory:")
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1) // each connection would be a database of its own
	config := sqlstore.Config{Dialect: sqlstore.SQLite}
	scripts, err := sqlstore.Migrations(config)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range append(scripts, "CREATE TABLE orders (item TEXT)") {
		if _, err := db.Exec(s); err != nil {
			return nil, nil, err
		}
	}
	store, err := sqlstore.New(db, config)
	return db, store, err
}

// Effect and record are in one transaction.
func Example_inTx() {
	db, store, err := exampleStore()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	ctx := context.Background()
	for range 2 {
		key := idempotency.Key{Scope: "order", ID: "456"}
		receipt, replayed, err := sqlstore.InTx(ctx, store, key, func(ctx context.Context, tx *sql.Tx) (string, error) {
			_, err := tx.ExecContext(ctx, "INSERT INTO orders VALUES ('item1')")
			return "receipt 1", err
		})
		fmt.Println(receipt, replayed, err)
	}
	var n int
	fmt.Println(db.QueryRow("SELECT count(*) FROM orders").Scan(&n), n)
	// Output:
	// receipt 1 false <nil>
	// receipt 1 true <nil>
	// <nil> 1
}

// A handler completes its claim, with its answer, in the transaction of its effect.
func Example_completeTx() {
	db, store, err := exampleStore()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	guard, err := idempotency.New(store, idempotency.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	once, err := guard.Middleware(idempotency.HTTP{GlobalScope: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header, answer := http.Header{"Location": {"/orders/1"}}, []byte("order 1")
		err := func() error {
			tx, err := db.BeginTx(r.Context(), nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(r.Context(), "INSERT INTO orders VALUES ('item1')"); err != nil {
				return err
			}
			if err := store.CompleteTx(r.Context(), tx, idempotency.HTTPResult(http.StatusCreated, header, answer)); err != nil {
				return err
			}
			return tx.Commit()
		}()
		if err != nil {
			http.Error(w, "the order was not placed", http.StatusServiceUnavailable)
			return
		}
		maps.Copy(w.Header(), header)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(answer)
	}))
	for range 2 {
		req := httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader("{}"))
		req.Header.Set("Idempotency-Key", "8e03978e-40d5-43e8-bc93-6894a57f9324")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		fmt.Printf("%d %s, replayed %q\n", w.Code, w.Body, w.Header().Get("Idempotency-Replayed"))
	}
	n, err := store.Sweep(context.Background(), 1000)
	fmt.Println(n, "expired", err)
	// Output:
	// 201 order 1, replayed ""
	// 201 order 1, replayed "true"
	// 0 expired <nil>
}
