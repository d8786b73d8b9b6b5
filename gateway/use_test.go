package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
)

func use(m ...func(http.Handler) http.Handler) []func(http.Handler) http.Handler { return m }

// As http.TimeoutHandler, it lets the forwarding write elsewhere and leaves it
// behind: what it answers itself must reach the client, and so must the answers
// to the connection's next requests.
func TestTimeoutHandlerAnswersAlsoWhereTheUpstreamHasBegun(t *testing.T) {
	at := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})).URL
	c := dial(t, serve(t, build(t, gateway.Upstream{Targets: []string{at}}, gateway.Route{
		Pattern: "/", Use: use(func(next http.Handler) http.Handler {
			return http.TimeoutHandler(next, 50*time.Millisecond, "too late")
		}),
	})))
	for range 3 {
		c.send(t, "GET /slow HTTP/1.1", "Host: svc")
		if resp, body := c.response(t); resp.StatusCode != http.StatusServiceUnavailable || body != "too late" {
			t.Fatalf("response = %s %q, want the middleware's 503", resp.Status, body)
		}
		c.send(t, "GET / HTTP/1.1", "Host: svc")
		if resp, body := c.response(t); resp.StatusCode != http.StatusOK {
			t.Fatalf("next response = %s %q, want 200", resp.Status, body)
		}
	}
}

// Run with the race detector: a mirror forwards a request twice at once.
func TestMiddlewareMayForwardTwiceAtOnce(t *testing.T) {
	backend := new(recorder)
	mirror := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var all sync.WaitGroup
			defer all.Wait()
			all.Go(func() { next.ServeHTTP(httptest.NewRecorder(), r.Clone(r.Context())) })
			next.ServeHTTP(w, r)
		})
	}
	lines := new(lineBuffer)
	gw := withLog(t, lines, gateway.Upstream{Targets: []string{serve(t, backend).URL}, Retry: quickRetry()},
		gateway.Route{Pattern: "/", Use: use(mirror)})
	const requests = 30
	for range requests {
		if w := ask(gw, http.MethodGet, "svc", "/"); w.Code != http.StatusOK {
			t.Fatalf("status = %d, want 200", w.Code)
		}
	}
	if got := backend.count(); got != 2*requests {
		t.Errorf("the upstream got %d requests, want %d", got, 2*requests)
	}
	if got := strings.Count(lines.text(), `"attempts":2`); got != requests {
		t.Errorf("%d lines tell of 2 attempts, want %d", got, requests)
	}
}

// As with what net/http parses, where RawPath is no more than a hint.
func TestMiddlewareMayChangeThePathAlone(t *testing.T) {
	backend := new(recorder)
	var to string
	change := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = to
			next.ServeHTTP(w, r)
		})
	}
	s := serve(t, buildWith(t, gateway.Builder{AllowEncodedSlash: true}, gateway.Upstream{Targets: []string{serve(t, backend).URL}},
		gateway.Route{Pattern: "/", Use: use(change)}))
	for _, c := range []struct{ from, to, want string }{
		{"/plain", "/other", "/other"},
		{"/caf%C3%A9", "/th\u00e9", "/th%C3%A9"},
		{"/a/b", "/a/../b", ""},
		{"/a/b", "/a//b", ""},
		{"/a/b", "/a%2Fb", ""},
		{"/a%2Fb", "/c/a/b", ""}, // nobody can tell any more which slash divides
	} {
		to = c.to
		before := backend.count()
		resp, body := get(t, s.URL+c.from)
		if c.want == "" {
			wantProblem(t, resp, body, http.StatusBadRequest)
			if backend.count() != before {
				t.Errorf("%s for %s reached the upstream", c.to, c.from)
			}
			continue
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s for %s = %s %s, want 200", c.to, c.from, resp.Status, body)
			continue
		}
		if got, _ := backend.last(t); got.RequestURI != c.want {
			t.Errorf("upstream sees %s, want %s", got.RequestURI, c.want)
		}
	}
}

// panicPicker panics where it is told to.
type panicPicker struct{ at *string }

func (p panicPicker) Over([]*gateway.Instance) func(*http.Request) int {
	if *p.at == "Over" {
		panic("Over")
	}
	return func(*http.Request) int {
		if *p.at == "pick" {
			panic("pick")
		}
		return 0
	}
}

func TestPanicsOfTheUsersGoOnAndLeaveNothingInFlight(t *testing.T) {
	var at string
	wrap := func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			switch at {
			case "Wrap":
				panic("Wrap")
			case "Over": // a failure that ejects
				return status(http.StatusInternalServerError)(r)
			}
			return status(http.StatusOK)(r)
		})
	}
	split := gateway.Route{Pattern: "/", Split: []gateway.Share{{Upstream: "svc", Weight: 1}}}
	split.SplitBy = func(*http.Request) string {
		if at == "SplitBy" {
			panic("SplitBy")
		}
		return ""
	}
	split.Use = use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if next.ServeHTTP(w, r); at == "Use" {
				panic("Use")
			}
		})
	})
	gw := build(t, gateway.Upstream{
		Targets: []string{"http://a", "http://b"}, Picker: panicPicker{&at}, Wrap: wrap, Breaker: &breaker.Config{},
		Eject: &gateway.Eject{Consecutive: 1}, Retry: quickRetry(),
	}, split)
	for _, at = range []string{"pick", "Wrap", "Over", "SplitBy", "Use"} {
		func() {
			defer func() {
				if got := recover(); got != any(at) {
					t.Errorf("panic of %s came out as %v", at, got)
				}
			}()
			ask(gw, http.MethodPost, "svc", "/")
		}()
	}
	at = ""
	if w := ask(gw, http.MethodGet, "svc", "/"); w.Code != http.StatusOK {
		t.Errorf("status afterwards = %d, want 200", w.Code)
	}
	u := gw.Stats().Upstreams[0]
	if u.InFlight != 0 || u.Targets[0].InFlight != 0 || u.Targets[1].InFlight != 0 {
		t.Errorf("%+v, want nothing in flight", u)
	}
}
