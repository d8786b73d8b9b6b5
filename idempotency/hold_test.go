package idempotency_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/idempotency"
)

func TestHeartbeatKeepsTheLeaseWhileTheWorkRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, _ := newGuard(t, store, idempotency.Config{Lease: 200 * time.Millisecond})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _, err := idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (int, error) {
				time.Sleep(time.Second)
				return 1, ctx.Err()
			})
			if err != nil {
				t.Errorf("Value() = %v, want nil", err)
			}
		}()
		n, fn := counter()
		for range 9 {
			time.Sleep(100 * time.Millisecond)
			if _, _, err := idempotency.Value(t.Context(), g, charge, fn); !errors.Is(err, idempotency.ErrBusy) {
				t.Errorf("Value() while the first runs = %v, want ErrBusy", err)
			}
		}
		<-done
		if v, replayed, err := idempotency.Value(t.Context(), g, charge, fn); v != 1 || !replayed || err != nil || *n != 0 {
			t.Errorf("Value() = %d, %t, %v, want 1 replayed", v, replayed, err)
		}
		extends := store.extends
		time.Sleep(time.Second)
		if store.extends != extends {
			t.Error("the heartbeat goes on after the work has ended")
		}
	})
}

func TestWithoutHeartbeatLongWorkIsTakenOverAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, e := newGuard(t, store, idempotency.Config{Lease: 200 * time.Millisecond, DisableHeartbeat: true})
		first := make(chan error)
		go func() {
			_, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (string, error) {
				time.Sleep(time.Second)
				return "zombie", nil
			})
			first <- err
		}()
		time.Sleep(300 * time.Millisecond)
		v, _, err := idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (string, error) {
			lease, _ := idempotency.FromContext(ctx)
			if lease.Attempt != 2 || !lease.TakenOver {
				t.Errorf("FromContext() = %+v, want attempt 2, taken over", lease)
			}
			return "successor", nil
		})
		if v != "successor" || err != nil {
			t.Errorf("Value() = %q, %v, want successor, nil", v, err)
		}
		if got := e.last(); got.Ending != idempotency.EndExecuted || !got.TakenOver || got.Attempt != 2 {
			t.Errorf("event = %+v, want executed, taken over, attempt 2", got)
		}
		if err := <-first; err != nil {
			t.Errorf("the zombie's Value() = %v, want its own result", err)
		}
		if got := e.last(); got.Ending != idempotency.EndFenced || !errors.Is(got.Err, idempotency.ErrFenced) {
			t.Errorf("the zombie's event = %+v, want fenced", got)
		}
		if v, _, _ := idempotency.Value(t.Context(), g, charge, func(context.Context) (string, error) { return "", nil }); v != "successor" {
			t.Errorf("Value() = %q, want the successor's, not overwritten", v)
		}
		if store.extends != 0 {
			t.Errorf("%d heartbeats, want none", store.extends)
		}
	})
}

func TestTheContextOfOvertakenWorkEndsWithErrFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, _ := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second})
		overtaken := false
		store.before = func(_ context.Context, method string) {
			if method == "extend" && !overtaken { // the record is taken away, as by an operator
				overtaken = true
				store.set("extend", idempotency.ErrFenced)
			}
		}
		start := time.Now()
		_, _, err := idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, context.Cause(ctx)
		})
		if !errors.Is(err, idempotency.ErrFenced) || time.Since(start) != time.Second {
			t.Errorf("the context of the work ended with %v after %v, want ErrFenced at the first heartbeat, after 1s", err, time.Since(start))
		}
	})
}

func TestTheContextOfWorkThatDoesNotReachTheStoreEndsWithTheLease(t *testing.T) {
	for name, c := range map[string]struct {
		reached time.Duration // until when the heartbeat works
		hangs   bool
		acquire time.Duration // how long the first step takes
		want    time.Duration // from the beginning of the call
	}{
		"every heartbeat fails":           {want: 3 * time.Second},
		"every heartbeat hangs":           {hangs: true, want: 3 * time.Second},
		"the first two heartbeats work":   {reached: 2500 * time.Millisecond, want: 5 * time.Second},
		"the answer to the claim is late": {acquire: 500 * time.Millisecond, want: 3 * time.Second},
		"it comes after the lease":        {acquire: 4 * time.Second, want: 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFaulty(t)
				g, _ := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second})
				start := time.Now()
				store.before = func(ctx context.Context, method string) {
					switch {
					case method == "acquire":
						time.Sleep(c.acquire)
					case method != "extend" || time.Since(start) < c.reached:
					case c.hangs:
						<-ctx.Done()
						store.set(method, ctx.Err())
					default:
						store.set(method, errStore)
					}
				}
				_, _, err := idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (int, error) {
					select {
					case <-ctx.Done():
					case <-time.After(time.Hour):
					}
					return 0, context.Cause(ctx)
				})
				if took := time.Since(start); !errors.Is(err, idempotency.ErrFenced) || took != c.want {
					t.Errorf("the context of the work ended with %v after %v, want ErrFenced after %v", err, took, c.want)
				}
			})
		})
	}
}

