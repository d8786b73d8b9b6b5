package breaker_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

var errDown = errors.New("down")

func ok(context.Context) error   { return nil }
func down(context.Context) error { return errDown }

// quick returns a Config that opens at the first failure, for exactly a second.
func quick() breaker.Config {
	return breaker.Config{Consecutive: 1, OpenFor: time.Second, DisableJitter: true}
}

func mustNew(t testing.TB, c breaker.Config) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(c)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	return b
}

// halfOpen returns a breaker whose next calls are probes. It must run in a
// bubble.
func halfOpen(t testing.TB, c breaker.Config) *breaker.Breaker {
	t.Helper()
	b := mustNew(t, c)
	fail(t, b, 1)
	time.Sleep(c.OpenFor)
	wantState(t, b, breaker.HalfOpen)
	return b
}

func succeed(t testing.TB, b *breaker.Breaker, n int) {
	t.Helper()
	for range n {
		if err := b.Do(t.Context(), ok); err != nil {
			t.Fatalf("Do() = %v, want nil", err)
		}
	}
}

func fail(t testing.TB, b *breaker.Breaker, n int) {
	t.Helper()
	for range n {
		if err := b.Do(t.Context(), down); !errors.Is(err, errDown) {
			t.Fatalf("Do() = %v, want %v", err, errDown)
		}
	}
}

func allow(t testing.TB, b *breaker.Breaker) *breaker.Permit {
	t.Helper()
	p, err := b.Allow()
	if err != nil {
		t.Fatalf("Allow() = %v, want nil", err)
	}
	return &p
}

func wantRejected(t testing.TB, b *breaker.Breaker) *breaker.OpenError {
	t.Helper()
	_, err := b.Allow()
	open, is := errors.AsType[*breaker.OpenError](err)
	if !is {
		t.Fatalf("Allow() = %v, want an OpenError", err)
	}
	return open
}

func wantState(t testing.TB, b *breaker.Breaker, want breaker.State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("State() = %v, want %v", got, want)
	}
}

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		synctest.Test(t, f)
	})
}

// recorder keeps the changes that an OnChange hook hears.
type recorder struct {
	mu      sync.Mutex
	changes []breaker.Change
}

func (r *recorder) hear(c breaker.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, c)
}

func (r *recorder) all() []breaker.Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.changes)
}

func (r *recorder) states() []breaker.State {
	var to []breaker.State
	for _, c := range r.all() {
		to = append(to, c.To)
	}
	return to
}

// panicOf returns what f panics with.
func panicOf(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// copyOf does what go vet warns of.
func copyOf(p *breaker.Permit) *breaker.Permit {
	c := reflect.New(reflect.TypeFor[breaker.Permit]())
	c.Elem().Set(reflect.ValueOf(p).Elem())
	return c.Interface().(*breaker.Permit)
}
