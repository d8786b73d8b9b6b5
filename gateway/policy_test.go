package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// P16.
func TestSeveralSlashesAreOneWhereTheBuilderSaysSo(t *testing.T) {
	backend := new(recorder)
	var seen string
	look := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen = r.URL.EscapedPath() + " " + r.PathValue("id")
			next.ServeHTTP(w, r)
		})
	}
	s := serve(t, buildWith(t, gateway.Builder{MergeSlashes: true}, gateway.Upstream{Targets: []string{serve(t, backend).URL}},
		gateway.Route{Pattern: "/"}, gateway.Route{Pattern: "POST /orders/{id}", Use: []func(http.Handler) http.Handler{look}}))
	for sent, want := range map[string]string{
		"//orders//1":        "/orders/1",
		"/orders/1":          "/orders/1",
		"/orders////a%2bb":   "/orders/a%2Bb",
		"//evil.example//x/": "/evil.example/x/",
		"//":                 "/",
		"/x///":              "/x/",
	} {
		seen = ""
		resp, body := exchange(t, s, "POST "+sent+" HTTP/1.1", "Host: svc", "Content-Length: 0")
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Location") != "" {
			t.Errorf("%s = %d %s, Location %q, want 200", sent, resp.StatusCode, body, resp.Header.Get("Location"))
			continue
		}
		if got, _ := backend.last(t); got.RequestURI != want {
			t.Errorf("%s: upstream sees %s, want %s", sent, got.RequestURI, want)
		}
		if want == "/orders/1" && seen != "/orders/1 1" {
			t.Errorf("%s: Use sees %s, want /orders/1 and id 1", sent, seen)
		}
	}
	before := backend.count()
	for _, sent := range []string{"//x//../y", "/x/%2e%2e//y", "//%2e", "/x//;a", "//x%2fy", "/x%2f%2fy", "/.//x"} {
		if resp, _ := exchange(t, s, "GET "+sent+" HTTP/1.1", "Host: svc"); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s = %d, want 400", sent, resp.StatusCode)
		}
	}
	if n := backend.count() - before; n != 0 {
		t.Errorf("the upstream got %d refused requests, want 0", n)
	}
}

// P17.
func TestEncodedSlashIsPartOfASegmentWhereTheBuilderSaysSo(t *testing.T) {
	backend := new(recorder)
	var id, path string
	look := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, path = r.PathValue("id"), r.URL.Path
			if v := r.Header.Get("Api-Set"); v != "" {
				r.SetPathValue("id", v)
			}
			next.ServeHTTP(w, r)
		})
	}
	use := []func(http.Handler) http.Handler{look}
	s := serve(t, buildWith(t, gateway.Builder{AllowEncodedSlash: true}, gateway.Upstream{Targets: []string{serve(t, backend).URL + "/base%20x"}},
		gateway.Route{Pattern: "/files/{id}", Use: use},
		gateway.Route{Pattern: "/renamed/{id}", Rewrite: "/new%20name/{id}/x", Use: use},
		gateway.Route{Pattern: "/strip/{rest...}", Rewrite: "/{rest...}"},
		gateway.Route{Pattern: "/moved/{id}", Redirect: gateway.Redirect{To: "/{id}"}},
		gateway.Route{Pattern: "/admin/{rest...}", Handler: http.NotFoundHandler()},
		gateway.Route{Pattern: "/", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })}))
	for sent, want := range map[string]string{
		"/files/a%2Fb":          "/base%20x/files/a%2Fb",
		"/files/a%2fb":          "/base%20x/files/a%2Fb",
		"/files/%2F":            "/base%20x/files/%2F",
		"/files/a%2Fb%20c":      "/base%20x/files/a%2Fb%20c",
		"/files/http%3A%2F%2Fx": "/base%20x/files/http%3A%2F%2Fx",
		"/files/100%25":         "/base%20x/files/100%25",
		"/renamed/a%2Fb":        "/base%20x/new%20name/a%2Fb/x",
		"/renamed/a":            "/base%20x/new%20name/a/x",
		"/strip/a%2Fb/c":        "/base%20x/a%2Fb/c",
		"/strip/a/b%2Fc/":       "/base%20x/a/b%2Fc/",
		"/strip/":               "/base%20x/",
	} {
		resp, body := exchange(t, s, "GET "+sent+" HTTP/1.1", "Host: svc")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s = %d %s, want 200", sent, resp.StatusCode, body)
			continue
		}
		if got, _ := backend.last(t); got.RequestURI != want {
			t.Errorf("%s: upstream sees %s, want %s", sent, got.RequestURI, want)
		}
	}
	exchange(t, s, "GET /files/a%2Fb HTTP/1.1", "Host: svc")
	if id != "a/b" || path != "/files/a/b" {
		t.Errorf("Use sees id %q and path %q, want a/b and /files/a/b", id, path)
	}
	for sent, want := range map[string]int{
		"/files/..%2Fx": 400, "/files/a%2F..": 400, "/files/%2e%2e%2Fx": 400, "/x%2f..%2fadmin/y": 400, "/files/a%252Fb": 400,
		"/files/a%5Cb": 400, "/files/.%2F": 400, "/admin%2Fx": 418, "/admin/x": 404,
	} {
		if resp, _ := exchange(t, s, "GET "+sent+" HTTP/1.1", "Host: svc"); resp.StatusCode != want {
			t.Errorf("%s = %d, want %d", sent, resp.StatusCode, want)
		}
	}
	// A redirect cannot be made to lead to another host.
	resp, _ := exchange(t, s, "GET /moved/%2Fevil.example HTTP/1.1", "Host: svc")
	if got := resp.Header.Get("Location"); got != "/%2Fevil.example" {
		t.Errorf("Location = %q, want /%%2Fevil.example", got)
	}
	// What Use puts in place of a value is one segment still.
	exchange(t, s, "GET /renamed/a HTTP/1.1", "Host: svc", "Api-Set: c/d")
	if got, _ := backend.last(t); got.RequestURI != "/base%20x/new%20name/c%2Fd/x" {
		t.Errorf("upstream sees %s, want /base%%20x/new%%20name/c%%2Fd/x", got.RequestURI)
	}
	if resp, _ := exchange(t, s, "GET /renamed/a HTTP/1.1", "Host: svc", "Api-Set: ../d"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a value of Use with dots = %d, want 400", resp.StatusCode)
	}
}

