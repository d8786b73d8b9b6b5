package idempotency

import "time"

// Event tells [Config].OnOutcome how a call ended.
type Event struct {
	// Kind is what the key was used for: "http", "value" or "inbox", or "tx" for
	// package sqlstore's InTx.
	Kind string
	// Ending is how the call ended; a short word, fit to be a label.
	Ending Ending
	// Attempt counts the claims on the key, this one included; 0 where the work
	// was not begun.
	Attempt int
	// TakenOver reports that the owner before had neither completed nor released
	// its claim when its lease ended.
	TakenOver bool
	// Elapsed is the time from asking the Store to settling the claim.
	Elapsed time.Duration
	// Err is why the call ended as it did, where there is a reason. It never
	// contains the key.
	Err error
}

// Ending is how a call ended.
type Ending string

const (
	// EndExecuted means that the work was done and recorded.
	EndExecuted Ending = "executed"
	// EndReplayed means that it had been done before, and its result was used.
	EndReplayed Ending = "replayed"
	// EndFailed means that the work failed, panicked, or had a response that is
	// not to be kept; the claim was released.
	EndFailed Ending = "failed"
	// EndBusy means that another call with the key was running.
	EndBusy Ending = "busy"
	// EndMismatch means that the key had been used with another fingerprint.
	EndMismatch Ending = "mismatch"
	// EndNotStored means that the work had been done before and that its result
	// was not kept.
	EndNotStored Ending = "not_stored"
	// EndInvalid means that the key, the scope or the body of the request was
	// refused before the Store was asked.
	EndInvalid Ending = "invalid"
	// EndUnavailable means that the Store did not answer; with FailOpen the work
	// was done without a record.
	EndUnavailable Ending = "unavailable"
	// EndFenced means that the work was done, but another call had taken over:
	// it may have been done twice.
	EndFenced Ending = "fenced"
	// EndUnrecorded means that the work was done, but the Store failed to record
	// it: it may be done again once the lease has ended.
	EndUnrecorded Ending = "unrecorded"
	// EndCanceled means that the caller's context ended before the work began.
	EndCanceled Ending = "canceled"
)
