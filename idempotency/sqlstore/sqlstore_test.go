package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/sqlstore"
)

// The tests against real databases stand in internal/integration, so that this
// module requires no driver. These are about what a real one does not do on
// demand, and what does not need one.

// fake is a driver that answers every statement alike and notes the arguments.
type fake struct {
	mu      sync.Mutex
	args    []any          // guarded by mu
	row     []driver.Value // of each query; nil for no row
	changed int64          // by each statement
	err     error          // of RowsAffected
	query   error          // of each query
	commit  error
	bad     int // connections of the pool that are dead; guarded by mu
}

func (f *fake) Connect(context.Context) (driver.Conn, error) { return f, nil }
func (f *fake) Driver() driver.Driver                        { return nil }
func (f *fake) Prepare(string) (driver.Stmt, error)          { return nil, errors.New("not needed") }
func (f *fake) Close() error                                 { return nil }
func (f *fake) Commit() error                                { return f.commit }
func (f *fake) Rollback() error                              { return nil }
func (f *fake) LastInsertId() (int64, error)                 { return 0, nil }
func (f *fake) RowsAffected() (int64, error)                 { return f.changed, f.err }

func (f *fake) Begin() (driver.Tx, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad > 0 {
		f.bad--
		return nil, driver.ErrBadConn
	}
	return f, nil
}

func (f *fake) note(args []driver.NamedValue) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range args {
		f.args = append(f.args, a.Value)
	}
}

func (f *fake) ExecContext(_ context.Context, _ string, args []driver.NamedValue) (driver.Result, error) {
	f.note(args)
	return f, nil
}

func (f *fake) QueryContext(_ context.Context, _ string, args []driver.NamedValue) (driver.Rows, error) {
	f.note(args)
	return &rows{row: f.row}, f.query
}

type rows struct{ row []driver.Value }

func (r *rows) Columns() []string { return make([]string, len(r.row)) }
func (r *rows) Close() error      { return nil }

func (r *rows) Next(dest []driver.Value) error {
	if r.row == nil {
		return io.EOF
	}
	copy(dest, r.row)
	r.row = nil
	return nil
}

// acquired is the row of a claim with token 7.
func acquired() []driver.Value {
	return []driver.Value{int64(idempotency.Acquired), int64(7), int64(1), false, int64(0), false, nil}
}

func newStore(t *testing.T, f *fake, d sqlstore.Dialect) *sqlstore.Store {
	t.Helper()
	db := sql.OpenDB(f)
	t.Cleanup(func() { _ = db.Close() })
	s, err := sqlstore.New(db, sqlstore.Config{Dialect: d})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := sqlstore.New(nil, sqlstore.Config{Table: "Orders; --", TTL: -1})
	want := "sqlstore: config: the database is nil; the Dialect is not set; the Table is not one or two words of " +
		"lower-case letters, digits and underscores, of up to 50 characters; TTL -1ns is negative"
	if err == nil || err.Error() != want {
		t.Errorf("New() = %v\nwant %s", err, want)
	}
}

func TestTablesThatNeedQuotesAndUnknownDialectsAreRefused(t *testing.T) {
	for table, ok := range map[string]bool{
		"": true, "keys": true, "app.keys_2": true, "_k": true, strings.Repeat("k", 50): true,
		"Keys": false, "2keys": false, "a.b.c": false, ".keys": false, "keys.": false, "my keys": false, `k"`: false,
		strings.Repeat("k", 51): false, "sch\u00e9ma": false,
	} {
		for _, d := range []sqlstore.Dialect{sqlstore.PostgreSQL, sqlstore.SQLite} {
			if _, err := sqlstore.Migrations(sqlstore.Config{Dialect: d, Table: table}); (err == nil) != ok {
				t.Errorf("Migrations() for table %q = %v, want ok %t", table, err, ok)
			}
		}
	}
	if _, err := sqlstore.Migrations(sqlstore.Config{Dialect: "oracle"}); err == nil {
		t.Error("Migrations() for an unknown dialect = nil, want an error")
	}
}

func TestMigrationsNameEverythingAfterTheTable(t *testing.T) {
	for _, d := range []sqlstore.Dialect{sqlstore.PostgreSQL, sqlstore.SQLite} {
		scripts, err := sqlstore.Migrations(sqlstore.Config{Dialect: d, Table: "app.keys"})
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(scripts, "")
		if strings.ContainsAny(text, "{}") || strings.Contains(text, "idempotency") || !strings.Contains(text, "CREATE TABLE IF NOT EXISTS app.keys (") {
			t.Errorf("%s: %s", d, text)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "CREATE") && !strings.Contains(line, "IF NOT EXISTS") {
				t.Errorf("%s: %q cannot run again", d, line)
			}
		}
	}
}