func TestPathThatUseMakesUpIsRewrittenByWhatItStillMatches(t *testing.T) {
	backend := new(recorder)
	shorten := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path, r.URL.RawPath = "/", ""
			next.ServeHTTP(w, r)
		})
	}
	s := serve(t, buildWith(t, gateway.Builder{AllowEncodedSlash: true}, gateway.Upstream{Targets: []string{serve(t, backend).URL}},
		gateway.Route{Pattern: "/a/{b}/{rest...}", Rewrite: "/{b}/{rest...}", Use: []func(http.Handler) http.Handler{shorten}}))
	exchange(t, s, "GET /a/x/y/z HTTP/1.1", "Host: svc")
	if got, _ := backend.last(t); got.RequestURI != "/x/y/z" {
		t.Errorf("upstream sees %s, want /x/y/z", got.RequestURI)
	}
}

// P19.
func TestQueryPassesRawWhereTheBuilderSaysSo(t *testing.T) {
	backend := new(recorder)
	s := serve(t, buildWith(t, gateway.Builder{RawQuery: true}, gateway.Upstream{Targets: []string{serve(t, backend).URL}}, everything))
	for _, query := range []string{"a=1;b=2&c=3", "a=%zz", "%", "a=caf\xe9", "a=1&b=2"} {
		resp, body := exchange(t, s, "GET /x?"+query+" HTTP/1.1", "Host: svc")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("?%s = %d %s, want 200", query, resp.StatusCode, body)
			continue
		}
		if got, _ := backend.last(t); got.RequestURI != "/x?"+query {
			t.Errorf("upstream sees %s, want the query %s as it was sent", got.RequestURI, query)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/x", http.NoBody)
	r.URL.RawQuery = "a=1\r\nX: 1"
	buildWith(t, gateway.Builder{RawQuery: true}, gateway.Upstream{Targets: []string{"http://127.0.0.1:1"}}, everything).ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest {
		t.Errorf("a query with a line break = %d, want 400", w.Code)
	}
}

// strings255 is the longest name that a host can have.
var strings255 = strings.Repeat("abcd.", 50) + "abcde"

// P7.
func TestHostThatIsNoNameAndNoAddressIsAnsweredBy400(t *testing.T) {
	gw := build(t, gateway.Upstream{Targets: []string{"http://127.0.0.1:1"}},
		gateway.Route{Pattern: "/", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	for host, want := range map[string]int{
		"a": 200, "a.example": 200, "a.example.": 200, "a.example:": 200, "a.example:65535": 200, "127.0.0.1:80": 200, "[::1]": 200,
		"[2001:db8::1]:443": 200, "a_b.example": 200, "-": 200, strings255: 200,
		"": 400, ".": 400, "a..b": 400, ".a": 400, "a:b": 400, "a:80:80": 400, "::1": 400, "[::1": 400, "::1]": 400, "[]": 400, "[a]": 400,
		"[::1]x": 400, "[127.0.0.1]": 400, "[fe80::1%25eth0]": 400, "a%2eb": 400, "*.a": 400, "a,b": 400, "a b": 400, "a/b": 400,
		"a@b": 400, "caf\xc3\xa9": 400, "a:123456": 400, strings255 + "a": 400, "a\x00": 400, ":80": 400,
	} {
		if w := ask(gw, http.MethodGet, host, "/"); w.Code != want {
			t.Errorf("host %q = %d, want %d", host, w.Code, want)
		}
	}
	// A client of HTTP/1.0 need not name any.
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Host, r.ProtoMajor, r.ProtoMinor = "", 1, 0
	w := httptest.NewRecorder()
	if gw.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Errorf("no host over HTTP/1.0 = %d, want 200", w.Code)
	}
}

func TestBuilderNamesWhatIsWrongWithItsOwnSettings(t *testing.T) {
	b := gateway.Builder{TrustedProxies: make([]netip.Prefix, 1), IdentityHeaders: []string{"X User"}}
	b2 := gateway.Builder{IdentityHeaders: []string{"*"}}
	b3 := gateway.Builder{IdentityHeaders: []string{"X-*-Y"}}
	for _, c := range []struct {
		b    gateway.Builder
		want string
	}{
		{b, "TrustedProxies: the prefix at 0 is the zero one"},
		{b, `IdentityHeaders: "X User" is neither`},
		{b2, `IdentityHeaders: "*" is neither`},
		{b3, `IdentityHeaders: "X-*-Y" is neither`},
	} {
		if _, err := c.b.Build(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Build() = %v, want %q", err, c.want)
		}
	}
}
