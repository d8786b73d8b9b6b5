package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// named is an upstream whose answers are its name.
func named(name string) *gateway.Upstream {
	return &gateway.Upstream{Name: name, Targets: []string{"http://in.memory"}, Wrap: func(http.RoundTripper) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			fmt.Fprint(w, name)
			return w.Result(), nil
		})
	}}
}

// divided is a gateway whose one route is split among upstreams named by digits.
func divided(t *testing.T, by func(*http.Request) string, weights ...int) *gateway.Gateway {
	t.Helper()
	var b gateway.Builder
	r := gateway.Route{Pattern: "/", SplitBy: by}
	for i, w := range weights {
		name := fmt.Sprint(i)
		b.Upstream(named(name))
		r.Split = append(r.Split, gateway.Share{Upstream: name, Weight: w})
	}
	b.Route(r)
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return gw
}

func TestSplitGivesEachUpstreamItsWeightEvenlySpread(t *testing.T) {
	for _, c := range []struct {
		weights []int
		want    string // in which order, over two rounds
	}{
		{[]int{1}, "00"},
		{[]int{1, 1}, "0101"},
		{[]int{3, 1}, "00100010"},
		{[]int{0, 2, 0}, "1111"},
		{[]int{5, 3, 2}, "01200102100120010210"},
	} {
		gw := divided(t, nil, c.weights...)
		got := ""
		for range c.want {
			got += ask(gw, http.MethodGet, "svc", "/").Body.String()
		}
		if got != c.want {
			t.Errorf("weights %v: %s, want %s", c.weights, got, c.want)
		}
	}
	gw := divided(t, nil, 950, 50)
	for window := range 100 {
		canary := 0
		for range 20 {
			if ask(gw, http.MethodGet, "svc", "/").Body.String() == "1" {
				canary++
			}
		}
		if canary != 1 {
			t.Errorf("window %d of 20 requests: %d to the canary of 5 %%, want 1", window, canary)
		}
	}
}

func TestKeysStayAtTheirUpstreamAndMoveOnlyToTheShareThatGrows(t *testing.T) {
	by := func(r *http.Request) string {
		if c, err := r.Cookie("session"); err == nil {
			return c.Value
		}
		return ""
	}
	at := func(gw *gateway.Gateway, key string) string {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.AddCookie(&http.Cookie{Name: "session", Value: key})
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		return w.Body.String()
	}
	five, twin, twenty := divided(t, by, 95, 5), divided(t, by, 95, 5), divided(t, by, 80, 20)
	const keys = 4000
	canary := map[string]int{}
	for i := range keys {
		key := fmt.Sprint("user-", i)
		before := at(five, key)
		if again, elsewhere := at(five, key), at(twin, key); again != before || elsewhere != before {
			t.Fatalf("%s: %s, then %s, in another gateway %s, want the same", key, before, again, elsewhere)
		}
		after := at(twenty, key)
		if before == "1" && after != "1" {
			t.Fatalf("%s leaves the canary, which grows", key)
		}
		canary["5"] += strings.Count(before, "1")
		canary["20"] += strings.Count(after, "1")
	}
	// Five standard deviations of a fair hash.
	if c := canary["5"]; c < keys*5/100-70 || c > keys*5/100+70 {
		t.Errorf("%d of %d keys at the canary of 5 %%, want about %d", c, keys, keys*5/100)
	}
	if c := canary["20"]; c < keys*20/100-130 || c > keys*20/100+130 {
		t.Errorf("%d of %d keys at the canary of 20 %%, want about %d", c, keys, keys*20/100)
	}
	// Requests without a key go in turn.
	if got := ask(divided(t, by, 1, 1), http.MethodGet, "svc", "/").Body.String(); got != "0" {
		t.Errorf("without a key: %s, want the first", got)
	}
}

func TestRedirectKeepsTheQueryAndChecksThePath(t *testing.T) {
	dots := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.SetPathValue("rest", "/evil.example")
			next.ServeHTTP(w, r)
		})
	}
	gw := buildWith(t, gateway.Builder{}, gateway.Upstream{Targets: []string{"http://127.0.0.1:1"}},
		gateway.Route{Pattern: "/old/{rest...}", Redirect: gateway.Redirect{To: "/new/{rest...}"}},
		gateway.Route{Pattern: "/up/{rest...}", Redirect: gateway.Redirect{To: "/{rest...}", Status: 301}},
		gateway.Route{Pattern: "/moved/{id}/x", Redirect: gateway.Redirect{To: "https://www.example:8443/{id}", Status: 308}},
		gateway.Route{Pattern: "/home", Redirect: gateway.Redirect{To: "http://www.example/", Status: 302}},
		gateway.Route{Pattern: "POST /form", Redirect: gateway.Redirect{To: "/done", Status: 303}},
		gateway.Route{Pattern: "/away/{rest...}", Redirect: gateway.Redirect{To: "/{rest...}"}, Use: []func(http.Handler) http.Handler{dots}})
	for _, c := range []struct {
		method, target string
		status         int
		location       string
	}{
		{"GET", "/old/a/b?q=1&r=%3B", 307, "/new/a/b?q=1&r=%3B"},
		{"PUT", "/old/caf%c3%a9%20x/?", 307, "/new/caf%C3%A9%20x/?"},
		{"GET", "/up/x:y/z", 301, "/x:y/z"},
		{"GET", "/up/", 301, "/"},
		{"HEAD", "/moved/7/x", 308, "https://www.example:8443/7"},
		{"GET", "/moved/%40evil.example/x", 308, "https://www.example:8443/@evil.example"},
		{"GET", "/home", 302, "http://www.example/"},
		{"POST", "/form", 303, "/done"},
		{"GET", "/up//evil.example", 400, ""},
		{"GET", "/away/x", 400, ""},
	} {
		w := ask(gw, c.method, "svc", c.target)
		if w.Code != c.status || w.Header().Get("Location") != c.location {
			t.Errorf("%s %s = %d to %q, want %d to %q", c.method, c.target, w.Code, w.Header().Get("Location"), c.status, c.location)
		}
	}
}

