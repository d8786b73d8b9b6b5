package idempotency

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/parley-go/parley/idempotency/sqlstore"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// database is one with a schema of its own for a test.
type database struct {
	*sql.DB
	driver, url string
	config      sqlstore.Config
}

func (d *database) store(t testing.TB) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.New(d.DB, d.config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// exec runs a statement that must succeed.
func (d *database) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := d.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// count returns the number that a query is answered with.
func (d *database) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	if err := d.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

var tables atomic.Int64

// newPostgres returns tables of the test's own in the database at url, which are
// dropped at its end.
func newPostgres(t testing.TB, url string) *database {
	t.Helper()
	db := open(t, "pgx", url)
	db.SetMaxOpenConns(20)
	// Tests of several processes, and of runs before, may share the server.
	name := fmt.Sprintf("idem_%d_%d_%d", os.Getpid(), time.Now().UnixMicro(), tables.Add(1))
	d := &database{DB: db, driver: "pgx", url: url, config: sqlstore.Config{Dialect: sqlstore.PostgreSQL, Table: name}}
	d.migrate(t)
	t.Cleanup(func() { d.drop("TABLE "+name, "SEQUENCE "+name+"_token") })
	return d
}

// drop drops what a test has made, over a connection of its own: the test may have
// closed its pool. The server may be gone.
func (d *database) drop(things ...string) {
	db, err := sql.Open(d.driver, d.url)
	if err != nil {
		return
	}
	defer db.Close()
	for _, t := range things {
		_, _ = db.Exec("DROP " + t)
	}
}

// postgres returns tables of the test's own on the server that is handed over.
func postgres(t testing.TB) *database {
	t.Helper()
	return newPostgres(t, need.Address(t, services.Postgres()))
}

func sqlite(t testing.TB) *database {
	t.Helper()
	url := "file:" + filepath.Join(t.TempDir(), "records.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(20000)&_pragma=synchronous(OFF)"
	d := &database{DB: open(t, "sqlite", url), driver: "sqlite", url: url, config: sqlstore.Config{Dialect: sqlstore.SQLite}}
	d.migrate(t)
	return d
}

func open(t testing.TB, driver, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (d *database) migrate(t testing.TB) {
	t.Helper()
	scripts, err := sqlstore.Migrations(d.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		d.exec(t, s)
	}
}

// both runs a test on each kind of database.
func both(t *testing.T, test func(t *testing.T, d *database)) {
	t.Run("PostgreSQL", func(t *testing.T) { test(t, postgres(t)) })
	t.Run("SQLite", func(t *testing.T) { test(t, sqlite(t)) })
}

// table returns the name of a table beside that of the records.
func (d *database) table(suffix string) string {
	if d.config.Table == "" {
		return suffix
	}
	return strings.Join([]string{d.config.Table, suffix}, "_")
}
