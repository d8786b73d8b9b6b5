package retry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/retry"
)

// failing returns an operation that fails n times in a row and then succeeds,
// again and again.
func failing(n int) func(context.Context) error {
	err := errors.New("boom")
	left := n
	return func(context.Context) error {
		if left > 0 {
			left--
			return err
		}
		left = n
		return nil
	}
}

func BenchmarkDo(b *testing.B) {
	budget, err := retry.NewBudget(retry.BudgetConfig{})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		policy retry.Policy
		fails  int
	}{
		{"first try", retry.Policy{}, 0},
		{"first try, backoff set", retry.Policy{MaxAttempts: 5, Backoff: retry.Exponential{Base: time.Millisecond}}, 0},
		{"first try, budget", retry.Policy{Budget: budget}, 0},
		{"first try, OnDone", retry.Policy{OnDone: func(context.Context, retry.Result) {}}, 0},
		{"first try, AttemptTimeout", retry.Policy{AttemptTimeout: time.Second}, 0},
		{"second try, zero delay", retry.Policy{Backoff: retry.Constant(0)}, 1},
		{"third try, zero delay", retry.Policy{Backoff: retry.Constant(0)}, 2},
		{"exhausted, zero delay", retry.Policy{Backoff: retry.Constant(0)}, 1 << 60},
	} {
		b.Run(c.name, func(b *testing.B) {
			ctx, op := b.Context(), failing(c.fails)
			b.ReportAllocs()
			for b.Loop() {
				_ = c.policy.Do(ctx, op)
			}
		})
	}
}

func BenchmarkValue(b *testing.B) {
	b.Run("first try", func(b *testing.B) {
		ctx := b.Context()
		b.ReportAllocs()
		for b.Loop() {
			_, _ = retry.Value(ctx, retry.Policy{}, func(context.Context) (int, error) { return 1, nil })
		}
	})
}

func BenchmarkExponential(b *testing.B) {
	e, d := retry.Exponential{}, time.Duration(0)
	for b.Loop() {
		d = e.Delay(5, d)
	}
}

// stub answers at once, with a status of its own.
type stub int

func (s stub) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return &http.Response{StatusCode: int(s), Body: http.NoBody, Request: req}, nil
}

func BenchmarkTransport(b *testing.B) {
	for _, c := range []struct {
		name string
		rt   http.RoundTripper
		body func() io.Reader
	}{
		{"GET, bare stub", stub(200), func() io.Reader { return nil }},
		{"GET, first try", retry.Policy{}.Transport(stub(200)), func() io.Reader { return nil }},
		{"GET, first try, AttemptTimeout", retry.Policy{AttemptTimeout: time.Second}.Transport(stub(200)), func() io.Reader { return nil }},
		{"POST, bare stub", stub(200), func() io.Reader { return strings.NewReader("x") }},
		{"POST, first try", retry.Policy{}.Transport(stub(200)), func() io.Reader { return strings.NewReader("x") }},
		{"GET, third try, zero delay", retry.Policy{Backoff: retry.Constant(0)}.Transport(stub(503)), func() io.Reader { return nil }},
	} {
		b.Run(c.name, func(b *testing.B) {
			method := strings.SplitN(c.name, ",", 2)[0]
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				req, err := http.NewRequestWithContext(ctx, method, "http://inventory/stock", c.body())
				if err != nil {
					b.Fatal(err)
				}
				resp, err := c.rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}

func BenchmarkBudget(b *testing.B) {
	budget, err := retry.NewBudget(retry.BudgetConfig{})
	if err != nil {
		b.Fatal(err)
	}
	p := retry.Policy{Budget: budget}
	b.RunParallel(func(pb *testing.PB) {
		ctx := b.Context()
		for pb.Next() {
			_ = p.Do(ctx, func(context.Context) error { return nil })
		}
	})
}

func BenchmarkHedge(b *testing.B) {
	b.Run("first wins", func(b *testing.B) {
		ctx := b.Context()
		b.ReportAllocs()
		for b.Loop() {
			_, _ = retry.Hedge(ctx, retry.Hedging{}, func(context.Context) (int, error) { return 1, nil }, nil)
		}
	})
}
