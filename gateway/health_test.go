package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
)

// fleet is an upstream of several targets without sockets, for virtual time. By
// default each answers 200 at once.
type fleet struct {
	mu      sync.Mutex
	answers map[string]func(*http.Request) (*http.Response, error) // by host
	served  map[string]int                                         // requests by host
	checks  map[string][]time.Duration                             // when, by host
	start   time.Time
}

func newFleet() *fleet {
	return &fleet{answers: make(map[string]func(*http.Request) (*http.Response, error)), served: make(map[string]int), checks: make(map[string][]time.Duration), start: time.Now()}
}

// wrap is for Upstream.Wrap.
func (f *fleet) wrap(http.RoundTripper) http.RoundTripper {
	return tripper(func(r *http.Request) (*http.Response, error) {
		f.mu.Lock()
		if r.URL.Path == "/healthz" {
			f.checks[r.URL.Host] = append(f.checks[r.URL.Host], time.Since(f.start))
		} else {
			f.served[r.URL.Host]++
		}
		answer := f.answers[r.URL.Host]
		f.mu.Unlock()
		if answer != nil {
			return answer(r)
		}
		return status(http.StatusOK)(r)
	})
}

func (f *fleet) set(host string, answer func(*http.Request) (*http.Response, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[host] = answer
}

// take returns how many requests each host has got since the last time.
func (f *fleet) take() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.served
	f.served = make(map[string]int)
	return got
}

// status answers with a status.
func status(code int) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Header: make(http.Header), Body: http.NoBody, Request: r}, nil
	}
}

func refuse(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

// running starts Run and ends it with the test, within a bubble.
func running(t *testing.T, gw *gateway.Gateway) {
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- gw.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	synctest.Wait()
}

// times sends n requests and returns the statuses, by how many had them.
func times(gw http.Handler, n int) map[int]int {
	got := make(map[int]int)
	for range n {
		got[ask(gw, http.MethodGet, "svc", "/").Code]++
	}
	return got
}

var twoTargets = []string{"http://a", "http://b"}

// P35.
func TestTargetThatFailsItsChecksGetsNoRequestsUntilItPassesThemAgain(t *testing.T) {
	large := func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(strings.Repeat("x", 64<<10+1))), Request: r}, nil
	}
	late := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	broken := func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(io.MultiReader(strings.NewReader("x"), badReader{})), Request: r}, nil
	}
	panics := func(*http.Request) (*http.Response, error) { panic("in Wrap") }
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"refuses": refuse, "answers 500": status(500), "redirects": status(302), "says too much": large,
		"is too slow": late, "breaks off": broken, "panics": panics,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				gw := build(t, gateway.Upstream{
					Targets: twoTargets, Wrap: f.wrap, Health: &gateway.Health{Path: "/healthz", Interval: 10 * time.Second},
				}, everything)
				running(t, gw)
				time.Sleep(time.Minute)
				times(gw, 10)
				if got := f.take(); got["a"] != 5 || got["b"] != 5 {
					t.Fatalf("requests = %v, want 5 each while both are well", got)
				}
				f.set("a", answer)
				time.Sleep(45 * time.Second) // at most 11 s and 2 s for each of three checks
				if got := times(gw, 10); got[200] != 10 {
					t.Errorf("statuses = %v, want 10 of 200", got)
				}
				if got := f.take(); got["a"] != 0 || got["b"] != 10 {
					t.Errorf("requests = %v, want all to the healthy one", got)
				}
				if s := gw.Stats().Upstreams[0]; s.Targets[0].Healthy || !s.Targets[1].Healthy || s.Unhealthy {
					t.Errorf("Stats() = %+v, want the first target alone unhealthy", s)
				}
				f.set("a", nil)
				time.Sleep(35 * time.Second)
				times(gw, 10)
				if got := f.take(); got["a"] != 5 || got["b"] != 5 {
					t.Errorf("requests = %v, want 5 each again", got)
				}
			})
		})
	}
}

type badReader struct{}

