package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// P15, P16, P20.
func TestAmbiguousPathsAreAnsweredBy400(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{}, gateway.Route{Pattern: "/"}, gateway.Route{Pattern: "GET /admin/{rest...}"})
	for name, path := range map[string]string{
		"dot segments":                        "/x/../admin/y",
		"a dot segment at the end":            "/x/..",
		"a single dot":                        "/x/./y",
		"encoded dot segments":                "/x/%2e%2e/admin/y",
		"half encoded dot segments":           "/x/.%2E/admin/y",
		"an encoded dot in a name":            "/x/a%2eb",
		"encoded slashes":                     "/x%2f..%2fadmin/y",
		"an encoded slash alone":              "/admin%2Fx",
		"path parameters":                     "/admin;a=1/x",
		"encoded path parameters":             "/admin%3Ba=1/x",
		"dot segments with parameters":        "/x/..;/admin",
		"an empty segment":                    "//admin/x",
		"an empty segment inside":             "/admin//x",
		"two slashes at the end":              "/admin/x//",
		"a NUL":                               "/x%00",
		"a line break":                        "/x%0d%0aFAKE",
		"a delete character":                  "/x%7f",
		"a backslash":                         `/x\..\admin`,
		"an encoded backslash":                "/x%5c..%5cadmin",
		"a fragment":                          "/x#y",
		"bytes that are not ASCII":            "/caf\xc3\xa9",
		"escapes that are not UTF-8":          "/%ff",
		"an overlong encoding of a slash":     "/x%c0%afadmin",
		"dots encoded twice":                  "/x/%252e%252e/admin",
		"a slash encoded twice":               "/x%252fadmin",
		"a slash encoded twice in part":       "/x%25%32%66admin",
		"a broken escape":                     "/x%2",
		"an escape of letters":                "/x%zz",
		"braces that no path has":             "/{x}",
		"an absolute form with dot segments":  "http://svc/x/../admin",
		"an asterisk":                         "*",
		"an authority in place of a path":     "//evil.example/x",
		"an absolute form with encoded slash": "http://svc/x%2fy",
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := exchange(t, s, "POST "+path+" HTTP/1.1", "Host: svc", "Content-Length: 0")
			// What net/http cannot parse at all it refuses itself.
			if resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s = %d %s, want 400", path, resp.StatusCode, body)
			}
			if l := resp.Header.Get("Location"); l != "" {
				t.Errorf("%s redirects to %s", path, l)
			}
		})
	}
	if n := backend.count(); n != 0 {
		t.Errorf("the upstream got %d of the requests, want 0", n)
	}
}

func TestRoutesUseAndUpstreamSeeOnePath(t *testing.T) {
	for name, c := range map[string]struct{ sent, route, want string }{
		"plain":                            {"/admin/x", "/admin/{rest...}", "/admin/x"},
		"encoded letters":                  {"/%61dmin/x", "/admin/{rest...}", "/admin/x"},
		"small escapes":                    {"/a%c3%a9/b%2b", "/", "/a%C3%A9/b%2B"},
		"a slash at the end":               {"/admin/", "/admin/{rest...}", "/admin/"},
		"no slash, though one has a route": {"/admin", "/", "/admin"},
		"delimiters that paths allow":      {"/a:b@c(d)!$&'*+,=", "/", "/a:b@c(d)!$&'*+,="},
		"an encoded question mark":         {"/a%3fb", "/", "/a%3Fb"},
		"an encoded hash":                  {"/a%23b", "/", "/a%23b"},
		"a percent sign":                   {"/100%25", "/", "/100%25"},
		"three dots":                       {"/.../x", "/", "/.../x"},
		"dots in a name":                   {"/.well-known/a..b", "/", "/.well-known/a..b"},
		"the root":                         {"/", "/", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			backend := new(recorder)
			var seen, pattern string
			use := []func(http.Handler) http.Handler{func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					seen, pattern = r.URL.EscapedPath(), r.Pattern
					next.ServeHTTP(w, r)
				})
			}}
			s := front(t, backend, gateway.Upstream{},
				gateway.Route{Pattern: "/", Use: use}, gateway.Route{Pattern: "/admin/{rest...}", Use: use})
			resp, body := exchange(t, s, "GET "+c.sent+" HTTP/1.1", "Host: svc")
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("status = %d %s, want 200", resp.StatusCode, body)
			}
			got, _ := backend.last(t)
			if got.RequestURI != c.want || seen != c.want {
				t.Errorf("%s: upstream sees %s, Use sees %s, want %s", c.sent, got.RequestURI, seen, c.want)
			}
			if pattern != c.route {
				t.Errorf("%s: route %s, want %s", c.sent, pattern, c.route)
			}
		})
	}
}

