package gateway_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// asked is a request, in the plainest terms.
type asked struct {
	method, host, path string
	header, query      string // the value of X-C and of c; "" for none
}

// The oracle decides what is more specific by looking at all requests there are:
// those that patterns tell apart, and those that conditions do.
func universes() (patterns, conditions []asked) {
	paths, level := []string{"/"}, []string{""}
	for range 3 {
		var next []string
		for _, p := range level {
			for _, s := range []string{"/x", "/y", "/z"} {
				next = append(next, p+s)
				paths = append(paths, p+s, p+s+"/")
			}
		}
		level = next
	}
	for _, m := range []string{"GET", "HEAD", "POST", "PUT"} {
		for _, p := range paths {
			patterns = append(patterns, asked{method: m, path: p})
		}
	}
	for _, v := range []string{"", "1", "2"} {
		for _, q := range []string{"", "1", "2"} {
			conditions = append(conditions, asked{header: v, query: q})
		}
	}
	return patterns, conditions
}

// oracle is a route in the plainest terms.
type oracle struct {
	method, host  string
	segments      []string
	header, query string // as in the route; "" asks for nothing
}

func (o oracle) route(i int) gateway.Route {
	method := o.method
	if method != "" {
		method += " "
	}
	r := gateway.Route{
		Pattern: method + o.host + "/" + strings.Join(o.segments, "/"),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }),
	}
	if o.header != "" {
		r.Header = map[string]string{"X-C": o.header}
	}
	if o.query != "" {
		r.Query = map[string]string{"c": o.query}
	}
	return r
}

func (o oracle) matchesHost(host string) bool {
	name, suffix := strings.CutPrefix(o.host, "*")
	return o.host == "" || o.host == host || suffix && strings.HasSuffix(host, name)
}

func (o oracle) matchesPattern(a asked) bool {
	if o.method != "" && o.method != a.method && (o.method != "GET" || a.method != "HEAD") {
		return false
	}
	return o.matchesPath(strings.Split(a.path[1:], "/"))
}

func (o oracle) matchesPath(path []string) bool {
	for i, s := range o.segments {
		switch {
		case strings.HasSuffix(s, "...}") || s == "":
			return len(path) > i
		case i >= len(path):
			return false
		case s == "{$}":
			return path[i] == "" && len(path) == i+1
		case strings.HasPrefix(s, "{"):
			if path[i] == "" {
				return false
			}
		case s != path[i]:
			return false
		}
	}
	return len(path) == len(o.segments)
}

func (o oracle) matchesConditions(a asked) bool {
	for _, c := range [][2]string{{o.header, a.header}, {o.query, a.query}} {
		if c[0] == "*" && c[1] == "" || c[0] != "" && c[0] != "*" && c[0] != c[1] {
			return false
		}
	}
	return true
}

// compare says which of two routes is more specific: by host, else by pattern,
// else by conditions. It is 1 for o, -1 for the other, and 0 for neither.
func (o oracle) compare(other oracle, patterns, conditions []asked) int {
	if o.host != other.host {
		rank := func(h string) int {
			if h == "" || h[0] == '*' {
				return len(h)
			}
			return 1000
		}
		return cmp.Compare(rank(o.host), rank(other.host))
	}
	within := func(all []asked, a, b func(asked) bool) bool {
		return !slices.ContainsFunc(all, func(q asked) bool { return a(q) && !b(q) })
	}
	in := within(patterns, o.matchesPattern, other.matchesPattern)
	out := within(patterns, other.matchesPattern, o.matchesPattern)
	if in && out {
		in = within(conditions, o.matchesConditions, other.matchesConditions)
		out = within(conditions, other.matchesConditions, o.matchesConditions)
	}
	switch {
	case in && !out:
		return 1
	case out && !in:
		return -1
	}
	return 0
}

// collide reports whether some request matches both.
func (o oracle) collide(other oracle, patterns, conditions []asked) bool {
	both := func(all []asked, a, b func(asked) bool) bool {
		return slices.ContainsFunc(all, func(q asked) bool { return a(q) && b(q) })
	}
	return both(patterns, o.matchesPattern, other.matchesPattern) && both(conditions, o.matchesConditions, other.matchesConditions)
}

func (o oracle) matches(a asked) bool {
	return o.matchesHost(a.host) && o.matchesPattern(a) && o.matchesConditions(a)
}

