package bulkhead_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

var errDown = errors.New("down")

func ok(context.Context) error   { return nil }
func down(context.Context) error { return errDown }

func mustNew(t testing.TB, c bulkhead.Config) *bulkhead.Bulkhead {
	t.Helper()
	b, err := bulkhead.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mustAcquire takes a slot that has to be free.
func mustAcquire(t testing.TB, b *bulkhead.Bulkhead) *bulkhead.Permit {
	t.Helper()
	p, err := b.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire() = %v, want a slot", err)
	}
	return &p
}

// wantRunning checks how many slots are taken, and that no call waits.
func wantRunning(t *testing.T, b *bulkhead.Bulkhead, want int) {
	t.Helper()
	if s := b.Stats(); s.Running != want || s.Waiting != 0 {
		t.Errorf("Stats() = %d running, %d waiting, want %d and 0", s.Running, s.Waiting, want)
	}
}

// wantLimit checks the present limit.
func wantLimit(t *testing.T, b *bulkhead.Bulkhead, want int) {
	t.Helper()
	if got := b.Stats().Limit; got != want {
		t.Errorf("Stats().Limit = %d, want %d", got, want)
	}
}

// wantRejected checks that err says that the call was not made, in the way that
// other packages ask.
func wantRejected(t *testing.T, err error) {
	t.Helper()
	r, found := errors.AsType[interface {
		error
		Rejected() bool
	}](err)
	if !found || !r.Rejected() {
		t.Errorf("error %v has no method Rejected that returns true", err)
	}
}

// panicOf returns what f panics with.
func panicOf(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// copyOf does what go vet warns of.
func copyOf(p *bulkhead.Permit) *bulkhead.Permit {
	c := reflect.New(reflect.TypeFor[bulkhead.Permit]())
	c.Elem().Set(reflect.ValueOf(p).Elem())
	return c.Interface().(*bulkhead.Permit)
}

// shedding is the error of a dependency that asks to be left alone.
type shedding struct{ rejected bool }

func (shedding) Error() string             { return "try later" }
func (shedding) RetryAfter() time.Duration { return time.Second }
func (s shedding) Rejected() bool          { return s.rejected }
