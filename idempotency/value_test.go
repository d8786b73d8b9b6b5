package idempotency_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/idempotency"
)

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := idempotency.New(nil, idempotency.Config{Lease: -1, TTL: -2, StoreTimeout: -3})
	const want = "idempotency: config: the store is nil; Lease -1ns is negative; TTL -2ns is negative; StoreTimeout -3ns is negative"
	if err == nil || err.Error() != want {
		t.Errorf("New() = %v, want %s", err, want)
	}
	_, err = idempotency.New(newMemory(t, idempotency.MemoryConfig{}), idempotency.Config{TTL: time.Second})
	if err == nil || !strings.Contains(err.Error(), "TTL 1s is shorter than Lease 30s") {
		t.Errorf("New() with a TTL below the lease = %v, want it to say so", err)
	}
}

func TestNewRefusesTheStoreOfANewMemoryThatFailed(t *testing.T) {
	memory, _ := idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: -1})
	_, err := idempotency.New(memory, idempotency.Config{})
	const want = "idempotency: config: the store is a nil *Memory: look at the error of NewMemory"
	if err == nil || err.Error() != want {
		t.Errorf("New() = %v, want %s", err, want)
	}
}

type receipt struct {
	Number int
	Lines  []string
}

func TestValueReturnsTheSameAnswerAgain(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	runs := 0
	want := receipt{Number: 7, Lines: []string{"a", "b"}}
	for i := range 3 {
		got, replayed, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (receipt, error) {
			runs++
			return want, nil
		})
		if err != nil || replayed != (i > 0) {
			t.Errorf("Value() %d = replayed %t, %v, want %t, nil", i, replayed, err, i > 0)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Value() %d (-want +got):\n%s", i, diff)
		}
	}
	if runs != 1 {
		t.Errorf("the function ran %d times, want once", runs)
	}
	if diff := cmp.Diff([]idempotency.Ending{"executed", "replayed", "replayed"}, e.endings()); diff != "" {
		t.Errorf("endings (-want +got):\n%s", diff)
	}
}

func TestValueOfFiftyAtOnceRunsOnceAndIsBusyForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGuard(t, nil, idempotency.Config{})
		var runs, busy atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) {
					runs.Add(1)
					time.Sleep(time.Second)
					return 1, nil
				})
				if errors.Is(err, idempotency.ErrBusy) {
					busy.Add(1)
				}
			})
		}
		all.Wait()
		if runs.Load() != 1 || busy.Load() != 49 {
			t.Errorf("%d ran and %d were busy, want 1 and 49", runs.Load(), busy.Load())
		}
	})
}

func TestBusyErrorSaysWhenToComeBackAndThatNothingRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGuard(t, nil, idempotency.Config{})
		_, _, _ = idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (int, error) {
			time.Sleep(time.Second)
			_, _, err := idempotency.Value(ctx, g, charge, func(context.Context) (int, error) { return 0, nil })
			after, ok := errors.AsType[interface {
				error
				RetryAfter() time.Duration
			}](err)
			if !ok || after.RetryAfter() != 29*time.Second {
				t.Errorf("RetryAfter() of %v is not the 29s that the lease has left", err)
			}
			if r, ok := errors.AsType[*idempotency.RejectedError](err); !ok || !r.Rejected() {
				t.Errorf("Value() = %v, want a RejectedError", err)
			}
			return 0, nil
		})
	})
}

func TestValueWithAnotherFingerprintIsRefusedInEveryState(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	n, fn := counter()
	one, two := charge, charge
	one.Fingerprint, two.Fingerprint = []byte("10 EUR"), []byte("20 EUR")
	refused := func(when string) {
		t.Helper()
		if _, _, err := idempotency.Value(t.Context(), g, two, fn); !errors.Is(err, idempotency.ErrMismatch) {
			t.Errorf("Value() %s = %v, want ErrMismatch", when, err)
		}
	}
	_, _, _ = idempotency.Value(t.Context(), g, one, func(context.Context) (int, error) {
		refused("while the first runs")
		return 0, errors.New("declined")
	})
	refused("after the first failed")
	if _, _, err := idempotency.Value(t.Context(), g, one, fn); err != nil {
		t.Fatal(err)
	}
	refused("after the first was done")
	if *n != 1 {
		t.Errorf("the function ran %d times, want once", *n)
	}
	if got := e.last().Ending; got != idempotency.EndMismatch {
		t.Errorf("ending = %s, want mismatch", got)
	}
}

