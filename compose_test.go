package parley_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/internal/memhttp"
	"github.com/parley-go/parley/retry"
)

// The packages do not know each other, so what they promise together is tested
// here: facts cross as methods of errors and of causes.

func TestADependencyThatHangsOpensTheBreakerUnderAnAttemptTimeout(t *testing.T) {
	policy := retry.Policy{MaxAttempts: 1, AttemptTimeout: time.Second}
	newBreaker := func(t *testing.T) *breaker.Breaker {
		b, err := breaker.New(breaker.Config{Consecutive: 3})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Run("in Do", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t)
			for range 3 {
				_ = policy.Do(t.Context(), func(ctx context.Context) error {
					return b.Do(ctx, func(ctx context.Context) error {
						<-ctx.Done()
						return ctx.Err()
					})
				})
			}
			if got := b.State(); got != breaker.Open {
				t.Errorf("State() = %v after 3 attempts that timed out, want open", got)
			}
		})
	})
	t.Run("in a Transport", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t)
			server := memhttp.New(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			client := &http.Client{Transport: policy.Transport(b.Transport(server.Transport))}
			for range 3 {
				if resp, err := client.Get("http://in.memory/"); err == nil {
					resp.Body.Close()
					t.Fatal("Get() = nil, want a timeout")
				}
			}
			if got := b.State(); got != breaker.Open {
				t.Errorf("State() = %v after 3 attempts that timed out, want open", got)
			}
		})
	})
}

func TestACallerWhoLeavesOpensNothing(t *testing.T) {
	b, err := breaker.New(breaker.Config{Consecutive: 3})
	if err != nil {
		t.Fatal(err)
	}
	policy := retry.Policy{AttemptTimeout: time.Minute}
	for range 10 {
		ctx, leave := context.WithCancel(t.Context())
		_ = policy.Do(ctx, func(ctx context.Context) error {
			return b.Do(ctx, func(ctx context.Context) error {
				leave()
				<-ctx.Done()
				return ctx.Err()
			})
		})
	}
	if got := b.State(); got != breaker.Closed {
		t.Errorf("State() = %v after 10 callers left, want closed", got)
	}
}

func TestAnOpenBreakerIsNotRetried(t *testing.T) {
	b, err := breaker.New(breaker.Config{Name: "inventory"})
	if err != nil {
		t.Fatal(err)
	}
	b.ForceOpen()
	attempts := 0
	err = retry.Policy{MaxAttempts: 5}.Do(t.Context(), func(ctx context.Context) error {
		attempts++
		return b.Do(ctx, func(context.Context) error { return nil })
	})
	if attempts != 1 || !errors.Is(err, breaker.ErrOpen) {
		t.Errorf("%d attempts and %v, want 1 and ErrOpen", attempts, err)
	}
}
