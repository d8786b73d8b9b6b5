package retry_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

// rounds answers with what its function makes of the number of the request.
type rounds struct {
	n      int
	answer func(n int) (*http.Response, error)
}

func (r *rounds) RoundTrip(*http.Request) (*http.Response, error) {
	r.n++
	return r.answer(r.n)
}

func unavailable(body io.Reader) *http.Response {
	return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: io.NopCloser(body), ContentLength: -1}
}

func TestAnAttemptThatIsCutOffIsRetriedThoughAPolicyRunsInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		outer := retry.Policy{MaxAttempts: 3, AttemptTimeout: time.Second, Backoff: retry.Constant(0)}
		err := outer.Do(t.Context(), func(ctx context.Context) error {
			attempts++
			return retry.Policy{}.Do(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		})
		if attempts != 3 || !errors.Is(err, retry.ErrExhausted) {
			t.Errorf("%d attempts and %v, want 3 and ErrExhausted", attempts, err)
		}
	})
}

func TestNoAttemptStartsAfterMaxElapsedHoweverLongAHookTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := retry.Policy{
			MaxElapsed: 100 * time.Millisecond, Backoff: retry.Constant(10 * time.Millisecond),
			OnRetry: func(context.Context, retry.Attempt) { time.Sleep(time.Hour) },
		}
		attempts := 0
		err := p.Do(t.Context(), func(context.Context) error { attempts++; return errors.New("down") })
		if attempts != 1 || !errors.Is(err, retry.ErrDeadline) {
			t.Errorf("Do: %d attempts and %v, want 1 and ErrDeadline", attempts, err)
		}
		below := &rounds{answer: func(int) (*http.Response, error) { return unavailable(strings.NewReader("why")), nil }}
		resp, err := p.Transport(below).RoundTrip(newGet(t))
		if err != nil || below.n != 1 {
			t.Fatalf("RoundTrip: %d attempts and %v, want 1 and the response", below.n, err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "why" || err != nil {
			t.Errorf("body = %q, %v, want it whole", b, err)
		}
	})
}

func TestABodyThatCannotBeReplayedIsFoundBeforeAnybodyHearsOfARetry(t *testing.T) {
	hooked := false
	p := retry.Policy{OnRetry: func(_ context.Context, a retry.Attempt) {
		hooked = true
		if s, ok := errors.AsType[*retry.StatusError](a.Err); ok {
			_, _ = io.ReadAll(s.Response.Body)
		}
	}}
	req := newGet(t)
	req.Method, req.Body = http.MethodPut, io.NopCloser(strings.NewReader("x"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	below := &rounds{answer: func(int) (*http.Response, error) { return unavailable(strings.NewReader("why")), nil }}
	resp, err := p.Transport(below).RoundTrip(req)
	if err != nil || hooked {
		t.Fatalf("RoundTrip() = %v, hook called: %v; want the response and no call", err, hooked)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "why" {
		t.Errorf("body = %q, want it whole", b)
	}
}

func TestOneHostHasOneBudgetHoweverItIsSpelt(t *testing.T) {
	below := &rounds{answer: func(int) (*http.Response, error) { return nil, errors.New("down") }}
	rt := retry.Policy{Backoff: retry.Constant(0), MaxAttempts: 2}.Transport(below)
	const calls = 1000
	for i := range calls {
		req := newGet(t)
		req.URL.Host = []string{"inventory.example", "Inventory.example", "inventory.EXAMPLE.", "inventory.example:80", "inventory.example:443"}[i%5]
		if i%5 == 4 {
			req.URL.Scheme = "https"
		}
		_, _ = rt.RoundTrip(req)
	}
	// 100 in reserve and a fifth of the calls, and what trickles in meanwhile.
	if retries := below.n - calls; retries > 100+calls/5+50 {
		t.Errorf("%d retries of %d calls, want those of one budget", retries, calls)
	}
}

func TestOddArgumentsAreErrorsAndNoPanics(t *testing.T) {
	ctx := t.Context()
	if err := (retry.Policy{}).Do(ctx, nil); !errors.Is(err, retry.ErrPolicy) {
		t.Errorf("Do(nil) = %v, want ErrPolicy", err)
	}
	if _, err := retry.Value[int](ctx, retry.Policy{}, nil); !errors.Is(err, retry.ErrPolicy) {
		t.Errorf("Value(nil) = %v, want ErrPolicy", err)
	}
	op := func(context.Context) (int, error) { return 1, nil }
	if _, err := retry.Hedge(ctx, retry.Hedging{MaxAttempts: math.MaxInt}, op, nil); !errors.Is(err, retry.ErrPolicy) {
		t.Errorf("Hedge(MaxInt attempts) = %v, want ErrPolicy", err)
	}
	for _, b := range []*retry.Exponential{nil, {Base: -time.Hour}, {Factor: math.NaN()}} {
		if err := (retry.Policy{Backoff: b}).Validate(); !errors.Is(err, retry.ErrPolicy) {
			t.Errorf("Validate() with %+v = %v, want ErrPolicy", b, err)
		}
	}
	below := &rounds{answer: func(int) (*http.Response, error) { return nil, nil }}
	if resp, err := (retry.Policy{Backoff: retry.Constant(0)}).Transport(below).RoundTrip(newGet(t)); resp != nil || err == nil {
		t.Errorf("RoundTrip() over one that returns nothing = %v, %v, want an error", resp, err)
	}
}

func newGet(t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://inventory.example/stock", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