// Clocks of services differ; those of one database do not.
func TestNoTimeOfThisProcessReachesTheDatabase(t *testing.T) {
	for d, unit := range map[sqlstore.Dialect]time.Duration{sqlstore.PostgreSQL: time.Microsecond, sqlstore.SQLite: time.Millisecond} {
		f := &fake{row: acquired(), changed: 1}
		s := newStore(t, f, d)
		var id idempotency.ID
		_, err := s.Acquire(t.Context(), idempotency.Claim{Lease: time.Minute, TTL: time.Hour})
		err = errors.Join(err,
			s.Extend(t.Context(), id, 1, time.Minute),
			s.Complete(t.Context(), id, 1, idempotency.Result{}, time.Hour),
			s.Release(t.Context(), id, 1),
		)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range f.args {
			switch v := a.(type) {
			case time.Time:
				t.Errorf("%s: the argument %v is a time", d, v)
			case int64:
				if v > int64(time.Hour/unit) {
					t.Errorf("%s: the argument %d is more than the TTL", d, v)
				}
			}
		}
	}
}

func TestDurationsBelowTheUnitOfTheClockAreRoundedUp(t *testing.T) {
	for d, want := range map[sqlstore.Dialect][2]int64{sqlstore.PostgreSQL: {1, 1501}, sqlstore.SQLite: {1, 2}} {
		f := &fake{changed: 1}
		s := newStore(t, f, d)
		for i, lease := range []time.Duration{1, 1500*time.Microsecond + 1} {
			f.args = nil
			if err := s.Extend(t.Context(), idempotency.ID{}, 1, lease); err != nil {
				t.Fatal(err)
			}
			if got := f.args[2]; got != want[i] {
				t.Errorf("%s: a lease of %v = %v units, want %d", d, lease, got, want[i])
			}
		}
	}
}

// Each round without an answer means that another call got on, so this one may
// say busy after some.
func TestAClaimThatIsAlwaysBeatenIsBusy(t *testing.T) {
	f := &fake{}
	out, err := newStore(t, f, sqlstore.PostgreSQL).Acquire(t.Context(), idempotency.Claim{Lease: 1, TTL: 1})
	if err != nil || out.Status != idempotency.Busy || out.LeaseLeft <= 0 {
		t.Errorf("Acquire() = %+v, %v, want busy with some time left", out, err)
	}
}

func TestTheRestOfTheLongestLeaseIsPositive(t *testing.T) {
	for d, left := range map[sqlstore.Dialect]int64{
		sqlstore.PostgreSQL: math.MaxInt64/int64(time.Microsecond) + 1,
		sqlstore.SQLite:     math.MaxInt64/int64(time.Millisecond) + 1,
	} {
		f := &fake{row: []driver.Value{int64(idempotency.Busy), int64(0), int64(0), false, left, false, nil}}
		out, err := newStore(t, f, d).Acquire(t.Context(), idempotency.Claim{Lease: math.MaxInt64, TTL: math.MaxInt64})
		if err != nil || out.LeaseLeft <= 0 {
			t.Errorf("%s: Acquire() = %+v, %v, want busy with some time left", d, out, err)
		}
	}
}

// conflict is how the drivers of PostgreSQL report that a transaction met another.
type conflict struct{}

func (conflict) Error() string    { return "could not serialize access due to concurrent update" }
func (conflict) SQLState() string { return "40001" }

func TestAClaimThatMeetsAnotherUnderAStricterIsolationLevelIsBusy(t *testing.T) {
	s := newStore(t, &fake{query: conflict{}}, sqlstore.PostgreSQL)
	out, err := s.Acquire(t.Context(), idempotency.Claim{Lease: 1, TTL: 1})
	if err != nil || out.Status != idempotency.Busy || out.LeaseLeft <= 0 {
		t.Errorf("Acquire() = %+v, %v, want busy with some time left", out, err)
	}
	_, _, err = sqlstore.InTx(t.Context(), s, idempotency.Key{Scope: "a", ID: "1"}, func(context.Context, *sql.Tx) (int, error) {
		t.Error("the work ran")
		return 0, nil
	})
	if !errors.Is(err, idempotency.ErrBusy) {
		t.Errorf("InTx() = %v, want ErrBusy", err)
	}
}