// P19.
func TestAmbiguousQueriesAreAnsweredBy400(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	for query, want := range map[string]int{
		"a=1;b=2&c=3":  400,
		"a=%zz":        400,
		"a=%2":         400,
		"a=%":          400,
		"a=caf\xe9":    400,
		"a=1#b":        400,
		"a=1&b=2":      200,
		"a=%3B%00%ff":  200,
		"a[]=1&b={\"}": 200,
		"":             200,
		"a&&=&b==":     200,
	} {
		resp, body := exchange(t, s, "GET /x?"+query+" HTTP/1.1", "Host: svc")
		if resp.StatusCode != want {
			t.Errorf("?%s = %d %s, want %d", query, resp.StatusCode, body, want)
		}
		if want != http.StatusOK {
			continue
		}
		if got, _ := backend.last(t); got.RequestURI != "/x?"+query {
			t.Errorf("upstream sees %s, want the query %s as it was sent", got.RequestURI, query)
		}
	}
}

func TestPathAndQueryOfMoreThan8KiBAreAnsweredBy414(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{})
	for target, want := range map[string]int{
		"/" + strings.Repeat("a", 8<<10-1):  200,
		"/" + strings.Repeat("a", 8<<10):    414,
		"/?" + strings.Repeat("a=&", 10001): 414,
	} {
		if resp, _ := exchange(t, s, "GET "+target+" HTTP/1.1", "Host: svc"); resp.StatusCode != want {
			t.Errorf("target of %d bytes = %d, want %d", len(target), resp.StatusCode, want)
		}
	}
}

// P17, P18.
func TestRewriteStripsReplacesAndIsCheckedAgain(t *testing.T) {
	backend := new(recorder)
	dots := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.SetPathValue("rest", "../secret")
			next.ServeHTTP(w, r)
		})
	}
	s := front(t, backend, gateway.Upstream{},
		gateway.Route{Pattern: "/api/{rest...}", Rewrite: "/{rest...}"},
		gateway.Route{Pattern: "/v1/orders/{id}", Rewrite: "/orders/{id}"},
		gateway.Route{Pattern: "/v1/{a}/to/{b}", Rewrite: "/to/{b}/from/{a}/"},
		gateway.Route{Pattern: "/home/{$}", Rewrite: "/start/{$}"},
		gateway.Route{Pattern: "/old/{rest...}", Rewrite: "/new%20home/{rest...}"},
		gateway.Route{Pattern: "/dots/{rest...}", Rewrite: "/{rest...}", Use: []func(http.Handler) http.Handler{dots}})
	for sent, want := range map[string]string{
		"/api/":                "/",
		"/api/x/y?q=1":         "/x/y?q=1",
		"/api/x/":              "/x/",
		"/api/caf%C3%A9%20x":   "/caf%C3%A9%20x",
		"/v1/orders/100%25":    "/orders/100%25",
		"/v1/rome/to/paris":    "/to/paris/from/rome/",
		"/v1/what%3F/to/a%23b": "/to/a%23b/from/what%3F/",
		"/old/x":               "/new%20home/x",
		"/home/":               "/start/",
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
	before := backend.count()
	for sent, want := range map[string]int{"/api../x": 404, "/api/../x": 400, "/api": 404, "/dots/x": 400} {
		if resp, _ := exchange(t, s, "GET "+sent+" HTTP/1.1", "Host: svc"); resp.StatusCode != want {
			t.Errorf("%s = %d, want %d", sent, resp.StatusCode, want)
		}
	}
	if n := backend.count() - before; n != 0 {
		t.Errorf("the upstream got %d refused requests, want 0", n)
	}
}

func TestPathOfATargetIsPutBeforeThatOfTheRequest(t *testing.T) {
	backend := new(recorder)
	at := serve(t, backend).URL
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at + "/base%20x/"}}, everything))
	for sent, want := range map[string]string{"/": "/base%20x/", "/a%2Bb": "/base%20x/a%2Bb", "/a?b": "/base%20x/a?b"} {
		exchange(t, s, "GET "+sent+" HTTP/1.1", "Host: svc")
		if got, _ := backend.last(t); got.RequestURI != want {
			t.Errorf("%s: upstream sees %s, want %s", sent, got.RequestURI, want)
		}
	}
}
