package idempotency

import (
	"context"
	"time"
)

// Store keeps the records of a [Guard]. A record is in one of three states:
// in progress under a lease, released after a failure, or completed.
//
// Whoever implements a Store promises the following; package idempotencytest
// checks it.
//
//   - Each method is one atomic step, however many processes call it at once,
//     and is safe for concurrent use.
//   - Time is that of the store, not of its callers: a lease lives until its
//     duration has passed on the store's clock, a record until its TTL has.
//   - A token is larger than every token that the store handed out before for
//     the same ID, also after that record has expired.
//   - A step whose token is not that of the record changes nothing and returns
//     [ErrFenced], and so does a step on a record that has expired.
//   - An error that is not ErrFenced means that the step may have happened or
//     not. A call whose context has already ended does not happen.
//   - A lease or TTL that is not positive is an error and not a record without
//     an end; one below the resolution of the store's clock is rounded up.
//   - Result.Data is neither changed nor kept in part. It belongs to the store
//     once Complete is called; what Acquire returns is not changed by callers.
type Store interface {
	// Acquire takes the claim, or says why not. It writes only where it answers
	// Acquired. Where a record is
	//
	//	absent or expired       it answers Acquired, with Attempt 1
	//	of another fingerprint  it answers Mismatch, whatever the state
	//	in progress             it answers Busy while the lease lives, and
	//	                        Acquired with TakenOver once that has ended
	//	released                it answers Acquired
	//	completed               it answers Completed with the Result
	//
	// An acquired record lives for the claim's TTL, and at least as long as its
	// lease.
	Acquire(ctx context.Context, c Claim) (Outcome, error)

	// Complete records that the work is done and keeps its result for ttl. The
	// owner may do so after its lease has ended, as long as nobody took over.
	// Completing again with the same token returns nil: a result that was kept
	// stays, one that was NotStored is replaced.
	Complete(ctx context.Context, id ID, token int64, r Result, ttl time.Duration) error

	// Release gives the claim up after a failure, so that the next Acquire with
	// the same fingerprint succeeds at once. The record lives on until its TTL,
	// for the fingerprint's sake. Releasing again with the same token returns
	// nil; releasing a completed record returns ErrFenced.
	Release(ctx context.Context, id ID, token int64) error

	// Extend lets the lease end the given time from now. It revives a lease that
	// has ended, as long as nobody took over. On a record that the same token
	// has completed it does nothing and returns nil.
	Extend(ctx context.Context, id ID, token int64, lease time.Duration) error
}

// ID identifies a record: the SHA-256 of what the key is used for, its scope and
// the key, each with its length. A store never sees a key in clear.
type ID [32]byte

// Claim asks a [Store] for the right to do the work of one key.
type Claim struct {
	// ID identifies the record.
	ID ID
	// Fingerprint is the SHA-256 of what must be the same whenever the key is.
	Fingerprint [32]byte
	// Lease is how long the claim holds without Extend. Positive.
	Lease time.Duration
	// TTL is how long the record is kept when nothing more happens. Positive.
	TTL time.Duration
}

// Status is what a [Store] answers to a [Claim].
type Status int

const (
	// Acquired means that the caller owns the claim and must do the work.
	Acquired Status = iota + 1
	// Busy means that another call owns it and its lease lives.
	Busy
	// Completed means that the work has been done.
	Completed
	// Mismatch means that the record has another fingerprint.
	Mismatch
)

// Outcome is the answer to a [Claim].
type Outcome struct {
	// Status says which of the other fields are set.
	Status Status
	// Token is the fencing token of an acquired claim. It rises with every claim
	// on the same ID, so a system behind the work can refuse an owner that has
	// been overtaken by remembering the largest token it saw.
	Token int64
	// Attempt counts the claims acquired on the record, this one included: 1 is
	// the first.
	Attempt int
	// TakenOver reports that the lease of the owner before had ended without
	// Complete or Release. That owner crashed, or is still running somewhere;
	// its effect may have happened.
	TakenOver bool
	// LeaseLeft is how long the owner's lease lives, for Busy. Positive.
	LeaseLeft time.Duration
	// Result is what Complete recorded, for Completed.
	Result Result
}

// Result is what is kept of work that has been done.
type Result struct {
	// Data is the encoded result, opaque to stores. Nil and empty are the same.
	Data []byte
	// NotStored reports that the work was done but that its result is not kept,
	// because it was too large or was streamed. Data is empty then.
	NotStored bool
}
