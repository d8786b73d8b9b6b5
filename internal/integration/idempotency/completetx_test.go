package idempotency

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/idempotency"
)

// completeTx has the effect of key and completes the claim of ctx in one
// transaction.
func (s *shop) completeTx(ctx context.Context, key string, r idempotency.Result) error {
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := s.insert(ctx, tx, key); err != nil {
		return err
	}
	if err := s.store.CompleteTx(ctx, tx, r); err != nil {
		return err
	}
	return tx.Commit()
}

func TestCompleteTxRecordsWithTheEffectAndTheResultIsAddedAfterIt(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		g := newGuard(t, s.store, idempotency.Config{})
		for i := range 2 {
			v, replayed, err := idempotency.Value(t.Context(), g, order("a"), func(ctx context.Context) (string, error) {
				return "done", s.completeTx(ctx, "a", idempotency.Result{NotStored: true})
			})
			if v != "done" || replayed != (i > 0) || err != nil {
				t.Errorf("call %d = %q, %t, %v, want done, replayed the second time", i, v, replayed, err)
			}
		}
		s.wantEffects(t, "a", 1)
	})
}

func TestCompleteTxThatIsRolledBackLeavesTheClaimOpen(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		g := newGuard(t, s.store, idempotency.Config{})
		place := func(fail error) (bool, error) {
			_, replayed, err := idempotency.Value(t.Context(), g, order("a"), func(ctx context.Context) (int, error) {
				tx, err := s.BeginTx(ctx, nil)
				if err != nil {
					return 0, err
				}
				defer func() { _ = tx.Rollback() }()
				if err := errors.Join(s.insert(ctx, tx, "a"), s.store.CompleteTx(ctx, tx, idempotency.Result{NotStored: true}), fail); err != nil {
					return 0, err
				}
				return 1, tx.Commit()
			})
			return replayed, err
		}
		if _, err := place(errWork); !errors.Is(err, errWork) {
			t.Errorf("first call = %v, want the work's error", err)
		}
		s.wantEffects(t, "a", 0)
		if replayed, err := place(nil); replayed || err != nil {
			t.Errorf("second call: replayed %t, %v, want a run", replayed, err)
		}
		s.wantEffects(t, "a", 1)
	})
}

func TestWorkThatFailsAfterItsTransactionWasCommittedIsNotRunAgain(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		g := newGuard(t, s.store, idempotency.Config{})
		call := func() error {
			_, _, err := idempotency.Value(t.Context(), g, order("a"), func(ctx context.Context) (int, error) {
				return 0, errors.Join(s.completeTx(ctx, "a", idempotency.Result{NotStored: true}), errWork)
			})
			return err
		}
		if err := call(); !errors.Is(err, errWork) {
			t.Errorf("first call = %v, want the work's error", err)
		}
		if err := call(); !errors.Is(err, idempotency.ErrNotStored) {
			t.Errorf("second call = %v, want ErrNotStored", err)
		}
		s.wantEffects(t, "a", 1)
	})
}

// The zombie is overtaken between its claim and its transaction.
func TestAnOwnerThatWasOvertakenCannotCompleteInsideItsTransactionAndRollsBack(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		g := newGuard(t, s.store, idempotency.Config{Lease: time.Millisecond, DisableHeartbeat: true})
		claimed, overtaken, zombie := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			_, _, err := idempotency.Value(t.Context(), g, order("a"), func(ctx context.Context) (int, error) {
				close(claimed)
				<-overtaken
				return 1, s.completeTx(ctx, "a", idempotency.Result{NotStored: true})
			})
			zombie <- err
		}()
		<-claimed
		g = newGuard(t, s.store, idempotency.Config{})
		eventually(t, "the take-over", func() bool {
			_, _, err := idempotency.Value(t.Context(), g, order("a"), func(ctx context.Context) (int, error) {
				return 2, s.completeTx(ctx, "a", idempotency.Result{NotStored: true})
			})
			return err == nil
		})
		close(overtaken)
		if err := <-zombie; !errors.Is(err, idempotency.ErrFenced) {
			t.Errorf("the zombie's call = %v, want ErrFenced", err)
		}
		s.wantEffects(t, "a", 1)
	})
}