func TestHandlerAnswersInTheGatewayAndSeesTheCleanedRequest(t *testing.T) {
	var got *http.Request
	gw := buildWith(t, gateway.Builder{}, gateway.Upstream{Targets: []string{"http://127.0.0.1:1"}},
		gateway.Route{Pattern: "/hello/{name}", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r
			fmt.Fprint(w, "hello ", r.PathValue("name"))
		})})
	s := serve(t, gw)
	resp, body := exchange(t, s, "GET /hello/%61lice HTTP/1.1", "Host: svc", "Connection: X-Gone", "X-Gone: 1", "X-User: root", "X-Kept: 1")
	if resp.StatusCode != http.StatusOK || body != "hello alice" {
		t.Errorf("response = %s %q, want 200 hello alice", resp.Status, body)
	}
	if got.Header.Get("X-Gone")+got.Header.Get("X-User") != "" || got.Header.Get("X-Kept") != "1" || got.Pattern != "/hello/{name}" {
		t.Errorf("Handler sees %v with pattern %q, want the cleaned request", got.Header, got.Pattern)
	}
}

func TestRouteHasOneKindOfAnswer(t *testing.T) {
	answer := http.NotFoundHandler()
	share := []gateway.Share{{Upstream: "svc", Weight: 1}}
	for want, routes := range map[string][]gateway.Route{
		"it has 0 of Upstream, Split, Redirect and Handler": {{}},
		"it has 2 of Upstream, Split, Redirect and Handler": {
			{Upstream: "svc", Handler: answer},
			{Upstream: "svc", Split: share},
			{Upstream: "svc", Redirect: gateway.Redirect{To: "/x"}},
			{Split: share, Handler: answer},
			{Split: share, Redirect: gateway.Redirect{To: "/x"}},
			{Handler: answer, Redirect: gateway.Redirect{Status: 301, To: "/x"}},
		},
		"Rewrite, Timeout, MaxTunnel and Fallback are for": {
			{Handler: answer, Rewrite: "/x"},
			{Handler: answer, Timeout: 1},
			{Handler: answer, MaxTunnel: 1},
			{Handler: answer, Fallback: answer},
			{Redirect: gateway.Redirect{To: "/x"}, Rewrite: "/x"},
		},
		"SplitBy has no Split":                                          {{Upstream: "svc", SplitBy: func(*http.Request) string { return "" }}},
		`Split[1]: there is no Upstream "nobody"`:                       {{Split: []gateway.Share{{Upstream: "svc", Weight: 1}, {Upstream: "nobody"}}}},
		"Split[0]: Weight -1 is negative":                               {{Split: []gateway.Share{{Upstream: "svc", Weight: -1}}}},
		"Split: the weights add up to 0":                                {{Split: []gateway.Share{{Upstream: "svc"}}}},
		"Split: the weights add up to 1001":                             {{Split: []gateway.Share{{Upstream: "svc", Weight: 1000}, {Upstream: "svc", Weight: 1}}}},
		"Split: the weights add up to 2002":                             {{Split: []gateway.Share{{Upstream: "svc", Weight: 1 << 62}, {Upstream: "svc", Weight: 1 << 62}}}},
		"Redirect: status 304 is none of":                               {{Redirect: gateway.Redirect{To: "/x", Status: 304}}},
		"Redirect: it leads neither to a path nor":                      {{Redirect: gateway.Redirect{To: "ftp://h/"}}, {Redirect: gateway.Redirect{To: "http:///x"}}, {Redirect: gateway.Redirect{To: "https://u@h/"}}},
		`Redirect: path "": a pattern is`:                               {{Redirect: gateway.Redirect{Status: 301}}, {Redirect: gateway.Redirect{To: "https://h"}}},
		`Redirect: path "/{x}": the pattern has no such segment`:        {{Redirect: gateway.Redirect{To: "/{x}"}}},
		`Redirect: path "//evil.example": a path with an empty segment`: {{Redirect: gateway.Redirect{To: "//evil.example"}}},
		"IdleTimeout -1ns is negative":                                  {{Upstream: "svc", IdleTimeout: -1}},
		"MaxTunnel -1ns is negative":                                    {{Upstream: "svc", MaxTunnel: -1}},
	} {
		for _, r := range routes {
			var b gateway.Builder
			b.Upstream(named("svc"))
			r.Pattern = "/"
			b.Route(r)
			if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Build() = %v, want %q", err, want)
			}
		}
	}
}