func TestMostSpecificRouteWinsAndTwoThatAreAsSpecificAreAFault(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	patterns, conditions := universes()
	hosts := []string{"a.example", "b.a.example", "c.b.a.example", "example"}
	conflicts, matches, misses, others := 0, 0, 0, 0
	for range 600 {
		routes := make([]oracle, 2+rnd.IntN(4))
		var b gateway.Builder
		for i := range routes {
			o := oracle{
				method: pick("", "GET", "HEAD", "POST"), host: pick("", "", "a.example", "*.a.example", "*.b.a.example", "*.example"),
				header: pick("", "", "1", "2", "*"), query: pick("", "", "1", "*"),
			}
			for j := range 1 + rnd.IntN(2) {
				o.segments = append(o.segments, pick("x", "y", fmt.Sprintf("{n%d}", j)))
			}
			o.segments = append(o.segments, [][]string{nil, {""}, {"{$}"}, {"{rest...}"}}[rnd.IntN(4)]...)
			routes[i] = o
			b.Route(o.route(i))
		}
		conflict := false
		for i, o := range routes {
			for _, p := range routes[:i] {
				conflict = conflict || o.compare(p, patterns, conditions) == 0 && o.collide(p, patterns, conditions)
			}
		}
		gw, err := b.Build()
		if (err != nil) != conflict {
			t.Fatalf("Build(%+v) = %v, want a conflict: %v", routes, err, conflict)
		}
		if err != nil {
			conflicts++
			continue
		}
		for range 60 {
			a := patterns[rnd.IntN(len(patterns))]
			a.host, a.header, a.query = pick(hosts...), pick("", "1", "2"), pick("", "1", "2")
			want, allow := -1, make(map[string]bool)
			for i, o := range routes {
				if o.matches(a) && (want < 0 || o.compare(routes[want], patterns, conditions) > 0) {
					want = i
				}
				for _, m := range []string{"GET", "HEAD", "POST", "PUT"} {
					if other := (asked{m, a.host, a.path, a.header, a.query}); o.matches(other) {
						allow[m] = true
					}
				}
			}
			w := a.ask(gw)
			switch {
			case want >= 0:
				matches++
				if got := w.Body.String(); got != fmt.Sprint(want) {
					t.Fatalf("%+v among %+v: %d %s, want route %d", a, routes, w.Code, got, want)
				}
			case len(allow) > 0:
				others++
				want := strings.Join(slices.Sorted(maps.Keys(allow)), ", ")
				if got := w.Header().Get("Allow"); w.Code != http.StatusMethodNotAllowed || got != want {
					t.Fatalf("%+v among %+v: %d, Allow %q, want 405 and %q", a, routes, w.Code, got, want)
				}
			default:
				misses++
				if w.Code != http.StatusNotFound {
					t.Fatalf("%+v among %+v: %d, want 404", a, routes, w.Code)
				}
			}
		}
	}
	if min(conflicts, matches, misses, others) < 20 {
		t.Errorf("%d conflicts, %d matches, %d misses and %d other methods were compared, want 20 of each", conflicts, matches, misses, others)
	}
}

func (a asked) ask(h http.Handler) *httptest.ResponseRecorder {
	target := a.path
	if a.query != "" {
		target += "?b=0&c=" + a.query
	}
	r := httptest.NewRequest(a.method, target, http.NoBody)
	r.Host = a.host
	if a.header != "" {
		r.Header.Set("X-C", a.header)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// P19: what the gateway routes by, the upstream must read alike.
func TestWhatRoutesAskForMayNotStandTwice(t *testing.T) {
	gw := buildWith(t, gateway.Builder{}, gateway.Upstream{Targets: []string{"http://127.0.0.1:1"}},
		gateway.Route{Pattern: "/", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "open") })},
		gateway.Route{Pattern: "/admin", Query: map[string]string{"a b": "1"}, Handler: http.NotFoundHandler()},
		gateway.Route{Pattern: "/admin", Header: map[string]string{"x-canary": "*"}, Query: map[string]string{"a b": "1"}, Handler: http.NotFoundHandler()})
	for target, want := range map[string]int{
		"/x?a%20b=1&a+b=2":    400,
		"/x?a+b=1&%61%20b":    400,
		"/x?a+b=1&z=1&z=2":    200,
		"/x?a=1&a=2":          200,
		"/admin?%61+b=%31":    404,
		"/admin?a+b=1&a+b=1":  400,
		"/admin?a+b=2&z=a+b=": 200,
	} {
		r := httptest.NewRequest(http.MethodGet, target, http.NoBody)
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s = %d, want %d", target, w.Code, want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/x", http.NoBody)
	r.Header["X-Canary"] = []string{"1", "2"}
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	wantProblem(t, w.Result(), w.Body.String(), http.StatusBadRequest)
}

func TestConditionsThatCanNeverHoldAreFaults(t *testing.T) {
	for name, r := range map[string]gateway.Route{
		"a hop-by-hop field":      {Header: map[string]string{"connection": "close"}},
		"a field with _":          {Header: map[string]string{"x_a": "1"}},
		"a forwarded field":       {Header: map[string]string{"X-Forwarded-Host": "a"}},
		"an identity field":       {Header: map[string]string{"x-user-id": "1"}},
		"the request's own id":    {Header: map[string]string{"X-Request-Id": "1"}},
		"the host":                {Header: map[string]string{"Host": "a"}},
		"no name":                 {Header: map[string]string{"": "1"}},
		"a name with a space":     {Header: map[string]string{"a b": "1"}},
		"a value that no one has": {Header: map[string]string{"X-A": " 1"}},
		"a name twice":            {Header: map[string]string{"X-A": "1", "x-a": "1"}},
	} {
		var b gateway.Builder
		r.Pattern, r.Handler = "/", http.NotFoundHandler()
		b.Route(r)
		if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), "Header: ") {
			t.Errorf("%s: Build() = %v, want a fault of Header", name, err)
		}
	}
	b := gateway.Builder{RawQuery: true}
	b.Route(gateway.Route{Pattern: "/", Query: map[string]string{"a": "1"}, Handler: http.NotFoundHandler()})
	if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), "Query: with RawQuery") {
		t.Errorf("Build() = %v, want a fault of Query", err)
	}
}
