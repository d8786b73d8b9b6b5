package main

import (
	"context"
	"time"

	"github.com/avast/retry-go/v5"
	"github.com/cenkalti/backoff/v7"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	sethvargo "github.com/sethvargo/go-retry"

	parley "github.com/parley-go/parley/retry"
)

// retryRows compares a call that succeeds at once, which is what nearly all
// calls do, and one that succeeds at the third try without waiting.
func retryRows() []row {
	ctx := context.Background()
	// third fails twice, then succeeds, for ever.
	third := func() func() error {
		calls := 0
		return func() error {
			if calls++; calls%3 != 0 {
				return errDown
			}
			return nil
		}
	}
	none := func() error { return nil }

	// Each library gets the operation in the form that it takes.
	ours := func(op func(context.Context) error) loop {
		p := parley.Policy{Backoff: parley.Constant(0)}
		return func(n int) {
			for range n {
				_ = p.Do(ctx, op)
			}
		}
	}
	oursNone := ours(func(context.Context) error { return nil })
	oursThird := func() loop {
		calls := 0
		return ours(func(context.Context) error {
			if calls++; calls%3 != 0 {
				return errDown
			}
			return nil
		})
	}()
	viaAvast := func(op func() error) loop {
		r := retry.New(retry.Attempts(3), retry.Delay(0), retry.MaxJitter(1), retry.DelayType(retry.FixedDelay))
		return func(n int) {
			for range n {
				_ = r.Do(op)
			}
		}
	}
	viaBackoff := func(op func() error) loop {
		return func(n int) {
			for range n {
				_, _ = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, op() }, backoff.WithBackOff(&backoff.ZeroBackOff{}), backoff.WithMaxTries(3))
			}
		}
	}
	viaSethvargo := func(op func() error) loop {
		return func(n int) {
			for range n {
				b := sethvargo.WithMaxRetries(2, sethvargo.BackoffFunc(func() (time.Duration, bool) { return 0, false }))
				_ = sethvargo.Do(ctx, b, func(context.Context) error {
					if err := op(); err != nil {
						return sethvargo.RetryableError(err)
					}
					return nil
				})
			}
		}
	}
	viaFailsafe := func(op func() error) loop {
		executor := failsafe.With[any](retrypolicy.NewBuilder[any]().WithMaxRetries(2).Build())
		return func(n int) {
			for range n {
				_ = executor.Run(op)
			}
		}
	}
	return []row{
		{name: "retry/first_try", ours: oursNone, peer: "avast_v5", them: viaAvast(none), most: 1.2},
		{name: "retry/first_try", ours: oursNone, peer: "cenkalti_v7", them: viaBackoff(none), most: .1},
		{name: "retry/first_try", ours: oursNone, peer: "sethvargo", them: viaSethvargo(none)},
		{name: "retry/first_try", ours: oursNone, peer: "failsafe", them: viaFailsafe(none)},
		{name: "retry/third_try", ours: oursThird, peer: "avast_v5", them: viaAvast(third()), most: .08, allocs: 2},
		{name: "retry/third_try", ours: oursThird, peer: "cenkalti_v7", them: viaBackoff(third()), most: .08, allocs: 2},
		{name: "retry/third_try", ours: oursThird, peer: "sethvargo", them: viaSethvargo(third()), most: .08, allocs: 2},
		{name: "retry/third_try", ours: oursThird, peer: "failsafe", them: viaFailsafe(third()), most: .08, allocs: 2},
	}
}
