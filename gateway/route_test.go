package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// matcher is a gateway and a ServeMux of the same patterns, both of which answer
// by what they matched.
type matcher struct {
	gw  *gateway.Gateway
	mux *http.ServeMux
}

var wildcards = []string{"a", "b", "c", "rest"}

func describe(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "matched %s", r.Pattern)
	for _, name := range wildcards {
		fmt.Fprintf(w, " %s=%q", name, r.PathValue(name))
	}
}

func newMatcher(patterns []string) (m matcher, panicked any, buildErr error) {
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "svc", Targets: []string{"http://127.0.0.1"}})
	answer := func(http.Handler) http.Handler { return http.HandlerFunc(describe) }
	m.mux = http.NewServeMux()
	defer func() { panicked = recover() }()
	for _, p := range patterns {
		b.Route(gateway.Route{Pattern: p, Upstream: "svc", Use: []func(http.Handler) http.Handler{answer}})
	}
	m.gw, buildErr = b.Build()
	for _, p := range patterns {
		m.mux.HandleFunc(p, describe)
	}
	return m, nil, buildErr
}

func ask(h http.Handler, method, host, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, http.NoBody)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// ServeMux is the oracle: the same patterns conflict, and the same pattern with
// the same values matches, save where it redirects.
func TestPatternsMeanWhatServeMuxMeans(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	methods := []string{"", "", "GET ", "HEAD ", "POST "}
	hosts := []string{"", "", "", "one.example", "two.example"}
	segments := []string{"x", "y", "{a}", "{b}", "%79"}
	ends := []string{"", "", "/", "/{$}", "/{rest...}"}
	makePattern := func() string {
		path := ""
		for range rnd.IntN(4) {
			s := pick(segments)
			if strings.HasPrefix(s, "{") && strings.Contains(path, s) {
				s = "{c}"
			}
			if s == "{c}" && strings.Contains(path, s) {
				s = "x"
			}
			path += "/" + s
		}
		path += pick(ends)
		if path == "" {
			path = "/"
		}
		return pick(methods) + pick(hosts) + path
	}
	conflicts, matches, misses := 0, 0, 0
	for range 1500 {
		patterns := make([]string, 1+rnd.IntN(4))
		for i := range patterns {
			patterns[i] = makePattern()
		}
		m, panicked, err := newMatcher(patterns)
		if (err != nil) != (panicked != nil) {
			t.Fatalf("Build(%q) = %v, while ServeMux panics with %v", patterns, err, panicked)
		}
		if err != nil {
			conflicts++
			continue
		}
		for range 20 {
			path := ""
			for range rnd.IntN(5) {
				path += "/" + pick([]string{"x", "y", "z"})
			}
			if path == "" || rnd.IntN(3) == 0 {
				path += "/"
			}
			method, host := pick([]string{"GET", "HEAD", "POST", "PUT"}), pick([]string{"one.example", "three.example"})
			got, want := ask(m.gw, method, host, path), ask(m.mux, method, host, path)
			switch {
			case want.Code == http.StatusTemporaryRedirect:
				if got.Code/100 == 3 {
					t.Fatalf("%q: %s %s%s redirects", patterns, method, host, path)
				}
			case want.Code == http.StatusOK:
				matches++
				if got.Body.String() != want.Body.String() {
					t.Fatalf("%q: %s %s%s: %s, want %s", patterns, method, host, path, got.Body, want.Body)
				}
			case strings.HasSuffix(path, "/") || want.Code == http.StatusNotFound:
				misses++
				if got.Code != want.Code || got.Header().Get("Allow") != want.Header().Get("Allow") {
					t.Fatalf("%q: %s %s%s = %d, Allow %q, want %d, %q", patterns, method, host, path,
						got.Code, got.Header().Get("Allow"), want.Code, want.Header().Get("Allow"))
				}
			}
		}
	}
	if min(conflicts, matches, misses) < 100 {
		t.Errorf("%d conflicts, %d matches and %d misses were compared, want 100 of each", conflicts, matches, misses)
	}
}

func TestUnknownRouteIs404(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "GET /x"})
	resp, body := get(t, s.URL+"/y")
	wantProblem(t, resp, body, http.StatusNotFound)
}