func TestCompleteTxOutsideOfAClaimIsAnError(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		err := s.completeTx(t.Context(), "a", idempotency.Result{})
		if err == nil || !strings.HasPrefix(err.Error(), "sqlstore: CompleteTx: ") {
			t.Errorf("CompleteTx() = %v, want an error that says what is missing", err)
		}
		s.wantEffects(t, "a", 0)
	})
}

// A handler that completes with its response has it replayed even if the process
// ends before it answers; here the connection breaks instead.
func TestAResponseRecordedInsideTheTransactionIsReplayedAlsoWhenItWasNeverSent(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		g := newGuard(t, s.store, idempotency.Config{})
		once, err := g.Middleware(idempotency.HTTP{GlobalScope: true})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(once(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			r1 := idempotency.HTTPResult(http.StatusCreated, http.Header{"Location": {"/orders/1"}, "Set-Cookie": {"s=1"}}, []byte("order 1"))
			if err := s.completeTx(r.Context(), "a", r1); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		})))
		defer server.Close()
		send := func() (*http.Response, error) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Idempotency-Key", "a")
			req.GetBody = nil // or the client would repeat it by itself
			return http.DefaultClient.Do(req)
		}
		if resp, err := send(); err == nil {
			t.Errorf("first answer = %s, want a broken connection", resp.Status)
		}
		resp, err := send()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusCreated || string(body) != "order 1" || resp.Header.Get("Location") != "/orders/1" ||
			resp.Header.Get("Idempotency-Replayed") != "true" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("second answer = %s %q %v, want the recorded response", resp.Status, body, resp.Header)
		}
		s.wantEffects(t, "a", 1)
	})
}

// On PostgreSQL, INSERT … ON CONFLICT would wait until the other transaction ends.
func TestNoClaimWaitsForTheTransactionOfAnotherCallWithItsKey(t *testing.T) {
	s := newShop(t, postgres(t))
	g := newGuard(t, s.store, idempotency.Config{})
	// Each of these is called while the transaction is open, and must return.
	duplicates := func(t *testing.T) {
		_, _, err := s.place(t.Context(), "a")
		_, _, err2 := idempotency.Value(t.Context(), g, order("a"), func(context.Context) (int, error) { return 0, nil })
		for _, err := range []error{err, err2} {
			busy, ok := errors.AsType[*idempotency.RejectedError](err)
			if !ok || busy.Reason != idempotency.ErrBusy || busy.After <= 0 {
				t.Errorf("a duplicate = %v, want busy, with the time to come back", err)
			}
		}
	}
	t.Run("of InTx", func(t *testing.T) {
		_, _, err := s.inTx(t.Context(), "a", func(context.Context, *sql.Tx) error { duplicates(t); return errWork })
		if !errors.Is(err, errWork) {
			t.Fatal(err)
		}
	})
	t.Run("of CompleteTx, whose lease has ended", func(t *testing.T) {
		g := newGuard(t, s.store, idempotency.Config{Lease: time.Millisecond, DisableHeartbeat: true})
		_, _, err := idempotency.Value(t.Context(), g, order("a"), func(ctx context.Context) (int, error) {
			tx, err := s.BeginTx(ctx, nil)
			if err != nil {
				return 0, err
			}
			defer func() { _ = tx.Rollback() }()
			if err := s.store.CompleteTx(ctx, tx, idempotency.Result{NotStored: true}); err != nil {
				return 0, err
			}
			pause(ctx, 20*time.Millisecond) // the lease is that of the store's clock
			duplicates(t)
			return 0, tx.Commit()
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// The same key in two tables, as of two services that share a database, is two
// keys, also to the locks, which are the whole database's.
func TestTheSameKeyInAnotherTableOfTheDatabaseIsAnotherKey(t *testing.T) {
	s, other := newShop(t, postgres(t)), newShop(t, postgres(t))
	_, _, err := s.inTx(t.Context(), "a", func(ctx context.Context, _ *sql.Tx) error {
		if _, replayed, err := other.place(ctx, "a"); replayed || err != nil {
			t.Errorf("InTx() on another table: replayed %t, %v, want a run", replayed, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
