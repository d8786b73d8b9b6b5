package idempotency

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/sqlstore"
)

// shop is a database with a table of orders, where the effects are.
type shop struct {
	*database
	store  *sqlstore.Store
	orders string
}

func newShop(t testing.TB, d *database) *shop {
	t.Helper()
	s := &shop{database: d, store: d.store(t), orders: d.table("orders")}
	d.exec(t, "CREATE TABLE "+s.orders+" (key text NOT NULL)")
	t.Cleanup(func() { d.drop("TABLE " + s.orders) })
	return s
}

// insert is the effect.
func (s *shop) insert(ctx context.Context, q interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, key string,
) error {
	_, err := q.ExecContext(ctx, "INSERT INTO "+s.orders+" VALUES ($1)", key)
	return err
}

// place is the work of most tests: it has the effect and returns its number.
func (s *shop) place(ctx context.Context, key string) (n int, replayed bool, err error) {
	return sqlstore.InTx(ctx, s.store, order(key), func(ctx context.Context, tx *sql.Tx) (int, error) {
		if err := s.insert(ctx, tx, key); err != nil {
			return 0, err
		}
		err := tx.QueryRowContext(ctx, "SELECT count(*) FROM "+s.orders).Scan(&n)
		return n, err
	})
}

func (s *shop) effects(t testing.TB, key string) int {
	t.Helper()
	return s.count(t, "SELECT count(*) FROM "+s.orders+" WHERE key = $1", key)
}

func (s *shop) wantEffects(t testing.TB, key string, want int) {
	t.Helper()
	if got := s.effects(t, key); got != want {
		t.Errorf("effects = %d, want %d", got, want)
	}
}

func order(key string) idempotency.Key { return idempotency.Key{Scope: "order", ID: key} }

// bothShops runs a test with a shop on each kind of database.
func bothShops(t *testing.T, test func(t *testing.T, s *shop)) {
	both(t, func(t *testing.T, d *database) { test(t, newShop(t, d)) })
}

func TestInTxReturnsTheSameAnswerAgain(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		for i := range 3 {
			n, replayed, err := s.place(t.Context(), "a")
			if n != 1 || replayed != (i > 0) || err != nil {
				t.Errorf("call %d = %d, %t, %v, want 1, replayed from the second on", i, n, replayed, err)
			}
		}
		if n, replayed, err := s.place(t.Context(), "b"); n != 2 || replayed || err != nil {
			t.Errorf("another key = %d, %t, %v, want 2 that is not replayed", n, replayed, err)
		}
		s.wantEffects(t, "a", 1)
	})
}

func TestInTxOfFiftyAtOnceHasOneEffect(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		var ran, replayed, busy atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				switch n, again, err := s.place(t.Context(), "a"); {
				case errors.Is(err, idempotency.ErrBusy):
					busy.Add(1)
				case err != nil || n != 1:
					t.Errorf("InTx() = %d, %v, want 1, or busy", n, err)
				case again:
					replayed.Add(1)
				default:
					ran.Add(1)
				}
			})
		}
		all.Wait()
		t.Logf("1 of 50 ran, %d got the replay, %d were busy", replayed.Load(), busy.Load())
		if ran.Load() != 1 {
			t.Errorf("%d calls ran, want 1", ran.Load())
		}
		s.wantEffects(t, "a", 1)
	})
}

var errWork = errors.New("card declined")

