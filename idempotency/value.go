package idempotency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// maxValue bounds the encoded result of Value: as much as a response by default.
const maxValue = 1 << 20

// Value returns what fn returned the first time that key was used: it runs fn,
// or decodes the recorded result and returns it with replayed true.
//
// fn's context ends when Value returns, and when the claim is lost, with the
// cause [ErrFenced]; [FromContext] tells fn its fencing token and which attempt
// it is. An error of fn is returned as it is and releases the claim, so that the
// next call runs fn again; so does a panic, which goes on. Once fn has succeeded
// its result is recorded even if ctx has ended, and it is returned even if it
// could not be recorded; OnOutcome hears of that.
//
// Without running fn it returns a [*RejectedError] that is [ErrBusy] while
// another call runs, or [ErrUnavailable] when the store does not answer;
// [ErrMismatch] if key has another fingerprint; [ErrKey] if its Scope or ID is
// empty; [ErrNotStored] if the recorded result is not kept or does not decode;
// and the cause of ctx once that has ended.
//
// The result is recorded as JSON of up to 1 MiB: fields that are not encoded are
// lost in a replay. A result that is larger, or cannot be encoded, is returned
// this once and is ErrNotStored from then on; so it is where its encoding panics,
// and the panic goes on. Value is safe for concurrent use.
func Value[T any](ctx context.Context, g *Guard, key Key, fn func(context.Context) (T, error)) (v T, replayed bool, err error) {
	if g == nil || fn == nil {
		return v, false, errors.New("idempotency: Value: the Guard or the function is nil")
	}
	claim, err := key.Claim()
	if err != nil {
		g.invalid(ctx, kindValue, err)
		return v, false, err
	}
	r, replayed, err := g.run(ctx, kindValue, claim, 0, func(held *hold) (Result, error) {
		var err error
		if v, err = fn(held); err != nil {
			return Result{}, err
		}
		held.happened = true // Marshal runs methods of T, which may panic
		data, err := json.Marshal(v)
		if err != nil || len(data) > maxValue {
			return Result{NotStored: true}, nil
		}
		return Result{Data: data}, nil
	})
	if err != nil || !replayed {
		return v, false, err
	}
	if r.NotStored {
		return v, false, ErrNotStored
	}
	if err := json.Unmarshal(r.Data, &v); err != nil {
		var zero T
		return zero, false, fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	return v, true, nil
}