func TestKeysOfDifferentScopesAndUsesDoNotMeet(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	n, fn := counter()
	// "ab"+"c" and "a"+"bc" must differ, and so must a message of the same name.
	for _, k := range []idempotency.Key{{Scope: "ab", ID: "c"}, {Scope: "a", ID: "bc"}, {Scope: "b", ID: "c"}} {
		if _, replayed, err := idempotency.Value(t.Context(), g, k, fn); replayed || err != nil {
			t.Errorf("Value(%v) = replayed %t, %v, want a first run", k, replayed, err)
		}
	}
	ran := false
	inbox := idempotency.Inbox(g, "ab", func(id string) string { return id }, func(context.Context, string) error {
		ran = true
		return nil
	})
	if err := inbox(t.Context(), "c"); err != nil || !ran {
		t.Errorf("a message with the name of a key = %v, ran %t, want it to run", err, ran)
	}
	if *n != 3 {
		t.Errorf("the function ran %d times, want 3", *n)
	}
}

func TestValueWithoutAKeyOrGuardIsRefused(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	n, fn := counter()
	for _, k := range []idempotency.Key{{}, {Scope: "charge"}, {ID: "order-1"}} {
		if _, _, err := idempotency.Value(t.Context(), g, k, fn); !errors.Is(err, idempotency.ErrKey) {
			t.Errorf("Value(%v) = %v, want ErrKey", k, err)
		}
	}
	if got := e.last(); got.Ending != idempotency.EndInvalid || got.Kind != "value" {
		t.Errorf("event = %+v, want invalid, value", got)
	}
	if _, _, err := idempotency.Value(t.Context(), nil, charge, fn); err == nil {
		t.Error("Value() without a Guard = nil, want an error")
	}
	if _, _, err := idempotency.Value[int](t.Context(), g, charge, nil); err == nil {
		t.Error("Value() without a function = nil, want an error")
	}
	if *n != 0 {
		t.Errorf("the function ran %d times, want never", *n)
	}
}

func TestAFailureIsReturnedAsItIsAndReleasesTheKey(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	declined := errors.New("declined")
	if v, replayed, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) { return 5, declined }); v != 5 || replayed || !errors.Is(err, declined) || err.Error() != "declined" {
		t.Errorf("Value() = %d, %t, %v, want 5, false and the function's own error", v, replayed, err)
	}
	if got := e.last(); got.Ending != idempotency.EndFailed || !errors.Is(got.Err, declined) {
		t.Errorf("event = %+v, want failed with the error", got)
	}
	_, replayed, err := idempotency.Value(t.Context(), g, charge, func(ctx context.Context) (int, error) {
		if lease, ok := idempotency.FromContext(ctx); !ok || lease.Attempt != 2 || lease.TakenOver {
			t.Errorf("FromContext() = %+v, %t, want attempt 2, not taken over", lease, ok)
		}
		return 6, nil
	})
	if replayed || err != nil {
		t.Errorf("Value() after a failure = replayed %t, %v, want a second run", replayed, err)
	}
}

func TestAPanicReleasesTheKeyAndGoesOn(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v, want the function's own panic", p)
			}
		}()
		_, _, _ = idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) { panic("boom") })
	}()
	if got := e.last().Ending; got != idempotency.EndFailed {
		t.Errorf("ending = %s, want failed", got)
	}
	n, fn := counter()
	if _, _, err := idempotency.Value(t.Context(), g, charge, fn); err != nil || *n != 1 {
		t.Errorf("Value() after a panic = %v, ran %d times, want it to run", err, *n)
	}
}

func TestGoexitReleasesTheKey(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) {
			runtime.Goexit()
			return 0, nil
		})
	}()
	<-done
	n, fn := counter()
	if _, _, err := idempotency.Value(t.Context(), g, charge, fn); err != nil || *n != 1 {
		t.Errorf("Value() after Goexit = %v, ran %d times, want it to run", err, *n)
	}
}