func TestInTxRollsBackWorkThatFailsPanicsOrEndsAndTheNextCallRunsAgain(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		for name, end := range map[string]func(leave func()) error{
			"error":              func(func()) error { return errWork },
			"panic":              func(func()) error { panic("bad day") },
			"Goexit":             func(func()) error { runtime.Goexit(); return nil },
			"caller that leaves": func(leave func()) error { leave(); return nil },
		} {
			ctx, leave := context.WithCancel(t.Context())
			var err error
			var recovered any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { recovered = recover() }()
				_, _, err = sqlstore.InTx(ctx, s.store, order(name), func(ctx context.Context, tx *sql.Tx) (int, error) {
					if err := s.insert(ctx, tx, name); err != nil {
						return 0, err
					}
					return 7, end(leave)
				})
			}()
			<-done
			if name == "error" && err != errWork { //nolint:errorlint // it must be the very error
				t.Errorf("InTx() = %v, want the work's error as it is", err)
			}
			if name == "panic" && recovered != "bad day" {
				t.Errorf("InTx() panicked with %v, want the work's panic", recovered)
			}
			if name == "caller that leaves" && !errors.Is(err, context.Canceled) {
				t.Errorf("InTx() = %v, want context.Canceled", err)
			}
			leave()
			s.wantEffects(t, name, 0)
			if _, replayed, err := s.place(t.Context(), name); replayed || err != nil {
				t.Errorf("the call after the %s: replayed %t, %v, want a run", name, replayed, err)
			}
			s.wantEffects(t, name, 1)
		}
	})
}

func TestInTxRefusesWhatValueRefuses(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		ran := 0
		call := func(k idempotency.Key, result any) (any, error) {
			v, _, err := sqlstore.InTx(t.Context(), s.store, k, func(context.Context, *sql.Tx) (any, error) {
				ran++
				return result, nil
			})
			return v, err
		}
		same := idempotency.Key{Scope: "order", ID: "same", Fingerprint: []byte("one")}
		other := same
		other.Fingerprint = []byte("two")
		if _, err := call(same, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := call(other, 1); !errors.Is(err, idempotency.ErrMismatch) {
			t.Errorf("another fingerprint = %v, want ErrMismatch", err)
		}
		if _, err := call(idempotency.Key{Scope: "order"}, 1); !errors.Is(err, idempotency.ErrKey) {
			t.Errorf("no ID = %v, want ErrKey", err)
		}
		if ran != 1 {
			t.Errorf("the work ran %d times, want 1", ran)
		}
		for name, result := range map[string]any{"large": strings.Repeat("x", 1<<20), "not encoded": func() {}} {
			if _, err := call(order(name), result); err != nil {
				t.Errorf("a result that is %s = %v, want no error the first time", name, err)
			}
			if _, err := call(order(name), result); !errors.Is(err, idempotency.ErrNotStored) {
				t.Errorf("a result that is %s, again = %v, want ErrNotStored", name, err)
			}
		}
		if _, _, err := sqlstore.InTx(t.Context(), s.store, same, func(context.Context, *sql.Tx) (int, error) { return 0, nil }); err != nil {
			t.Error(err)
		}
		_, _, err := sqlstore.InTx(t.Context(), s.store, same, func(context.Context, *sql.Tx) (string, error) { return "", nil })
		if !errors.Is(err, idempotency.ErrNotStored) {
			t.Errorf("a result of another type = %v, want ErrNotStored", err)
		}
	})
}

func TestInTxAndValueShareTheirKeys(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		g := newGuard(t, s.store, idempotency.Config{Lease: time.Minute})
		if _, _, err := s.place(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		n, replayed, err := idempotency.Value(t.Context(), g, order("a"), func(context.Context) (int, error) { return 99, nil })
		if n != 1 || !replayed || err != nil {
			t.Errorf("Value() after InTx = %d, %t, %v, want the replay", n, replayed, err)
		}
		_, _, err = idempotency.Value(t.Context(), g, order("b"), func(ctx context.Context) (int, error) {
			_, _, err := s.place(ctx, "b")
			busy, ok := errors.AsType[*idempotency.RejectedError](err)
			if !ok || busy.Reason != idempotency.ErrBusy || busy.After <= time.Second || busy.After > time.Minute {
				t.Errorf("InTx() inside of Value with the same key = %v, want busy for the rest of the lease", err)
			}
			return 5, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n, replayed, err := s.place(t.Context(), "b"); n != 5 || !replayed || err != nil {
			t.Errorf("InTx() after Value = %d, %t, %v, want the replay", n, replayed, err)
		}
	})
}

func TestInTxTakesOverFromAnOwnerWhoseLeaseHasEnded(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		claim, err := order("a").Claim()
		if err != nil {
			t.Fatal(err)
		}
		claim.Lease, claim.TTL = time.Nanosecond, time.Hour
		zombie, err := s.store.Acquire(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		var e idempotency.Event
		s.config.OnOutcome = func(_ context.Context, ev idempotency.Event) { e = ev }
		s.store = s.database.store(t)
		eventually(t, "the take-over", func() bool {
			n, replayed, err := s.place(t.Context(), "a")
			return n == 1 && !replayed && err == nil
		})
		if e.Kind != "tx" || e.Ending != idempotency.EndExecuted || !e.TakenOver || e.Attempt != 2 || e.Elapsed <= 0 {
			t.Errorf("event = %+v, want the second attempt, taken over", e)
		}
		err = s.store.Complete(t.Context(), claim.ID, zombie.Token, idempotency.Result{Data: []byte("stale")}, time.Hour)
		if !errors.Is(err, idempotency.ErrFenced) {
			t.Errorf("Complete() of the zombie = %v, want ErrFenced", err)
		}
	})
}

