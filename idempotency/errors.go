package idempotency

import (
	"fmt"
	"time"
)

// Reason says why work was not done, or not recorded. It is an error, so that
// errors.Is(err, idempotency.ErrBusy) works, and a short word, so that
// string(reason) is fit to be a label of a metric.
type Reason string

// The reasons.
const (
	// ErrBusy means that another call with the same key is running. Ask again
	// later, with the same key; the error is a [*RejectedError] that says when.
	ErrBusy Reason = "busy"

	// ErrMismatch means that the key was used before with another fingerprint.
	// Asking again does not help: new work needs a new key.
	ErrMismatch Reason = "mismatch"

	// ErrNotStored means that the work was done before, but that its result was
	// not kept, or can no longer be read. The work is not done again.
	ErrNotStored Reason = "not_stored"

	// ErrKey means that the key is missing or not well formed.
	ErrKey Reason = "key"

	// ErrUnavailable means that the Store did not answer, so that the work was
	// not begun; the error is a [*RejectedError] that wraps the Store's.
	ErrUnavailable Reason = "unavailable"

	// ErrFenced is what a Store returns to a call that has no claim any more:
	// its lease ended and another call took over, it was released, or the record
	// has expired. It is also the cause with which the context of the work ends
	// when the heartbeat learns of it, or has reached the Store for the last time
	// as long ago as the lease lasts, so that another call may have taken over.
	ErrFenced Reason = "fenced"

	// ErrFull means that a Memory holds as many live records as it may. It
	// forgets none of them; raise MaxRecords or lower the TTL.
	ErrFull Reason = "full"
)

// Error returns the reason in words.
func (r Reason) Error() string { return "idempotency: " + r.words() }

func (r Reason) words() string {
	switch r {
	case ErrBusy:
		return "another call with this key is running, ask again later"
	case ErrMismatch:
		return "the key was used with another payload, make a new key for new work"
	case ErrNotStored:
		return "the work was done before and its result was not kept"
	case ErrKey:
		return "the key is missing or malformed"
	case ErrUnavailable:
		return "the store did not answer, the work was not begun"
	case ErrFenced:
		return "the claim was lost, another call may have taken over"
	case ErrFull:
		return "the memory store is full, raise MaxRecords or lower the TTL"
	}
	return string(r)
}

// RejectedError says that work was not begun, and when to ask again with the
// same key. Its methods tell retry policies, breakers and message consumers the
// same without their knowing this package.
type RejectedError struct {
	// Reason is ErrBusy or ErrUnavailable.
	Reason Reason
	// After is the rest of the running call's lease, or 1 second for a Store
	// that does not answer. It is positive.
	After time.Duration
	// Err is the Store's error; nil for ErrBusy.
	Err error
}

// Error returns the reason in words and the Store's error. It never contains
// the key.
func (e *RejectedError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%v (%v)", e.Reason, e.After)
	}
	return fmt.Sprintf("%v: %v", e.Reason, e.Err)
}

// Unwrap returns the reason and the Store's error.
func (e *RejectedError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

// RetryAfter returns After.
func (e *RejectedError) RetryAfter() time.Duration { return e.After }

// Rejected returns true: the work was not begun.
func (e *RejectedError) Rejected() bool { return true }
