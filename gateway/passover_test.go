package gateway_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// tripped makes the breaker of host open and, after its open time, probe with a
// request that lasts as long as the test, on one that was sent by ask.
func tripped(t *testing.T, f *fleet, gw http.Handler, host string, requests int) {
	t.Helper()
	f.set(host, refuse)
	times(gw, requests)
	time.Sleep(time.Hour) // half-open
	f.set(host, func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range requests { // one of them is the probe
			gw.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", http.NoBody).WithContext(ctx))
		}
	}()
	t.Cleanup(func() {
		end()
		<-done
	})
	synctest.Wait()
	f.take()
}

func TestTargetWhoseProbeIsUnderWayIsPassedOverWithTheWholeBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		gw := build(t, gateway.Upstream{Targets: twoTargets, Wrap: f.wrap, Breaker: &breaker.Config{Consecutive: 1, ProbeTimeout: time.Hour}},
			gateway.Route{Pattern: "/", Timeout: time.Hour})
		tripped(t, f, gw, "a", 2)
		var got []string
		f.set("b", func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			got = append(got, string(body))
			return status(http.StatusOK)(r)
		})
		for range 4 {
			w := httptest.NewRecorder()
			gw.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("hello")))
			if w.Code != http.StatusOK {
				t.Errorf("status = %d %s, want 200 from the other target", w.Code, w.Body)
			}
		}
		if len(got) != 4 || strings.Join(got, "") != "hellohellohellohello" {
			t.Errorf("the other target got %q, want all bodies whole", got)
		}
	})
}

func TestLogSaysThatEveryBreakerIsOpenOrNoTargetHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, lines := newFleet(), new(lineBuffer)
		gw := withLog(t, lines, gateway.Upstream{
			Targets: []string{"http://a"}, Wrap: f.wrap, RefuseUnhealthy: true,
			Breaker: &breaker.Config{Consecutive: 1, OpenFor: time.Minute, DisableJitter: true}, Eject: &gateway.Eject{Consecutive: 1, MaxRate: 1},
		}, everything)
		f.set("a", refuse)
		times(gw, 2)
		time.Sleep(40 * time.Second) // the ejection is over, the breaker open still
		w := ask(gw, http.MethodGet, "svc", "/")
		if got := w.Header().Get("Retry-After"); got != "20" {
			t.Errorf("Retry-After = %q, want 20, when the breaker lets one try", got)
		}
		got := lines.wait(t, 3)
		for n, want := range []string{"connection refused", `gateway: upstream "svc": no target is healthy; try again after 30s`, `gateway: upstream "svc": every breaker is open; try again after 20s`} {
			if got[n]["err"] != want {
				t.Errorf("line %d says %q, want %q", n, got[n]["err"], want)
			}
		}
	})
}

func TestTheOnlyTargetsProbeMakesOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		gw := build(t, gateway.Upstream{Targets: []string{"http://a"}, Wrap: f.wrap, Breaker: &breaker.Config{Consecutive: 1, ProbeTimeout: time.Hour}},
			gateway.Route{Pattern: "/", Timeout: time.Hour})
		tripped(t, f, gw, "a", 1)
		w := ask(gw, http.MethodPost, "svc", "/")
		wantProblem(t, w.Result(), w.Body.String(), http.StatusServiceUnavailable)
	})
}

// A middleware that puts a context of its own in place of the request's takes the
// tunnel out of the gateway's sight, not out of the client's.
func TestTunnelWithAForeignContextWorks(t *testing.T) {
	foreign := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithoutCancel(context.Background())))
		})
	}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{echo(t)}}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{foreign}}))
	wantEcho(t, openTunnels(t, s, 1)[0], "hello")
}

// Hooks of a retry policy can tell it from other failures.
func TestErrorOfOpenBreakersIsThatOfABreaker(t *testing.T) {
	f := newFleet()
	f.set("a", refuse)
	var last error
	policy := &retry.Policy{MaxAttempts: 1, OnDone: func(_ context.Context, r retry.Result) { last = r.Err }}
	gw := build(t, gateway.Upstream{Targets: []string{"http://a"}, Wrap: f.wrap, Breaker: trippy(), Retry: policy}, everything)
	times(gw, 1)
	if errors.Is(last, breaker.ErrOpen) {
		t.Fatalf("the first failure is %v, want none of the breaker", last)
	}
	times(gw, 1)
	if !errors.Is(last, breaker.ErrOpen) {
		t.Errorf("the second failure is %v, want breaker.ErrOpen", last)
	}
}
