// Package idempotencytest checks that a store keeps the promises of
// [idempotency.Store], which is what keeps two calls with one key from doing the
// work twice. Whoever implements a store runs it in one test:
//
//	func TestStoreKeepsThePromises(t *testing.T) {
//		idempotencytest.Run(t, func(t *testing.T) idempotency.Store { return open(t) })
//	}
//
// # How it works
//
// Each test opens a store of its own and uses random IDs, so that all of them
// may share a database. It needs no control over the store's clock: where time
// matters it uses leases of a minute, which do not end during a test, and of
// 50 milliseconds, whose end it waits for. A slow store or machine makes it
// slower and not wrong.
//
// # Guarantees
//
// A store that passes follows the state table of the interface's documentation,
// lets exactly one of 200 simultaneous calls win, fences the others off, and
// hands out rising tokens. Not checked is what needs a fault: that records
// survive a crash or a fail-over of the store.
//
// # Errors
//
// The package has none: it fails the test.
//
// # Concurrency
//
// The tests run in parallel with each other.
package idempotencytest

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/parley-go/parley/idempotency"
)

// Leases and TTLs: long ones outlast every test, short ones end within it.
const (
	long  = time.Minute
	short = 50 * time.Millisecond
	// patience bounds every wait for something that must happen.
	patience = 30 * time.Second
)

// Run tests the store that open returns. It calls open once for each test, with
// that test's t for clean-up; the stores may share their records.
func Run(t *testing.T, open func(t *testing.T) idempotency.Store) {
	t.Helper()
	for _, group := range [][]check{table(), timed(), concurrent()} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(&bench{T: t, store: open(t)})
			})
		}
	}
}

// check is one test, named by the promise that it checks.
type check struct {
	name string
	run  func(b *bench)
}

// bench is a test with its store.
type bench struct {
	*testing.T
	store idempotency.Store
}

// claim returns a claim on a new ID.
func claim(lease, ttl time.Duration) idempotency.Claim {
	c := idempotency.Claim{Lease: lease, TTL: ttl}
	_, _ = rand.Read(c.ID[:]) // never fails since Go 1.24
	_, _ = rand.Read(c.Fingerprint[:])
	return c
}

// other returns c with another fingerprint.
func other(c idempotency.Claim) idempotency.Claim {
	c.Fingerprint[0]++
	return c
}

func (b *bench) acquire(c idempotency.Claim) idempotency.Outcome {
	b.Helper()
	out, err := b.store.Acquire(b.Context(), c)
	if err != nil {
		b.Fatalf("Acquire() = %v, want no error", err)
	}
	return out
}

// own acquires c, which must succeed.
func (b *bench) own(c idempotency.Claim) idempotency.Outcome {
	b.Helper()
	out := b.acquire(c)
	if out.Status != idempotency.Acquired {
		b.Fatalf("Acquire() = status %d, want Acquired", out.Status)
	}
	return out
}

// wants acquires c, which must end in the status.
func (b *bench) wants(c idempotency.Claim, want idempotency.Status, when string) idempotency.Outcome {
	b.Helper()
	out := b.acquire(c)
	if out.Status != want {
		b.Fatalf("Acquire() %s = status %d, want %d", when, out.Status, want)
	}
	return out
}

func (b *bench) complete(c idempotency.Claim, token int64, r idempotency.Result) error {
	return b.store.Complete(b.Context(), c.ID, token, r, c.TTL)
}

func (b *bench) release(c idempotency.Claim, token int64) error {
	return b.store.Release(b.Context(), c.ID, token)
}

func (b *bench) extend(c idempotency.Claim, token int64, lease time.Duration) error {
	return b.store.Extend(b.Context(), c.ID, token, lease)
}

func (b *bench) must(what string, err error) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s = %v, want nil", what, err)
	}
}

func (b *bench) fenced(what string, err error) {
	b.Helper()
	if !errors.Is(err, idempotency.ErrFenced) {
		b.Errorf("%s = %v, want ErrFenced", what, err)
	}
}

// allFenced checks that no step with the token has an effect.
func (b *bench) allFenced(c idempotency.Claim, token int64, when string) {
	b.Helper()
	b.fenced("Complete() "+when, b.complete(c, token, idempotency.Result{Data: []byte("stale")}))
	b.fenced("Release() "+when, b.release(c, token))
	b.fenced("Extend() "+when, b.extend(c, token, long))
}

// outlive waits until a lease or TTL of the given length has certainly ended on
// the store's clock too.
func (b *bench) outlive(d time.Duration) {
	b.Helper()
	wait(b.Context(), 3*d)
}

// eventually polls until f says that what was waited for has happened.
func (b *bench) eventually(what string, f func() bool) {
	b.Helper()
	for start := time.Now(); !f(); wait(b.Context(), short/5) {
		if time.Since(start) > patience {
			b.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
