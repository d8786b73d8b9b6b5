package idempotency

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/parley-go/parley/idempotency"
)

// fill adds n records that live for ttl.
func (s *shop) fill(t *testing.T, n int, ttl time.Duration) (ids []idempotency.ID) {
	t.Helper()
	for range n {
		c := idempotency.Claim{Lease: time.Nanosecond, TTL: ttl}
		_, _ = rand.Read(c.ID[:])
		if _, err := s.store.Acquire(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	return ids
}

func (s *shop) records(t *testing.T) int {
	t.Helper()
	name := s.config.Table
	if name == "" {
		name = "idempotency"
	}
	return s.count(t, "SELECT count(*) FROM "+name)
}

// sweep sweeps once, and returns how many records that were.
func (s *shop) sweep(t *testing.T, limit int) int {
	t.Helper()
	n, err := s.store.Sweep(t.Context(), limit)
	if err != nil || n > limit {
		t.Fatalf("Sweep(%d) = %d, %v", limit, n, err)
	}
	return n
}

func TestSweepDeletesExpiredRecordsOnlyAndNoMoreThanItIsTold(t *testing.T) {
	bothShops(t, func(t *testing.T, s *shop) {
		s.fill(t, 5, time.Hour)
		s.fill(t, 25, time.Nanosecond)
		swept := 0
		eventually(t, "the end of the TTL", func() bool {
			n := s.sweep(t, 10)
			swept += n
			return swept == 25
		})
		if n := s.sweep(t, 10); n != 0 || s.records(t) != 5 {
			t.Errorf("%d more were swept and %d are left, want 0 and 5", n, s.records(t))
		}
		if n, err := s.store.Sweep(t.Context(), 0); n != 0 || err == nil {
			t.Errorf("Sweep(0) = %d, %v, want an error", n, err)
		}
	})
}

// The database then believes that there is nothing to join, and would run a subquery
// again for each row, with its LIMIT.
func TestSweepDeletesNoMoreThanItIsToldAlsoAfterTheTableWasAnalysedWhenEmpty(t *testing.T) {
	s := newShop(t, postgres(t))
	s.fill(t, 30, time.Nanosecond)
	s.exec(t, "DELETE FROM "+s.config.Table) // as a sweep of all
	s.exec(t, "ANALYZE "+s.config.Table)
	s.fill(t, 30, time.Nanosecond)
	if n := s.sweep(t, 10); n != 10 {
		t.Errorf("Sweep(10) of 30 records = %d, want 10", n)
	}
}

func TestSweepDoesNotWaitForRecordsInUse(t *testing.T) {
	s := newShop(t, postgres(t))
	ids := s.fill(t, 3, time.Nanosecond)
	tx, err := s.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE "+s.config.Table+" SET attempt = 2 WHERE id = $1", ids[0][:]); err != nil {
		t.Fatal(err)
	}
	// Each of these would wait for the transaction that is open.
	eventually(t, "the sweep of the others", func() bool { s.sweep(t, 10); return s.records(t) == 1 })
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n := s.sweep(t, 10); n != 1 {
		t.Errorf("Sweep() after the transaction = %d, want 1", n)
	}
}

func TestSweepGetsThroughAHundredThousandRecordsInBatches(t *testing.T) {
	s := newShop(t, postgres(t))
	s.exec(t, "INSERT INTO "+s.config.Table+` (id, fingerprint, token, attempt, taken_over, state, lease_until, expires_at)
		SELECT sha256(n::text::bytea), '', n, 1, false, 3, now(), now() - interval '1 hour' FROM generate_series(1, 100000) n`)
	s.fill(t, 1, time.Hour)
	total := 0
	for {
		n := s.sweep(t, 10_000)
		total += n
		if n < 10_000 {
			break
		}
	}
	if total != 100_000 || s.records(t) != 1 {
		t.Errorf("%d records were swept and %d are left, want 100000 and 1", total, s.records(t))
	}
}