func TestInTxReportsHowEachCallEnded(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		var got []idempotency.Ending
		s.config.OnOutcome = func(_ context.Context, e idempotency.Event) { got = append(got, e.Ending) }
		s.store = s.database.store(t)
		call := func(ctx context.Context, k idempotency.Key, v any, err error) {
			_, _, _ = sqlstore.InTx(ctx, s.store, k, func(context.Context, *sql.Tx) (any, error) { return v, err })
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		call(t.Context(), order("a"), 1, nil)
		call(t.Context(), order("a"), 1, nil)
		call(t.Context(), idempotency.Key{Scope: "order", ID: "a", Fingerprint: []byte("other")}, 1, nil)
		call(t.Context(), idempotency.Key{}, 1, nil)
		call(t.Context(), order("b"), 1, errWork)
		call(t.Context(), order("c"), func() {}, nil)
		call(t.Context(), order("c"), nil, nil)
		call(ended, order("d"), 1, nil)
		_ = s.Close()
		call(t.Context(), order("d"), 1, nil)
		want := "[executed replayed mismatch invalid failed executed not_stored canceled unavailable]"
		if fmt.Sprint(got) != want {
			t.Errorf("endings = %v, want %s", got, want)
		}
	})
}

func TestWithoutTheDatabaseNothingRuns(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		_ = s.Close()
		_, _, err := s.place(t.Context(), "a")
		down, ok := errors.AsType[*idempotency.RejectedError](err)
		if !ok || down.Reason != idempotency.ErrUnavailable || down.RetryAfter() <= 0 || !down.Rejected() {
			t.Errorf("InTx() = %v, want ErrUnavailable that says when to come back", err)
		}
		var id idempotency.ID
		for what, err := range map[string]error{
			"Acquire":  second(s.store.Acquire(t.Context(), idempotency.Claim{Lease: 1, TTL: 1})),
			"Complete": s.store.Complete(t.Context(), id, 1, idempotency.Result{}, time.Hour),
			"Release":  s.store.Release(t.Context(), id, 1),
			"Extend":   s.store.Extend(t.Context(), id, 1, time.Hour),
			"Sweep":    second(s.store.Sweep(t.Context(), 1)),
		} {
			if err == nil || errors.Is(err, idempotency.ErrFenced) || !strings.HasPrefix(err.Error(), "sqlstore: "+strings.ToLower(what)+": ") {
				t.Errorf("%s() = %v, want the error of the database", what, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func newGuard(t testing.TB, store idempotency.Store, config idempotency.Config) *idempotency.Guard {
	t.Helper()
	g, err := idempotency.New(store, config)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// eventually polls until f says that what was waited for has happened.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	const patience = 30 * time.Second
	for start := time.Now(); !f(); pause(t.Context(), 5*time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// inTx has the effect of key, then runs f in the transaction.
func (s *shop) inTx(ctx context.Context, key string, f func(context.Context, *sql.Tx) error) (int, bool, error) {
	return sqlstore.InTx(ctx, s.store, order(key), func(ctx context.Context, tx *sql.Tx) (int, error) {
		if err := s.insert(ctx, tx, key); err != nil {
			return 0, err
		}
		return 1, f(ctx, tx)
	})
}
