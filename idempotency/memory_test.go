package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/idempotency"
)

func newMemory(t testing.TB, config idempotency.MemoryConfig) *idempotency.Memory {
	t.Helper()
	m, err := idempotency.NewMemory(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNewMemoryReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: -1, MaxBytes: -2})
	if err == nil || err.Error() != "idempotency: memory config: MaxRecords -1 is negative; MaxBytes -2 is negative" {
		t.Errorf("NewMemory() = %v, want both faults on one line", err)
	}
}

// oracle is the state table of Store, written as naively as possible: it keeps
// every record for ever, and looks at the clock only when asked.
type oracle struct {
	records map[idempotency.ID]*oracleRecord
}

type oracleRecord struct {
	fingerprint       [32]byte
	token             int64
	attempt           int
	state             string
	lease, expires    time.Time
	data              string
	notStored, exists bool
}

func (o *oracle) at(id idempotency.ID) *oracleRecord {
	r := o.records[id]
	if r == nil {
		r = &oracleRecord{}
		o.records[id] = r
	}
	if r.exists && !time.Now().Before(r.expires) {
		*r = oracleRecord{}
	}
	return r
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (o *oracle) acquire(c idempotency.Claim) idempotency.Outcome {
	r, now := o.at(c.ID), time.Now()
	takenOver := false
	if r.exists {
		switch {
		case r.fingerprint != c.Fingerprint:
			return idempotency.Outcome{Status: idempotency.Mismatch}
		case r.state == "completed":
			out := idempotency.Outcome{Status: idempotency.Completed}
			out.Result.NotStored = r.notStored
			if r.data != "" {
				out.Result.Data = []byte(r.data)
			}
			return out
		case r.state == "running" && now.Before(r.lease):
			return idempotency.Outcome{Status: idempotency.Busy, LeaseLeft: r.lease.Sub(now)}
		}
		takenOver = r.state == "running"
	}
	r.exists, r.fingerprint, r.state = true, c.Fingerprint, "running"
	r.attempt++
	r.lease = now.Add(c.Lease)
	r.expires = later(r.lease, now.Add(c.TTL))
	return idempotency.Outcome{Status: idempotency.Acquired, Attempt: r.attempt, TakenOver: takenOver}
}

// owned returns the record if token owns it and it is in one of the states.
func (o *oracle) owned(id idempotency.ID, token int64, states string) *oracleRecord {
	if r := o.at(id); r.exists && r.token == token && strings.Contains(states, r.state) {
		return r
	}
	return nil
}

func (o *oracle) complete(id idempotency.ID, token int64, data string, notStored bool, ttl time.Duration) bool {
	r := o.owned(id, token, "running completed")
	if r == nil {
		return false
	}
	if r.state == "running" || r.notStored {
		r.state, r.data, r.notStored, r.expires = "completed", data, notStored, time.Now().Add(ttl)
	}
	return true
}

func (o *oracle) release(id idempotency.ID, token int64) bool {
	r := o.owned(id, token, "running released")
	if r == nil {
		return false
	}
	r.state = "released"
	return true
}

func (o *oracle) extend(id idempotency.ID, token int64, lease time.Duration) bool {
	r := o.owned(id, token, "running completed")
	if r == nil {
		return false
	}
	if r.state == "running" {
		r.lease = time.Now().Add(lease)
		r.expires = later(r.expires, r.lease)
	}
	return true
}

func TestMemoryFollowsTheStateTable(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { followTable(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func followTable(t *testing.T, rnd *rand.Rand) {
	m := newMemory(t, idempotency.MemoryConfig{})
	o := &oracle{records: make(map[idempotency.ID]*oracleRecord)}
	tokens := make(map[idempotency.ID][]int64) // all that were handed out
	duration := func() time.Duration { return time.Duration(1+rnd.IntN(5)) * time.Second }
	for step := range 3000 {
		id := idempotency.ID{byte(rnd.IntN(4))}
		token := rnd.Int64N(3)
		if known := tokens[id]; len(known) > 0 && rnd.IntN(10) > 0 {
			token = known[max(0, len(known)-1-rnd.IntN(2))] // mostly the owner's, or the one before
		}
		var got, want any
		var what string
		switch rnd.IntN(8) {
		case 0, 1, 2:
			c := idempotency.Claim{ID: id, Lease: duration(), TTL: duration()}
			c.Fingerprint[0] = byte(min(rnd.IntN(8), 1))
			out, err := m.Acquire(t.Context(), c)
			if out.Status == idempotency.Acquired {
				if known := tokens[id]; len(known) > 0 && out.Token <= known[len(known)-1] {
					t.Fatalf("step %d: token %d after %v, want a larger one", step, out.Token, known)
				}
				tokens[id] = append(tokens[id], out.Token)
			}
			expected := o.acquire(c)
			if expected.Status == idempotency.Acquired {
				o.records[id].token = out.Token // which one is the store's choice
			}
			out.Token = 0
			what, got, want = fmt.Sprintf("Acquire(%v)", c.ID[0]), []any{out, err}, []any{expected, nil}
		case 3:
			data, ttl := [...]string{"", "a", "bc"}[rnd.IntN(3)], duration()
			notStored := data == ""
			err := m.Complete(t.Context(), id, token, idempotency.Result{Data: []byte(data), NotStored: notStored}, ttl)
			what, got, want = "Complete()", outcome(t, err), o.complete(id, token, data, notStored, ttl)
		case 4:
			what, got, want = "Release()", outcome(t, m.Release(t.Context(), id, token)), o.release(id, token)
		case 5:
			lease := duration()
			what, got, want = "Extend()", outcome(t, m.Extend(t.Context(), id, token, lease)), o.extend(id, token, lease)
		default:
			// Half seconds meet the ends of leases and TTLs to the instant.
			time.Sleep(time.Duration(rnd.IntN(6)) * time.Second / 2)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b []byte) bool { return string(a) == string(b) })); diff != "" {
			t.Fatalf("step %d: %s (-want +got):\n%s", step, what, diff)
		}
	}
}

// outcome turns a step's error into whether it had an effect.
func outcome(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, idempotency.ErrFenced) {
		t.Fatalf("a step = %v, want nil or ErrFenced", err)
	}
	return err == nil
}

func numbered(n int) idempotency.Claim {
	return idempotency.Claim{ID: idempotency.ID{byte(n), byte(n >> 8)}, Lease: time.Second, TTL: time.Minute}
}

func TestMemoryWhenFullRefusesNewKeysAndForgetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, idempotency.MemoryConfig{MaxRecords: 3})
		for i := range 3 {
			if _, err := m.Acquire(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Acquire(t.Context(), numbered(3)); !errors.Is(err, idempotency.ErrFull) {
			t.Errorf("Acquire() of a fourth key = %v, want ErrFull", err)
		}
		for i := range 3 {
			if out, err := m.Acquire(t.Context(), numbered(i)); err != nil || out.Status != idempotency.Busy {
				t.Errorf("Acquire() of key %d = %+v, %v, want Busy", i, out, err)
			}
		}
		time.Sleep(time.Minute)
		if out, err := m.Acquire(t.Context(), numbered(3)); err != nil || out.Status != idempotency.Acquired {
			t.Errorf("Acquire() after the TTL = %+v, %v, want Acquired", out, err)
		}
	})
}