// A pool is full of them after a restart of the database.
func TestInTxTriesAnotherConnectionWhereOneOfThePoolIsDead(t *testing.T) {
	s := newStore(t, &fake{row: acquired(), changed: 1, bad: 2}, sqlstore.PostgreSQL)
	v, _, err := sqlstore.InTx(t.Context(), s, idempotency.Key{Scope: "a", ID: "1"}, func(context.Context, *sql.Tx) (int, error) { return 1, nil })
	if v != 1 || err != nil {
		t.Errorf("InTx() = %d, %v, want 1", v, err)
	}
}

func TestErrorsOfTheDatabaseAreNotTakenForALostClaim(t *testing.T) {
	down := errors.New("connection reset")
	for name, f := range map[string]*fake{
		"when it does not say what changed": {changed: 1, err: down},
		"when asked what became of it":      {query: down},
	} {
		s := newStore(t, f, sqlstore.PostgreSQL)
		if err := s.Complete(t.Context(), idempotency.ID{}, 1, idempotency.Result{}, time.Hour); !errors.Is(err, down) || errors.Is(err, idempotency.ErrFenced) {
			t.Errorf("%s: Complete() = %v, want the error of the database", name, err)
		}
	}
	if n, err := newStore(t, &fake{err: down}, sqlstore.SQLite).Sweep(t.Context(), 1); n != 0 || !errors.Is(err, down) {
		t.Errorf("Sweep() = %d, %v, want the error of the database", n, err)
	}
}

func TestInTxWhoseCommitFailsSaysThatItMayHaveHappened(t *testing.T) {
	down := errors.New("connection reset")
	s := newStore(t, &fake{row: acquired(), changed: 1, commit: down}, sqlstore.PostgreSQL)
	key := idempotency.Key{Scope: "order", ID: "secret"}
	v, replayed, err := sqlstore.InTx(t.Context(), s, key, func(context.Context, *sql.Tx) (int, error) { return 1, nil })
	if v != 0 || replayed || !errors.Is(err, down) || !strings.Contains(err.Error(), "may have happened") || strings.Contains(err.Error(), "secret") {
		t.Errorf("InTx() = %d, %t, %v, want an error that says to ask again", v, replayed, err)
	}
	if _, rejected := errors.AsType[*idempotency.RejectedError](err); rejected {
		t.Errorf("InTx() = %v, which says that nothing was done", err)
	}
}

func TestInTxThatLosesItsRecordRollsBack(t *testing.T) {
	f := &fake{row: acquired()} // no row is changed at the end
	s := newStore(t, f, sqlstore.PostgreSQL)
	_, _, err := sqlstore.InTx(t.Context(), s, idempotency.Key{Scope: "order", ID: "1"}, func(context.Context, *sql.Tx) (int, error) {
		f.row = nil
		return 1, nil
	})
	if !errors.Is(err, idempotency.ErrFenced) {
		t.Errorf("InTx() = %v, want ErrFenced", err)
	}
}

func TestInTxWithoutAStoreOrAFunctionIsRefused(t *testing.T) {
	key := idempotency.Key{Scope: "order", ID: "1"}
	_, _, err := sqlstore.InTx(t.Context(), nil, key, func(context.Context, *sql.Tx) (int, error) { return 1, nil })
	_, _, err2 := sqlstore.InTx[int](t.Context(), newStore(t, &fake{}, sqlstore.SQLite), key, nil)
	if err == nil || err2 == nil {
		t.Errorf("InTx() = %v and %v, want errors", err, err2)
	}
}

// The driver is never told to commit or roll back while the work runs on, until
// the grace is over: it is the bound of what does not listen to its context.
func TestATransactionOutlivesTheContextOfItsCallerByFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, &fake{row: acquired(), changed: 1}, sqlstore.PostgreSQL)
		ctx, leave := context.WithCancel(t.Context())
		_, _, err := sqlstore.InTx(ctx, s, idempotency.Key{Scope: "order", ID: "1"}, func(ctx context.Context, tx *sql.Tx) (int, error) {
			leave()
			if ctx.Err() == nil {
				t.Error("the context of the work goes on, want it to end with the caller's")
			}
			time.Sleep(5*time.Second - 1)
			if _, err := tx.Exec("UPDATE"); err != nil {
				t.Errorf("a statement within the grace = %v, want no error", err)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if _, err := tx.Exec("UPDATE"); !errors.Is(err, sql.ErrTxDone) {
				t.Errorf("a statement after the grace = %v, want ErrTxDone", err)
			}
			return 1, nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("InTx() = %v, want context.Canceled", err)
		}
	})
}