func TestWorkThatSucceededIsRecordedEvenIfTheCallerHasLeft(t *testing.T) {
	g, _ := newGuard(t, newFaulty(t), idempotency.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := idempotency.Value(ctx, g, charge, func(ctx context.Context) (int, error) {
		cancel()
		<-ctx.Done() // the caller's cancellation reaches the work
		return 7, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n, fn := counter()
	if v, replayed, err := idempotency.Value(t.Context(), g, charge, fn); v != 7 || !replayed || err != nil || *n != 0 {
		t.Errorf("Value() = %d, %t, %v, want 7 replayed", v, replayed, err)
	}
}

func TestACallerThatHasLeftBeforeTheWorkIsNotAFailureOfTheStore(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	left := errors.New("left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	n, fn := counter()
	_, _, err := idempotency.Value(ctx, g, charge, fn)
	if !errors.Is(err, left) || errors.Is(err, idempotency.ErrUnavailable) || *n != 0 {
		t.Errorf("Value() = %v, ran %d times, want the caller's cause and no run", err, *n)
	}
	if got := e.last().Ending; got != idempotency.EndCanceled {
		t.Errorf("ending = %s, want canceled", got)
	}
}

func TestAStoreThatDoesNotAnswerKeepsTheWorkFromBeginning(t *testing.T) {
	store := newFaulty(t)
	g, e := newGuard(t, store, idempotency.Config{})
	store.set("acquire", errStore)
	n, fn := counter()
	_, _, err := idempotency.Value(t.Context(), g, charge, fn)
	r, ok := errors.AsType[*idempotency.RejectedError](err)
	if !ok || !errors.Is(err, idempotency.ErrUnavailable) || !errors.Is(err, errStore) || r.RetryAfter() != time.Second || *n != 0 {
		t.Errorf("Value() = %v, ran %d times, want ErrUnavailable around the store's error and no run", err, *n)
	}
	if got := e.last().Ending; got != idempotency.EndUnavailable {
		t.Errorf("ending = %s, want unavailable", got)
	}
}

func TestAStoreThatHangsIsGivenUpAfterStoreTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		store.before = func(ctx context.Context, method string) {
			if method == "acquire" || method == "complete" {
				<-ctx.Done()
			}
		}
		g, e := newGuard(t, store, idempotency.Config{StoreTimeout: 2 * time.Second})
		n, fn := counter()
		start := time.Now()
		_, _, err := idempotency.Value(t.Context(), g, charge, fn)
		if !errors.Is(err, idempotency.ErrUnavailable) || time.Since(start) != 2*time.Second || *n != 0 {
			t.Errorf("Value() = %v after %v, want ErrUnavailable after 2s", err, time.Since(start))
		}
		store.before = func(ctx context.Context, method string) {
			if method == "complete" {
				<-ctx.Done()
			}
		}
		start = time.Now()
		v, _, err := idempotency.Value(t.Context(), g, charge, fn)
		if v != 1 || err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("Value() = %d, %v after %v, want 1, nil after 2s", v, err, time.Since(start))
		}
		if got := e.last().Ending; got != idempotency.EndUnrecorded {
			t.Errorf("ending = %s, want unrecorded", got)
		}
	})
}

func TestWorkThatCouldNotBeRecordedIsStillReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		g, e := newGuard(t, store, idempotency.Config{})
		store.set("complete", errStore)
		n, fn := counter()
		if v, replayed, err := idempotency.Value(t.Context(), g, charge, fn); v != 1 || replayed || err != nil {
			t.Errorf("Value() = %d, %t, %v, want 1, false, nil", v, replayed, err)
		}
		if got := e.last(); got.Ending != idempotency.EndUnrecorded || !errors.Is(got.Err, errStore) {
			t.Errorf("event = %+v, want unrecorded with the store's error", got)
		}
		store.set("complete", nil)
		// The documented price: busy until the lease ends, and then once more.
		if _, _, err := idempotency.Value(t.Context(), g, charge, fn); !errors.Is(err, idempotency.ErrBusy) {
			t.Errorf("Value() before the lease has ended = %v, want ErrBusy", err)
		}
		time.Sleep(30 * time.Second)
		if v, _, err := idempotency.Value(t.Context(), g, charge, fn); v != 2 || err != nil || *n != 2 {
			t.Errorf("Value() after the lease = %d, %v, want a second run", v, err)
		}
	})
}

func TestWorkThatIsDoneIsRecordedAlsoWhenTheStoreFailsForAMoment(t *testing.T) {
	for name, c := range map[string]struct {
		outage time.Duration
		then   error
		want   idempotency.Ending
		took   time.Duration // at most
	}{
		"and comes back":         {500 * time.Millisecond, nil, idempotency.EndExecuted, 700 * time.Millisecond},
		"and has lost the claim": {500 * time.Millisecond, idempotency.ErrFenced, idempotency.EndFenced, 700 * time.Millisecond},
		"and it lasts":           {time.Hour, nil, idempotency.EndUnrecorded, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFaulty(t)
				g, e := newGuard(t, store, idempotency.Config{})
				start := time.Now()
				store.set("complete", errStore)
				store.before = func(context.Context, string) {
					if time.Since(start) >= c.outage {
						store.set("complete", c.then)
					}
				}
				if v, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (int, error) { return 1, nil }); v != 1 || err != nil {
					t.Errorf("Value() = %d, %v, want 1", v, err)
				}
				if took := time.Since(start); e.last().Ending != c.want || took > c.took {
					t.Errorf("ending = %s after %v, want %s within %v", e.last().Ending, took, c.want, c.took)
				}
			})
		})
	}
	t.Run("but not beyond StoreTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newFaulty(t)
			store.set("complete", errStore)
			g, e := newGuard(t, store, idempotency.Config{StoreTimeout: 100 * time.Millisecond})
			start := time.Now()
			_, fn := counter()
			_, _, _ = idempotency.Value(t.Context(), g, charge, fn)
			if took := time.Since(start); took != 100*time.Millisecond || !errors.Is(e.last().Err, errStore) {
				t.Errorf("it took %v and ended with %v, want 100ms and the store's error", took, e.last().Err)
			}
		})
	})
}