func (badReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestCheckWithAStatusOfItsOwnPassesByThatAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.set("a", status(204))
		f.set("b", status(200))
		gw := build(t, gateway.Upstream{
			Targets: twoTargets, Wrap: f.wrap, Host: "orders.internal", Health: &gateway.Health{Path: "/healthz", Status: 204, Fall: 1},
		}, everything)
		running(t, gw)
		time.Sleep(12 * time.Second)
		times(gw, 4)
		if got := f.take(); got["a"] != 4 {
			t.Errorf("requests = %v, want all to the one that answers 204", got)
		}
	})
}

func TestCheckThatABulkheadRejectsSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.set("a", func(*http.Request) (*http.Response, error) { return nil, rejection{} })
		gw := build(t, gateway.Upstream{Targets: []string{"http://a"}, Wrap: f.wrap, Health: &gateway.Health{Path: "/healthz", Fall: 1}}, everything)
		running(t, gw)
		time.Sleep(time.Minute)
		if s := gw.Stats().Upstreams[0]; !s.Targets[0].Healthy {
			t.Error("the target is unhealthy though nobody asked it")
		}
	})
}

// P35.
func TestChecksAreSpreadAndDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		var targets []string
		for n := range 100 {
			targets = append(targets, fmt.Sprintf("http://t%d", n))
		}
		f.set("t0", func(r *http.Request) (*http.Response, error) { // as slow as is allowed, which is longer than Interval
			time.Sleep(29 * time.Second)
			return status(200)(r)
		})
		gw := build(t, gateway.Upstream{Targets: targets, Wrap: f.wrap, Health: &gateway.Health{Path: "/healthz", Timeout: 30 * time.Second}}, everything)
		running(t, gw)
		time.Sleep(5 * time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		perSecond := make(map[int]int)
		for host, at := range f.checks {
			for n, d := range at {
				perSecond[int(d/time.Second)]++
				least, most := 9*time.Second, 11*time.Second
				if host == "t0" {
					least, most = 38*time.Second, 40*time.Second
				}
				if n > 0 && (d-at[n-1] < least || d-at[n-1] > most) {
					t.Errorf("%s was asked %v after the check before, want %v to %v", host, d-at[n-1], least, most)
				}
			}
			if at[0] > 10*time.Second {
				t.Errorf("%s was asked first after %v, want within the first Interval", host, at[0])
			}
		}
		for s, n := range perSecond {
			if n > 35 { // 10 on average; 8 standard deviations
				t.Errorf("%d checks in second %d, want them spread", n, s)
			}
		}
	})
}

// P35.
func TestWhereNoTargetIsHealthyAllAreUsedOrNoneByChoice(t *testing.T) {
	for name, refuseAll := range map[string]bool{"all": false, "none": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				sick := func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == "/healthz" {
						return refuse(r)
					}
					return status(200)(r)
				}
				f.set("a", sick)
				f.set("b", sick)
				gw := build(t, gateway.Upstream{
					Targets: twoTargets, Wrap: f.wrap, RefuseUnhealthy: refuseAll, Health: &gateway.Health{Path: "/healthz"},
				}, everything)
				running(t, gw)
				time.Sleep(time.Minute)
				w := ask(gw, http.MethodGet, "svc", "/")
				if s := gw.Stats().Upstreams[0]; !s.Unhealthy {
					t.Errorf("Stats() = %+v, want Unhealthy", s)
				}
				if !refuseAll {
					if w.Code != http.StatusOK {
						t.Errorf("status = %d, want 200 from whatever there is", w.Code)
					}
					return
				}
				wantProblem(t, w.Result(), w.Body.String(), http.StatusServiceUnavailable)
				if got := w.Header().Get("Retry-After"); got != "1" {
					t.Errorf("Retry-After = %q, want 1", got)
				}
				if got := f.take(); len(got) != 0 {
					t.Errorf("requests = %v, want none", got)
				}
			})
		})
	}
}