func TestMemoryRemovesExpiredRecordsWithoutAGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, idempotency.MemoryConfig{})
		for i := range 1000 {
			if _, err := m.Acquire(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for i := range 600 { // each call removes two
			if _, err := m.Acquire(t.Context(), numbered(1000+i%7)); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.Len(); got != 7 {
			t.Errorf("Len() = %d, want the 7 that live", got)
		}
	})
}

func TestMemoryWithoutRoomForAResultCompletesWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, idempotency.MemoryConfig{MaxBytes: 10})
		complete := func(n, size int) idempotency.Result {
			c := numbered(n)
			out, err := m.Acquire(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Complete(t.Context(), c.ID, out.Token, idempotency.Result{Data: make([]byte, size)}, c.TTL); err != nil {
				t.Fatal(err)
			}
			if out, err = m.Acquire(t.Context(), c); err != nil || out.Status != idempotency.Completed {
				t.Fatalf("Acquire() = %+v, %v, want Completed", out, err)
			}
			return out.Result
		}
		if got := complete(0, 6); len(got.Data) != 6 {
			t.Errorf("the first result has %d bytes, want 6", len(got.Data))
		}
		if got := complete(1, 5); !got.NotStored {
			t.Errorf("a result beyond MaxBytes = %+v, want NotStored", got)
		}
		if got := complete(2, 4); len(got.Data) != 4 {
			t.Errorf("a result that fits has %d bytes, want 4", len(got.Data))
		}
		time.Sleep(time.Minute)
		if got := complete(3, 10); len(got.Data) != 10 {
			t.Errorf("a result after the others have expired has %d bytes, want 10", len(got.Data))
		}
	})
}

func TestMemoryKeepsForTheLongestDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, idempotency.MemoryConfig{})
		c := idempotency.Claim{Lease: math.MaxInt64, TTL: math.MaxInt64}
		time.Sleep(time.Hour) // so that adding would overflow
		out, err := m.Acquire(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Extend(t.Context(), c.ID, out.Token, math.MaxInt64); err != nil {
			t.Errorf("Extend() = %v, want nil", err)
		}
		if err := m.Complete(t.Context(), c.ID, out.Token, idempotency.Result{}, math.MaxInt64); err != nil {
			t.Errorf("Complete() = %v, want nil", err)
		}
		time.Sleep(1000 * time.Hour)
		if out, err := m.Acquire(t.Context(), c); err != nil || out.Status != idempotency.Completed {
			t.Errorf("Acquire() = %+v, %v, want Completed", out, err)
		}
	})
}

func TestMemoryTokensRiseOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := int64(0)
		for range 3 {
			m := newMemory(t, idempotency.MemoryConfig{})
			for i := range 100 {
				out, err := m.Acquire(t.Context(), numbered(i))
				if err != nil || out.Token <= last {
					t.Fatalf("Acquire() = %+v, %v, want a token above %d", out, err, last)
				}
				last = out.Token
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func TestMemoryReturnsTheCauseOfAnEndedContext(t *testing.T) {
	m := newMemory(t, idempotency.MemoryConfig{})
	cause := errors.New("the caller left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := m.Acquire(ctx, numbered(1)); !errors.Is(err, cause) {
		t.Errorf("Acquire() = %v, want the cause", err)
	}
}