func TestResultsThatCannotBeStoredAreReturnedOnce(t *testing.T) {
	for name, result := range map[string]any{
		"too large":   strings.Repeat("x", 1<<20),
		"not encoded": func() {},
	} {
		t.Run("a result that is "+name, func(t *testing.T) {
			g, e := newGuard(t, nil, idempotency.Config{})
			runs := 0
			fn := func(context.Context) (any, error) {
				runs++
				return result, nil
			}
			if v, replayed, err := idempotency.Value(t.Context(), g, charge, fn); v == nil || replayed || err != nil {
				t.Errorf("first Value() = %t, %v, want the result", replayed, err)
			}
			if _, _, err := idempotency.Value(t.Context(), g, charge, fn); !errors.Is(err, idempotency.ErrNotStored) || runs != 1 {
				t.Errorf("second Value() = %v, %d runs, want ErrNotStored and 1 run", err, runs)
			}
			if got := e.last().Ending; got != idempotency.EndNotStored {
				t.Errorf("ending = %s, want not_stored", got)
			}
		})
	}
}

// hostile panics when it is encoded.
type hostile struct{}

func (hostile) MarshalJSON() ([]byte, error) { panic("boom") }

func TestAResultWhoseEncodingPanicsIsNotComputedAgainAndThePanicGoesOn(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	runs := 0
	call := func() (panicked any, err error) {
		defer func() { panicked = recover() }()
		_, _, err = idempotency.Value(t.Context(), g, charge, func(context.Context) (hostile, error) {
			runs++
			return hostile{}, nil
		})
		return nil, err
	}
	if p, _ := call(); p != "boom" {
		t.Errorf("recovered %v, want the panic to go on", p)
	}
	if got := e.last().Ending; got != idempotency.EndExecuted {
		t.Errorf("ending = %s, want executed", got)
	}
	if p, err := call(); !errors.Is(err, idempotency.ErrNotStored) || p != nil {
		t.Errorf("Value() = %v, panic %v, want ErrNotStored", err, p)
	}
	if runs != 1 {
		t.Errorf("the function ran %d times, want once", runs)
	}
}

func TestAResultThatDoesNotDecodeIsNotComputedAgain(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	_, _, _ = idempotency.Value(t.Context(), g, charge, func(context.Context) (string, error) { return "text", nil })
	n, fn := counter()
	if v, _, err := idempotency.Value(t.Context(), g, charge, fn); !errors.Is(err, idempotency.ErrNotStored) || v != 0 || *n != 0 {
		t.Errorf("Value() = %d, %v after %d runs, want ErrNotStored and no run", v, err, *n)
	}
}

func TestAKeyIsForgottenAfterItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGuard(t, nil, idempotency.Config{TTL: time.Hour})
		n, fn := counter()
		for range 2 {
			if _, _, err := idempotency.Value(t.Context(), g, charge, fn); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour - time.Second)
			if _, replayed, _ := idempotency.Value(t.Context(), g, charge, fn); !replayed {
				t.Error("Value() within the TTL ran again")
			}
			time.Sleep(time.Second)
		}
		if *n != 2 {
			t.Errorf("the function ran %d times, want 2", *n)
		}
	})
}

func TestNoErrorContainsTheKey(t *testing.T) {
	store := newFaulty(t)
	g, e := newGuard(t, store, idempotency.Config{})
	secret := idempotency.Key{Scope: "tenant-secret", ID: "key-secret", Fingerprint: []byte("print-secret")}
	texts := func(err error) {
		t.Helper()
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error = %v, want one without the key", err)
		}
	}
	_, _, err := idempotency.Value(t.Context(), g, secret, func(ctx context.Context) (int, error) {
		_, _, err := idempotency.Value(ctx, g, secret, func(context.Context) (int, error) { return 0, nil })
		texts(err)
		return 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	other := secret
	other.Fingerprint = nil
	_, _, err = idempotency.Value(t.Context(), g, other, func(context.Context) (int, error) { return 0, nil })
	texts(err)
	other.ID = ""
	_, _, err = idempotency.Value(t.Context(), g, other, func(context.Context) (int, error) { return 0, nil })
	texts(err)
	store.set("acquire", errStore)
	_, _, err = idempotency.Value(t.Context(), g, secret, func(context.Context) (int, error) { return 0, nil })
	texts(err)
	for _, ev := range e.all {
		if ev.Err != nil {
			texts(ev.Err)
		}
	}
}