func TestKnownPathWithAnotherMethodIs405WithAllow(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "GET /x/{a}"}, gateway.Route{Pattern: "PUT /x/{a}"})
	resp, body := exchange(t, s, "DELETE /x/1 HTTP/1.1", "Host: svc")
	wantProblem(t, resp, body, http.StatusMethodNotAllowed)
	if got := resp.Header.Get("Allow"); got != "GET, HEAD, PUT" {
		t.Errorf("Allow = %q, want GET, HEAD, PUT", got)
	}
}

// P7.
func TestHostsAreComparedWithoutCasePortAndFinalDot(t *testing.T) {
	for _, c := range []struct{ pattern, host, target string }{
		{"api.example/", "api.example", "/"},
		{"API.example/", "Api.EXAMPLE", "/"},
		{"api.example/", "api.example:8443", "/"},
		{"api.example./", "api.example.:8443", "/"},
		{"api.example/", "other.example", "http://api.example/"},
		{"[::1]/", "[::1]:8080", "/"},
		{"127.0.0.1/", "127.0.0.1:80", "/"},
	} {
		s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: c.pattern})
		if resp, body := exchange(t, s, "GET "+c.target+" HTTP/1.1", "Host: "+c.host); resp.StatusCode != http.StatusOK {
			t.Errorf("%s does not match %s at host %s: %d %s", c.pattern, c.target, c.host, resp.StatusCode, body)
		}
	}
}

// P7.
func TestHostComesFromNowhereButTheRequest(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{}, gateway.Route{Pattern: "inner.example/"})
	for name, c := range map[string]struct {
		want  int
		lines []string
	}{
		"two hosts":                        {400, []string{"Host: inner.example", "Host: other.example"}},
		"no host":                          {400, nil},
		"a list of hosts":                  {400, []string{"Host: inner.example, other.example"}},
		"a list of hosts without a space":  {400, []string{"Host: inner.example,other.example"}},
		"a host with a path":               {400, []string{"Host: inner.example/x"}},
		"a host with credentials":          {400, []string{"Host: user@inner.example"}},
		"another host":                     {404, []string{"Host: other.example"}},
		"forwarded host of an unknown":     {404, []string{"Host: other.example", "X-Forwarded-Host: inner.example"}},
		"the standard's way to forward it": {404, []string{"Host: other.example", "Forwarded: host=inner.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			lines := append([]string{"GET / HTTP/1.1"}, c.lines...)
			if resp, body := exchange(t, s, lines...); resp.StatusCode != c.want {
				t.Errorf("status = %d %s, want %d", resp.StatusCode, body, c.want)
			}
		})
	}
	if n := backend.count(); n != 0 {
		t.Errorf("the upstream got %d requests, want 0", n)
	}
}

func TestUpstreamIsAskedUnderItsOwnHost(t *testing.T) {
	backend := new(recorder)
	at := serve(t, backend)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at.URL}}, everything))
	exchange(t, s, "GET / HTTP/1.1", "Host: public.example")
	got, _ := backend.last(t)
	if got.Host != at.Listener.Addr().String() {
		t.Errorf("Host = %q, want that of the target", got.Host)
	}
	if xfh := got.Header.Get("X-Forwarded-Host"); xfh != "public.example" {
		t.Errorf("X-Forwarded-Host = %q, want public.example", xfh)
	}
}

func TestUseIsOutermostFirstAndPatternReachesMiddlewareAroundTheGateway(t *testing.T) {
	var order []string
	mark := func(name string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				order = append(order, name+" "+r.Pattern+" "+r.PathValue("id"))
				next.ServeHTTP(w, r)
			})
		}
	}
	backend := serve(t, new(recorder))
	gw := build(t, gateway.Upstream{Targets: []string{backend.URL}},
		gateway.Route{Pattern: "GET /x/{id}", Use: []func(http.Handler) http.Handler{mark("first"), mark("second")}})
	r := httptest.NewRequest(http.MethodGet, "/x/7", http.NoBody)
	gw.ServeHTTP(httptest.NewRecorder(), r)
	if want := []string{"first GET /x/{id} 7", "second GET /x/{id} 7"}; !slices.Equal(order, want) {
		t.Errorf("Use ran as %q, want %q", order, want)
	}
	if r.Pattern != "GET /x/{id}" || r.PathValue("id") != "7" {
		t.Errorf("the caller's request has Pattern %q, id %q, want GET /x/{id}, 7", r.Pattern, r.PathValue("id"))
	}
}
