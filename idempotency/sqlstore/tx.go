package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/idempotency"
)

// kindTx is the Kind of InTx's events.
const kindTx = "tx"

// maxValue bounds the encoded result of InTx, as that of idempotency.Value.
const maxValue = 1 << 20

// CompleteTx records, inside the transaction that has the effect, that the work
// of ctx is done: both happen at tx's commit, or neither does. It is called by
// work that runs under a claim of a Guard over this Store (a handler behind
// [idempotency.Guard.Middleware], the function of [idempotency.Value], a handler
// behind an Inbox), on a transaction of the same database, as the last statement
// before the commit:
//
//	tx, err := db.BeginTx(ctx, nil)
//	defer tx.Rollback()
//	...                                            // the effect
//	err = store.CompleteTx(ctx, tx, idempotency.Result{NotStored: true})
//	err = tx.Commit()                              // only if that was nil
//
// It returns ErrFenced when another call has taken over, or the cause of ctx when
// that has ended. After any error the caller must roll back.
//
// A result with NotStored is replaced by that of the work once it returns; if the
// process dies before that, repetitions are told that the result was not kept.
// Any other r is final: [idempotency.HTTPResult] makes one of a response, and the
// JSON of the function's value is one for Value.
func (s *Store) CompleteTx(ctx context.Context, tx *sql.Tx, r idempotency.Result) error {
	lease, ok := idempotency.FromContext(ctx)
	if !ok {
		return errors.New("sqlstore: CompleteTx: the context is not that of work under a claim; see idempotency.FromContext")
	}
	return s.finish(ctx, tx, s.completeTx, lease.ID, lease.Token, r, lease.TTL)
}

// InTx returns what fn returned the first time that key was used, like
// [idempotency.Value], whose keys it shares. It runs fn in a transaction that also
// records the result, so that effect and record happen both or not at all,
// however the process ends. What fn does outside of tx, it may do again.
//
// fn must neither commit nor roll back. Its error is returned as it is, and rolls
// everything back, so that the next call runs fn again; so does a panic, which
// goes on, and the end of ctx before the commit. Work that does not listen to its
// context loses the transaction 5 seconds after ctx has ended. Nothing is
// remembered of a call that failed, its fingerprint included.
//
// Without running fn it returns an [*idempotency.RejectedError] that is
// [idempotency.ErrBusy] while another call with the key runs, or
// [idempotency.ErrUnavailable] when the database does not answer;
// [idempotency.ErrMismatch] if key has another fingerprint; [idempotency.ErrKey]
// if its Scope or ID is empty; [idempotency.ErrNotStored] if the recorded result
// is not kept or does not decode; and the cause of ctx once that has ended.
//
// An error of the commit may mean that it happened, where the connection broke:
// call again with the same key to know. The transaction has the isolation level
// that is the database's default.
//
// The result is recorded as JSON of up to 1 MiB. A result that is larger, or
// cannot be encoded, is returned this once and is ErrNotStored from then on. InTx
// is safe for concurrent use.
func InTx[T any](ctx context.Context, s *Store, key idempotency.Key, fn func(context.Context, *sql.Tx) (T, error)) (v T, replayed bool, err error) {
	if s == nil || fn == nil {
		return v, false, errors.New("sqlstore: InTx: the Store or the function is nil")
	}
	e := idempotency.Event{Kind: kindTx, Ending: idempotency.EndFailed} // as a panic leaves it
	if s.config.OnOutcome != nil {
		start := time.Now()
		defer func() {
			e.Elapsed = time.Since(start)
			s.config.OnOutcome(ctx, e)
		}()
	}
	r, replayed, err := s.inTx(ctx, key, &e, func(ctx context.Context, tx *sql.Tx) (idempotency.Result, error) {
		var err error
		if v, err = fn(ctx, tx); err != nil {
			return idempotency.Result{}, err
		}
		data, err := json.Marshal(v)
		if err != nil || len(data) > maxValue {
			return idempotency.Result{NotStored: true}, nil
		}
		return idempotency.Result{Data: data}, nil
	})
	switch {
	case err != nil:
		e.Err = err
		var zero T // of work that was rolled back
		return zero, false, err
	case !replayed:
		return v, false, nil
	case r.NotStored:
		e.Ending, e.Err = idempotency.EndNotStored, idempotency.ErrNotStored
		return v, false, idempotency.ErrNotStored
	}
	if err := json.Unmarshal(r.Data, &v); err != nil {
		var zero T
		e.Ending, e.Err = idempotency.EndNotStored, fmt.Errorf("%w: %w", idempotency.ErrNotStored, err)
		return zero, false, e.Err
	}
	return v, true, nil
}

