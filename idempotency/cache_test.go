package idempotency_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/idempotency"
)

func newCache(t testing.TB, next idempotency.Store, config idempotency.CacheConfig) *idempotency.Cache {
	t.Helper()
	c, err := idempotency.NewCache(next, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewCacheReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := idempotency.NewCache(nil, idempotency.CacheConfig{MaxRecords: -1, MaxBytes: -2, MaxAge: -3})
	want := "idempotency: cache config: the store is nil; MaxRecords -1 is negative; MaxBytes -2 is negative; MaxAge -3ns is negative"
	if err == nil || err.Error() != want {
		t.Errorf("NewCache() = %v\nwant %s", err, want)
	}
}

func TestACacheAnswersRepetitionsWithoutAskingTheStore(t *testing.T) {
	store := newFaulty(t)
	asked := 0
	store.before = func(_ context.Context, method string) {
		if method == "acquire" {
			asked++
		}
	}
	g, events := newGuard(t, newCache(t, store, idempotency.CacheConfig{}), idempotency.Config{})
	runs, fn := counter()
	for range 5 {
		if v, _, err := idempotency.Value(t.Context(), g, charge, fn); v != 1 || err != nil {
			t.Errorf("Value() = %d, %v, want 1", v, err)
		}
	}
	if *runs != 1 || asked != 2 {
		t.Errorf("the work ran %d times and the store was asked %d times, want 1 and 2: for the claim and for the first repetition", *runs, asked)
	}
	other := charge
	other.Fingerprint = []byte("another payload")
	if _, _, err := idempotency.Value(t.Context(), g, other, fn); !errors.Is(err, idempotency.ErrMismatch) || asked != 2 {
		t.Errorf("another payload = %v after asking %d times, want ErrMismatch without asking", err, asked)
	}
	store.set("acquire", errStore)
	if v, replayed, err := idempotency.Value(t.Context(), g, charge, fn); v != 1 || !replayed || err != nil {
		t.Errorf("Value() without the store = %d, %t, %v, want the replay", v, replayed, err)
	}
	if got := events.last().Ending; got != idempotency.EndReplayed {
		t.Errorf("ending = %s, want replayed", got)
	}
}

func TestACacheAsksTheStoreAgainAfterMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGuard(t, newCache(t, newMemory(t, idempotency.MemoryConfig{}), idempotency.CacheConfig{}), idempotency.Config{Lease: time.Second, TTL: 90 * time.Second})
		runs, fn := counter()
		call := func(want int) {
			t.Helper()
			if v, _, err := idempotency.Value(t.Context(), g, charge, fn); v != want || err != nil {
				t.Errorf("Value() = %d, %v, want %d", v, err, want)
			}
		}
		call(1)
		time.Sleep(89 * time.Second)
		call(1) // held from here on, for a minute
		time.Sleep(time.Minute - 1)
		call(1)
		time.Sleep(time.Nanosecond)
		call(2)
		if *runs != 2 {
			t.Errorf("the work ran %d times, want 2: the second time after TTL and MaxAge", *runs)
		}
	})
}

func TestACacheIsBoundedAndForgetsWhatWasNotUsedForLongest(t *testing.T) {
	size := len(must(json.Marshal("0123456789")))
	for name, config := range map[string]idempotency.CacheConfig{
		"in records": {MaxRecords: 2},
		"in bytes":   {MaxBytes: 2*size + 1},
	} {
		t.Run(name, func(t *testing.T) {
			store := newFaulty(t)
			cache := newCache(t, store, config)
			g, _ := newGuard(t, cache, idempotency.Config{})
			call := func(id, result string) error {
				_, _, err := idempotency.Value(t.Context(), g, idempotency.Key{Scope: "s", ID: id}, func(context.Context) (string, error) { return result, nil })
				return err
			}
			for _, id := range []string{"a", "a", "b", "b", "a", "c", "c"} { // twice: the cache fills at the first repetition
				if err := call(id, "0123456789"); err != nil {
					t.Fatal(err)
				}
			}
			if cache.Len() != 2 {
				t.Errorf("Len() = %d, want 2", cache.Len())
			}
			store.set("acquire", errStore)
			for id, held := range map[string]bool{"a": true, "b": false, "c": true} {
				if err := call(id, ""); (err == nil) != held {
					t.Errorf("%s without the store = %v, want it held: %t", id, err, held)
				}
			}
		})
	}
	t.Run("of a result that is too large", func(t *testing.T) {
		cache := newCache(t, newMemory(t, idempotency.MemoryConfig{}), idempotency.CacheConfig{MaxBytes: 3})
		g, _ := newGuard(t, cache, idempotency.Config{})
		for range 3 {
			if v, _, err := idempotency.Value(t.Context(), g, charge, func(context.Context) (string, error) { return "large", nil }); v != "large" || err != nil {
				t.Errorf("Value() = %q, %v, want the result", v, err)
			}
		}
		if cache.Len() != 0 {
			t.Errorf("Len() = %d, want 0", cache.Len())
		}
	})
}

func TestACacheHoldsNoResultThatWasNotStored(t *testing.T) {
	cache := newCache(t, newMemory(t, idempotency.MemoryConfig{}), idempotency.CacheConfig{})
	g, _ := newGuard(t, cache, idempotency.Config{})
	for range 2 {
		_, _, _ = idempotency.Value(t.Context(), g, charge, func(context.Context) (func(), error) { return nil, nil })
	}
	if cache.Len() != 0 {
		t.Errorf("Len() = %d, want 0: the result may be added later", cache.Len())
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
