package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
)

func TestWhenTheContextEndsATransportSendsNothingMoreAndLeavesNothingOpen(t *testing.T) {
	for name, arrange := range map[string]func(p *retry.Policy, cancel func()){
		"in Retryable": func(p *retry.Policy, cancel func()) { p.Retryable = func(error) bool { cancel(); return true } },
		"in the backoff": func(p *retry.Policy, cancel func()) {
			p.Backoff = retry.BackoffFunc(func(int, time.Duration) time.Duration { cancel(); return 0 })
		},
		"in OnRetry":      func(p *retry.Policy, cancel func()) { p.OnRetry = func(context.Context, retry.Attempt) { cancel() } },
		"during the wait": func(_ *retry.Policy, cancel func()) { time.AfterFunc(time.Second/2, cancel) },
	} {
		for what, status := range map[string]int{"after a response": 503, "after an error": 0} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					s := &server{statuses: []int{status}, err: errBoom}
					p := retry.Policy{Backoff: constant(time.Second)}
					arrange(&p, func() { cancel(errShutdown) })
					resp, err := p.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, "").WithContext(ctx))
					wantError(t, err, 1, retry.ErrCanceled, errShutdown)
					if resp != nil || len(s.requests) != 1 {
						t.Errorf("RoundTrip() = %v after %d requests, want nil after 1", resp, len(s.requests))
					}
					for _, b := range s.bodies {
						if b.closes.Load() != 1 {
							t.Errorf("the response was closed %d times, want once", b.closes.Load())
						}
					}
				})
			})
		}
	}
}

func TestARequestIsNotSentAfterMaxElapsedThoughDrainingTookLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		rt := retry.Policy{MaxElapsed: 20 * time.Millisecond, Backoff: retry.Constant(0)}.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			n++
			return &http.Response{StatusCode: 503, Body: &stuck{closed: make(chan struct{})}, ContentLength: -1}, nil
		}))
		_, err := rt.RoundTrip(httpRequest(t, http.MethodGet, ""))
		if wantError(t, err, 1, retry.ErrDeadline); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

func TestARoundTripperThatBreaksItsContractIsAnErrorAndNoPanic(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		p := retry.Policy{MaxAttempts: 1, AttemptTimeout: timeout}
		neither := roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil })
		if resp, err := p.Transport(neither).RoundTrip(httpRequest(t, http.MethodGet, "")); resp != nil || err == nil {
			t.Errorf("over one that returns neither: RoundTrip() = %v, %v, want an error", resp, err)
		}
		b := text("x")
		both := roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: b}, errBoom
		})
		resp, err := p.Transport(both).RoundTrip(httpRequest(t, http.MethodGet, ""))
		if resp != nil || !errors.Is(err, errBoom) || b.closes.Load() != 1 {
			t.Errorf("over one that returns both: RoundTrip() = %v, %v, body closed %d times, want the error, once", resp, err, b.closes.Load())
		}
	}
}

func TestAPostWhoseProxyRefusedIsSentAgain(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &url.URL{Scheme: "http", Host: free.Addr().String()}
	free.Close()
	var dials atomic.Int32
	tr := &http.Transport{Proxy: http.ProxyURL(proxy), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	_, err = quick.Transport(tr).RoundTrip(httpRequest(t, http.MethodPost, "x"))
	if dials.Load() != 3 {
		t.Errorf("%d dials (%v), want 3: nothing was sent", dials.Load(), err)
	}
}

func TestATransportTellsItsThrottleOfSuccesses(t *testing.T) {
	p := quick
	p.Budget = mustThrottle(t, retry.ThrottleConfig{})
	_, _ = p.Transport(&server{statuses: []int{503, 200}}).RoundTrip(httpRequest(t, http.MethodGet, ""))
	if got := p.Budget.Tokens(); got != 9.1 {
		t.Errorf("Tokens() = %v after a failure and a success, want 9.1", got)
	}
}

func TestA500IsNoSuccessForAThrottle(t *testing.T) {
	p := quick
	p.Budget = mustThrottle(t, retry.ThrottleConfig{})
	for range 3 {
		_, _ = p.Transport(&server{statuses: []int{503}}).RoundTrip(httpRequest(t, http.MethodGet, ""))
	}
	before := p.Budget.Tokens()
	for range 10 {
		_, _ = p.Transport(&server{statuses: []int{500}}).RoundTrip(httpRequest(t, http.MethodGet, ""))
	}
	if got := p.Budget.Tokens(); got != before {
		t.Errorf("Tokens() = %v after ten answers with 500, want %v as before", got, before)
	}
}

func TestAnOpenBreakersTransportIsNotRetriedUnlessAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{Consecutive: 1, OpenFor: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		s := &server{statuses: []int{503, 200}}
		p := retry.Policy{Backoff: retry.Constant(0)}
		took := elapsed(func() { _, err = p.Transport(b.Transport(s)).RoundTrip(httpRequest(t, http.MethodGet, "")) })
		if !errors.Is(err, breaker.ErrOpen) || len(s.requests) != 1 || s.bodies[0].closes.Load() != 1 || took != 0 {
			t.Errorf("RoundTrip() = %v after %d requests in %v, want ErrOpen after 1 at once", err, len(s.requests), took)
		}
		p.RetryRejected = true
		took = elapsed(func() {
			resp, err := p.Transport(b.Transport(s)).RoundTrip(httpRequest(t, http.MethodGet, ""))
			wantReturned(t, s, resp, err, 200)
		})
		// OpenFor with its jitter of a tenth.
		if len(s.requests) != 2 || took < 4*time.Second || took > 6*time.Second {
			t.Errorf("%d requests in %v, want one more once the breaker admits it", len(s.requests), took)
		}
	})
}

func TestABreakersTransportAroundARetryingOneSeesOneOutcome(t *testing.T) {
	b, err := breaker.New(breaker.Config{Consecutive: 2})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{statuses: []int{503}}
	resp, err := b.Transport(quick.Transport(s)).RoundTrip(httpRequest(t, http.MethodGet, ""))
	wantReturned(t, s, resp, err, 503)
	if got := fmt.Sprint(len(s.requests), b.State()); got != "3 closed" {
		t.Errorf("requests and state of the breaker: %s, want 3 closed", got)
	}
}