func (s *Store) inTx(ctx context.Context, key idempotency.Key, e *idempotency.Event, work func(context.Context, *sql.Tx) (idempotency.Result, error)) (r idempotency.Result, replayed bool, err error) {
	claim, err := key.Claim()
	if err != nil {
		e.Ending = idempotency.EndInvalid
		return r, false, err
	}
	// Others never see the lease: the transaction takes its place.
	claim.Lease, claim.TTL = s.config.TTL, s.config.TTL
	ctx, cancel := context.WithCancel(ctx) // that of the work ends with the call
	defer cancel()
	bounded, begun, end := outlive(ctx)
	defer end()
	tx, err := s.db.BeginTx(bounded, nil)
	if err != nil {
		return r, false, notBegun(ctx, e, wrap("begin", err))
	}
	begun.Store(true)
	defer func() { _ = tx.Rollback() }() // nothing after a commit
	out, err := s.acquire(ctx, tx, s.askTx, claim)
	if err != nil {
		return r, false, notBegun(ctx, e, err)
	}
	switch out.Status {
	case idempotency.Acquired:
	case idempotency.Completed:
		e.Ending = idempotency.EndReplayed
		return out.Result, true, nil
	case idempotency.Mismatch:
		e.Ending = idempotency.EndMismatch
		return r, false, idempotency.ErrMismatch
	case idempotency.Busy:
		e.Ending = idempotency.EndBusy
		return r, false, &idempotency.RejectedError{Reason: idempotency.ErrBusy, After: out.LeaseLeft}
	}
	e.Attempt, e.TakenOver = out.Attempt, out.TakenOver
	if r, err = work(ctx, tx); err != nil {
		return r, false, err
	}
	if err := s.finish(ctx, tx, s.complete, claim.ID, out.Token, r, claim.TTL); err != nil {
		return r, false, err
	}
	if err := tx.Commit(); err != nil {
		return r, false, fmt.Errorf("sqlstore: the commit failed, and may have happened: call again with the same key: %w", err)
	}
	e.Ending = idempotency.EndExecuted
	return r, false, nil
}

// grace is for how long a transaction may outlast the context of its caller.
const grace = 5 * time.Second

// outlive returns the context of a transaction: one that ends with ctx before it
// has begun, as does the wait for a connection, and else a while after.
// At the end of its context database/sql rolls back in the background, and the
// next call with the key would find it busy. So the call itself rolls back, before
// it returns, and leaves it to database/sql only where work does not listen to its
// context or the database does not answer.
func outlive(ctx context.Context) (bounded context.Context, begun *atomic.Bool, end func()) {
	bounded, cancel := context.WithCancel(context.WithoutCancel(ctx))
	begun = new(atomic.Bool)
	stop := context.AfterFunc(ctx, func() {
		defer cancel()
		if !begun.Load() {
			return
		}
		select {
		case <-time.After(grace):
		case <-bounded.Done():
		}
	})
	return bounded, begun, func() {
		stop()
		cancel()
	}
}

// notBegun says of an error before the work whose it is: the caller's, who left,
// or the database's.
func notBegun(ctx context.Context, e *idempotency.Event, err error) error {
	if ctx.Err() != nil {
		e.Ending = idempotency.EndCanceled
		return fmt.Errorf("sqlstore: the context ended before the work began: %w", context.Cause(ctx))
	}
	e.Ending = idempotency.EndUnavailable
	return &idempotency.RejectedError{Reason: idempotency.ErrUnavailable, After: time.Second, Err: err}
}
