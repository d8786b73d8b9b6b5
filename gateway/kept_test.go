package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// keeper is a transport that keeps the requests that it was given, as one does whose
// goroutines write them still, or log them, when their answers have long come.
type keeper struct {
	fleet *fleet
	mu    sync.Mutex
	kept  []kept
}

type kept struct {
	req       *http.Request
	was       http.Request
	host, url string
}

func (k *keeper) wrap(next http.RoundTripper) http.RoundTripper {
	next = k.fleet.wrap(next)
	return tripper(func(r *http.Request) (*http.Response, error) {
		k.mu.Lock()
		k.kept = append(k.kept, kept{r, *r, r.URL.Host, r.URL.String()})
		k.mu.Unlock()
		return next.RoundTrip(r)
	})
}

// look tells of requests of attempts that have been changed, or that share something
// that an attempt changes, and returns how many of them each target got.
func (k *keeper) look(t *testing.T) map[string]int {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	hosts, seen := make(map[string]int), make(map[any]bool)
	for n, a := range k.kept {
		hosts[a.host]++
		if seen[a.req] || seen[a.req.URL] {
			t.Errorf("attempt %d has the request of another", n)
		}
		seen[a.req], seen[a.req.URL] = true, true
		if got := a.req.URL.String(); got != a.url || a.req.Method != a.was.Method || a.req.Host != a.was.Host || a.req.Context() != a.was.Context() {
			t.Errorf("attempt %d to %s goes to %s, %s by now", n, a.url, got, a.req.Host)
		}
	}
	k.kept = nil
	return hosts
}

func TestATransportMayKeepTheRequestOfEachAttempt(t *testing.T) {
	const requests = 4
	mirror := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(httptest.NewRecorder(), r.Clone(r.Context()))
			var all sync.WaitGroup
			all.Go(func() { next.ServeHTTP(httptest.NewRecorder(), r.Clone(r.Context())) })
			next.ServeHTTP(w, r)
			all.Wait()
		})
	}
	for _, c := range []struct {
		name     string
		upstream gateway.Upstream
		use      []func(http.Handler) http.Handler
		a        func(*http.Request) (*http.Response, error)
		least    int // attempts
	}{
		{"a request that is repeated", gateway.Upstream{Retry: quickRetry()}, nil, refuse, requests + requests/2},
		{"a hedged one", gateway.Upstream{Hedge: &retry.Hedging{Delay: time.Second}}, nil, afterwards(time.Minute, "late"), requests + requests/2},
		{"one that is forwarded thrice", gateway.Upstream{}, use(mirror), nil, 3 * requests},
		{"one that is forwarded thrice and repeated", gateway.Upstream{Retry: quickRetry()}, use(mirror), refuse, 3*requests + 3*requests/2},
		{"one that is forwarded thrice and hedged", gateway.Upstream{Hedge: &retry.Hedging{Delay: time.Second}}, use(mirror), afterwards(time.Minute, "late"), 3*requests + 3*requests/2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &keeper{fleet: newFleet()}
				k.fleet.set("a", c.a)
				c.upstream.Targets, c.upstream.Wrap = twoTargets, k.wrap
				gw := build(t, c.upstream, gateway.Route{Pattern: "/", Use: c.use})
				for range requests {
					if w := ask(gw, http.MethodGet, "svc", "/p?q"); w.Code != http.StatusOK {
						t.Errorf("status = %d %s, want 200", w.Code, w.Body)
					}
				}
				synctest.Wait() // for hedges that lost
				got := k.look(t)
				if got["a"]+got["b"] < c.least || got["a"] == 0 || got["b"] == 0 {
					t.Errorf("the targets got %v requests, want at least %d", got, c.least)
				}
			})
		})
	}
}

// The first attempt there never began: its request is made out anew for the other.
func TestTheRequestThatABreakerRejectedGoesToTheOtherTargetAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{fleet: newFleet()}
		gw := build(t, gateway.Upstream{Targets: twoTargets, Wrap: k.wrap, Breaker: &breaker.Config{Consecutive: 1, ProbeTimeout: time.Hour}},
			gateway.Route{Pattern: "/", Timeout: time.Hour})
		tripped(t, k.fleet, gw, "a", 2)
		k.mu.Lock()
		k.kept = nil
		k.mu.Unlock()
		for range 4 {
			if w := ask(gw, http.MethodGet, "svc", "/p?q"); w.Code != http.StatusOK {
				t.Errorf("status = %d %s, want 200 from the other target", w.Code, w.Body)
			}
		}
		if got := k.look(t); got["a"] != 0 || got["b"] != 4 {
			t.Errorf("the targets got %v requests, want 4 at b", got)
		}
	})
}