// P35.
func TestEjectedTargetComesBackByItselfAndRetryAfterNamesThatMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.set("a", status(503))
		f.set("b", status(503))
		gw := build(t, gateway.Upstream{
			Targets: twoTargets, Wrap: f.wrap, RefuseUnhealthy: true, Eject: &gateway.Eject{Consecutive: 2, MaxRate: 1},
		}, everything) // and nobody calls Run
		if got := times(gw, 4); got[503] != 4 {
			t.Fatalf("statuses = %v, want 4 of 503", got)
		}
		f.take()
		time.Sleep(10 * time.Second)
		w := ask(gw, http.MethodGet, "svc", "/")
		wantProblem(t, w.Result(), w.Body.String(), http.StatusServiceUnavailable)
		if got := w.Header().Get("Retry-After"); got != "20" {
			t.Errorf("Retry-After = %q, want 20, when the ejections end", got)
		}
		if s := gw.Stats().Upstreams[0].Targets[0]; s.Ejected != 20*time.Second || s.Failures != 2 || s.Requests != 2 {
			t.Errorf("Stats() = %+v, want 20s of ejection left after 2 failures", s)
		}
		f.set("a", nil)
		f.set("b", nil)
		time.Sleep(20 * time.Second)
		if got := times(gw, 4); got[200] != 4 {
			t.Errorf("statuses = %v, want 4 of 200", got)
		}
		if got := f.take(); got["a"] != 2 || got["b"] != 2 {
			t.Errorf("requests = %v, want 2 each", got)
		}
	})
}

// P29, P35.
func TestClientsFailureDoesNotEjectATarget(t *testing.T) {
	f := newFleet()
	f.set("a", func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	gw := build(t, gateway.Upstream{Targets: []string{"http://a"}, Wrap: f.wrap, Eject: &gateway.Eject{Consecutive: 1, MaxRate: 1}}, everything)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody).WithContext(ctx)
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	if s := gw.Stats().Upstreams[0].Targets[0]; w.Code != 499 || s.Ejected != 0 || s.Failures != 0 {
		t.Errorf("status = %d and %+v, want 499 and no blame", w.Code, s)
	}
}

func TestHealthAndEjectionAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.set("a", refuse)
		lines := new(lineBuffer)
		var b gateway.Builder
		b.Logger(slog.New(slog.NewJSONHandler(lines, nil)))
		b.Upstream(&gateway.Upstream{
			Name: "svc", Targets: []string{"http://a", "http://b"}, Wrap: f.wrap,
			Health: &gateway.Health{Path: "/healthz", Fall: 1, Rise: 1}, Eject: &gateway.Eject{Consecutive: 1},
		})
		b.Route(gateway.Route{Pattern: "/", Upstream: "svc"})
		gw, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		times(gw, 2)
		running(t, gw)
		time.Sleep(15 * time.Second)
		f.set("a", nil)
		time.Sleep(15 * time.Second)
		got := lines.wait(t, 3)
		for n, want := range []string{"gateway: target ejected", "gateway: target unhealthy", "gateway: target healthy"} {
			if got[n]["msg"] != want || got[n]["upstream"] != "svc" || got[n]["target"] != "http://a" {
				t.Errorf("line %d = %v, want %q of target http://a", n, got[n], want)
			}
		}
	})
}

func TestStatsShowWhatIsInFlightAndWhichBreakerIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		release := make(chan struct{})
		f.set("a", func(r *http.Request) (*http.Response, error) {
			time.Sleep(20 * time.Millisecond)
			return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(until{release}), Request: r}, nil
		})
		f.set("b", refuse)
		gw := build(t, gateway.Upstream{Targets: twoTargets, Weights: []int{3, 1}, Wrap: f.wrap, Breaker: trippy()}, everything)
		done := make(chan struct{})
		go func() {
			times(gw, 1)
			close(done)
		}()
		time.Sleep(time.Second)
		times := gw.Stats().Upstreams[0]
		if a := times.Targets[0]; times.InFlight != 1 || a.InFlight != 1 || a.Weight != 3 || a.Latency == 0 || a.Latency > 20*time.Millisecond {
			t.Errorf("Stats() = %+v, want one in flight at a and its latency", times)
		}
		close(release)
		<-done
		for range 4 {
			ask(gw, http.MethodGet, "svc", "/")
		}
		s := gw.Stats().Upstreams[0]
		if s.InFlight != 0 || s.Targets[0].InFlight != 0 || s.Targets[1].InFlight != 0 || s.Targets[1].Breaker != breaker.Open || s.Targets[0].Breaker != breaker.Closed {
			t.Errorf("Stats() = %+v, want nothing in flight and the breaker of b open", s)
		}
	})
}

// until is a body that ends when a channel is closed.
type until struct{ c <-chan struct{} }

func (u until) Read([]byte) (int, error) {
	<-u.c
	return 0, io.EOF
}