func TestWorkThatGoesOnWithoutTheStoreKeepsTheKeyOnceTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, e := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second})
		store.set("extend", errStore)
		_, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) { // which does not listen
			time.Sleep(10 * time.Second)
			store.set("extend", nil)
			time.Sleep(10 * time.Second)
			_, other := counter()
			if _, _, err := idempotency.Value(t.Context(), g, charge, other); !errors.Is(err, idempotency.ErrBusy) {
				t.Errorf("another Value() = %v, want ErrBusy", err)
			}
			return 1, nil
		})
		if err != nil || e.last().Ending != idempotency.EndExecuted {
			t.Errorf("Value() = %v, %s, want nil, executed", err, e.last().Ending)
		}
	})
}

func TestAHeartbeatThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		store.before = func(ctx context.Context, method string) {
			if method == "extend" {
				<-ctx.Done()
			}
		}
		g, e := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second, StoreTimeout: time.Hour})
		start := time.Now()
		_, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) {
			time.Sleep(2 * time.Second)
			return 1, nil
		})
		if err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("Value() = %v after %v, want nil after 2s", err, time.Since(start))
		}
		if got := e.last(); got.Ending != idempotency.EndExecuted || got.Elapsed != 2*time.Second {
			t.Errorf("event = %+v, want executed after 2s", got)
		}
	})
}

func TestAHeartbeatThatHangsDoesNotUseUpTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		hung := 0
		store.before = func(ctx context.Context, method string) {
			if method == "extend" && hung < 2 {
				hung++
				<-ctx.Done()
				store.set("extend", ctx.Err())
			} else {
				store.set("extend", nil)
			}
		}
		g, e := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second})
		_, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) {
			for range 9 {
				time.Sleep(time.Second)
				_, other := counter()
				if _, _, err := idempotency.Value(t.Context(), g, charge, other); !errors.Is(err, idempotency.ErrBusy) {
					t.Errorf("another Value() = %v, want ErrBusy", err)
				}
			}
			return 1, nil
		})
		if err != nil || e.last().Ending != idempotency.EndExecuted || hung != 2 {
			t.Errorf("Value() = %v, %s after %d heartbeats that hung, want nil, executed after 2", err, e.last().Ending, hung)
		}
	})
}

func TestHeartbeatGoesOnWhenTheCallerHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, e := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		_, _, err := idempotency.Value(ctx, g, charge, func(context.Context) (int, error) {
			cancel()
			time.Sleep(10 * time.Second)
			_, other := counter()
			if _, _, err := idempotency.Value(t.Context(), g, charge, other); !errors.Is(err, idempotency.ErrBusy) {
				t.Errorf("another Value() after three leases = %v, want ErrBusy", err)
			}
			return 1, nil
		})
		if err != nil || e.last().Ending != idempotency.EndExecuted || store.extends < 9 {
			t.Errorf("Value() = %v, %s after %d heartbeats, want nil, executed after 9 or more", err, e.last().Ending, store.extends)
		}
	})
}

// The heartbeat's timer fires while the work ends: neither may wait for the
// other for ever, and the race detector watches.
func TestHeartbeatAndTheEndOfTheWorkMayMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, e := newGuard(t, newFaulty(t), idempotency.Config{Lease: 3 * time.Millisecond})
		for i := range 100 {
			_, _, _ = idempotency.Value(t.Context(), g, idempotency.Key{Scope: "meet", ID: string(rune('a' + i))}, func(context.Context) (int, error) {
				time.Sleep(time.Duration(i%4) * time.Millisecond) // the timer's very moments
				return 1, nil
			})
			if got := e.last().Ending; got != idempotency.EndExecuted {
				t.Fatalf("call %d ended %s, want executed", i, got)
			}
		}
	})
}

func TestFromContextOutsideOfWorkSaysThatThereIsNone(t *testing.T) {
	if lease, ok := idempotency.FromContext(t.Context()); ok {
		t.Errorf("FromContext() = %+v, want none", lease)
	}
}

// A transactional store completes the record inside the work; the Guard's own
// completion then finds its work done.
func TestWorkMayCompleteItsOwnClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, e := newGuard(t, store, idempotency.Config{Lease: 3 * time.Second})
		_, _, err := idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (string, error) {
			lease, _ := idempotency.FromContext(ctx)
			if err := store.Store.Complete(ctx, lease.ID, lease.Token, idempotency.Result{NotStored: true}, lease.TTL); err != nil {
				t.Errorf("Complete() = %v, want nil", err)
			}
			time.Sleep(2 * time.Second) // over a heartbeat
			return "done", ctx.Err()
		})
		if err != nil || e.last().Ending != idempotency.EndExecuted {
			t.Errorf("Value() = %v, %s, want nil, executed", err, e.last().Ending)
		}
		v, replayed, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (string, error) { return "", nil })
		if v != "done" || !replayed || err != nil {
			t.Errorf("Value() = %q, %t, %v, want the result that came later", v, replayed, err)
		}
	})
}
