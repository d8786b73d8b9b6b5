package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/gateway"
)

// P1.
func TestHopByHopAndNominatedFieldsDoNotReachTheUpstream(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	exchange(t, s, "GET / HTTP/1.1", "Host: svc",
		"Connection:", "Connection: X-Secret , x-other", "X-Secret: 1", "X-Other: 1",
		"Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eDp5", "Proxy-Authenticate: Basic",
		"TE: gzip", "Trailer: X-T", "Upgrade: foo", "X-Kept: 1")
	got, _ := backend.last(t)
	for _, name := range []string{
		"Connection", "X-Secret", "X-Other", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate",
		"Te", "Trailer", "Upgrade",
	} {
		if v, ok := got.Header[name]; ok {
			t.Errorf("upstream sees %s: %q, want it removed", name, v)
		}
	}
	if got.Header.Get("X-Kept") != "1" {
		t.Error("upstream does not see X-Kept, want 1")
	}
}

// P2.
func TestWhatTheGatewayOrUseSetsCannotBeNominatedAway(t *testing.T) {
	backend := new(recorder)
	auth := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-User-Id", "alice")
			next.ServeHTTP(w, r)
		})
	}
	s := front(t, backend, gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{auth}})
	exchange(t, s, "GET / HTTP/1.1", "Host: svc", "X-User-Id: mallory",
		"Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Request-Id, X-User-Id, close")
	got, _ := backend.last(t)
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "svc", "X-Forwarded-Proto": "http", "X-User-Id": "alice",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	if got.Header.Get("X-Request-Id") == "" {
		t.Error("X-Request-Id is missing")
	}
}

// P1, P10: Use is trusted with what it says, not with the connection.
func TestHopByHopFieldsThatUseSetsDoNotReachTheUpstream(t *testing.T) {
	backend := new(recorder)
	use := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header["Connection"] = []string{"Upgrade, X-Nominated", "close"}
			r.Header["Upgrade"] = []string{"h2c"}
			r.Header["X-Nominated"] = []string{"1"}
			r.Header["Te"] = []string{"gzip, trailers"}
			r.Header["X-Kept"] = []string{"1"}
			next.ServeHTTP(w, r)
			if r.Header.Get("X-Kept") != "1" || r.Header.Get("Upgrade") != "h2c" || r.Header.Get("X-Request-Timeout") != "" {
				t.Errorf("Use sees %v afterwards, want what it has set", r.Header)
			}
		})
	}
	s := front(t, backend, gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{use}})
	exchange(t, s, "GET / HTTP/1.1", "Host: svc")
	got, _ := backend.last(t)
	for _, name := range []string{"Connection", "Upgrade", "X-Nominated"} {
		if v := got.Header[name]; v != nil {
			t.Errorf("upstream sees %s: %q, want it removed", name, v)
		}
	}
	if got.Header.Get("Te") != "trailers" || got.Header.Get("X-Kept") != "1" {
		t.Errorf("upstream sees %v, want Te: trailers and X-Kept: 1", got.Header)
	}
}

// P3, P6.
func TestForwardedFieldsOfTheClientAreReplaced(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	exchange(t, s, "GET / HTTP/1.1", "Host: svc",
		"X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "X-Forwarded-Port: 1",
		"X-Forwarded-Prefix: /evil", "X-Forwarded-Server: evil", "X-Forwarded-Tls-Client-Cert: evil", "X-Forwarded: for=6.6.6.6",
		"Forwarded: for=6.6.6.6", "X-Real-Ip: 6.6.6.6")
	got, _ := backend.last(t)
	want := http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"svc"}, "X-Forwarded-Proto": {"http"}}
	seen := make(http.Header)
	for name, values := range got.Header {
		if strings.Contains(name, "Forwarded") || name == "X-Real-Ip" {
			seen[name] = values
		}
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("forwarded fields (-want +got):\n%s", diff)
	}
}

// P5.
func TestNamesThatOtherServersReadAsAnotherAreDropped(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	names := []string{"X_Forwarded_For", "X_Real-Ip", "x_user", "X.User", "X.Forwarded.For", "X!Real!Ip", "X~Auth~Token", "Remote.User", "X-User|Id", "X-Kept"}
	lines := []string{"GET / HTTP/1.1", "Host: svc"}
	for _, name := range names {
		lines = append(lines, name+": root")
	}
	exchange(t, s, lines...)
	got, _ := backend.last(t)
	for name, values := range got.Header {
		if values[0] == "root" && name != "X-Kept" {
			t.Errorf("upstream sees %s, want it dropped", name)
		}
	}
	if got.Header.Get("X-Kept") == "" {
		t.Error("upstream does not see X-Kept")
	}
}

// P8.
func TestHopByHopFieldsOfTheUpstreamDoNotReachTheClient(t *testing.T) {
	backend := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Connection", "X-B")
		h.Set("X-B", "1")
		h.Set("Keep-Alive", "timeout=1")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Alt-Svc", `h3=":443"`)
		h.Set("X-Request-Id", "of-the-upstream")
		h.Set("X-Kept", "1")
	}}
	s := serve(t, buildWith(t, gateway.Builder{TrustedProxies: loopback}, gateway.Upstream{Targets: []string{serve(t, backend).URL}}, everything))
	resp, _ := exchange(t, s, "GET / HTTP/1.1", "Host: svc", "X-Request-Id: of-the-client")
	for _, name := range []string{"Connection", "X-B", "Keep-Alive", "Proxy-Authenticate", "Alt-Svc"} {
		if v := resp.Header.Values(name); len(v) > 0 {
			t.Errorf("client sees %s: %q, want it removed", name, v)
		}
	}
	if got := resp.Header.Values("X-Request-Id"); !cmp.Equal(got, []string{"of-the-client"}) {
		t.Errorf("X-Request-Id = %q, want the request's alone", got)
	}
	if resp.Header.Get("X-Kept") != "1" {
		t.Error("client does not see X-Kept, want 1")
	}
}

// P9.
func TestHeaderOfTheInboundRequestStaysUnchanged(t *testing.T) {
	backend := serve(t, new(recorder))
	add := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Add("X-Kept", "2")
			r.Header.Set("X-New", "1")
			next.ServeHTTP(w, r)
		})
	}
	gw := build(t, gateway.Upstream{Targets: []string{backend.URL}}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{add}})
	r := httptest.NewRequest(http.MethodGet, "/%61", http.NoBody)
	r.Header = http.Header{"X-Kept": {"1"}, "Connection": {"X-Gone"}, "X-Gone": {"1"}, "Upgrade": {"h2c"}}
	before, target := r.Header.Clone(), r.URL.String()
	gw.ServeHTTP(httptest.NewRecorder(), r)
	if diff := cmp.Diff(before, r.Header); diff != "" {
		t.Errorf("header (-before +after):\n%s", diff)
	}
	if r.URL.String() != target {
		t.Errorf("URL = %s, want %s", r.URL, target)
	}
}

func TestRequestIDOfATrustedProxyIsTakenOverWhereSafeAndMintedElsewhere(t *testing.T) {
	backend := new(recorder)
	s := serve(t, buildWith(t, gateway.Builder{TrustedProxies: loopback}, gateway.Upstream{Targets: []string{serve(t, backend).URL}}, everything))
	for sent, kept := range map[string]bool{
		"abc-123_x.Y":           true,
		strings.Repeat("a", 64): true,
		strings.Repeat("a", 65): false,
		"":                      false,
		"a b":                   false,
		`a"b`:                   false,
		"a\xffb":                false,
		"<script>":              false,
	} {
		resp, _ := exchange(t, s, "GET / HTTP/1.1", "Host: svc", "X-Request-Id: "+sent)
		got, _ := backend.last(t)
		id := got.Header.Get("X-Request-Id")
		if (id == sent) != kept || id == "" {
			t.Errorf("X-Request-Id %q: upstream sees %q, want kept = %v", sent, id, kept)
		}
		if back := resp.Header.Get("X-Request-Id"); back != id {
			t.Errorf("X-Request-Id %q: client sees %q, upstream %q, want the same", sent, back, id)
		}
	}
	resp, _ := exchange(t, s, "GET / HTTP/1.1", "Host: svc", "X-Request-Id: a", "X-Request-Id: b")
	if got := resp.Header.Get("X-Request-Id"); len(got) != 36 {
		t.Errorf("two X-Request-Id: %q, want a new one", got)
	}
	resp, _ = exchange(t, s, "GET /.. HTTP/1.1", "Host: svc")
	if resp.Header.Get("X-Request-Id") == "" {
		t.Error("a refused request has no X-Request-Id")
	}
	strangers := front(t, backend, gateway.Upstream{})
	resp, _ = exchange(t, strangers, "GET / HTTP/1.1", "Host: svc", "X-Request-Id: abc")
	if got := resp.Header.Get("X-Request-Id"); len(got) != 36 {
		t.Errorf("X-Request-Id of a stranger: %q, want a new one", got)
	}
}

// P42.
func TestHeaderOfMoreThan128FieldsOr64KiBIsAnsweredBy431(t *testing.T) {
	backend := serve(t, new(recorder))
	gw := build(t, gateway.Upstream{Targets: []string{backend.URL}}, everything)
	for name, c := range map[string]struct {
		fields, size, want int
	}{
		"128 fields":                    {128, 1, 200},
		"129 fields":                    {129, 1, 431},
		"60,000 fields":                 {60_000, 1, 431},
		"one field of more than 64 KiB": {1, 64 << 10, 431},
		"together more than 64 KiB":     {100, 700, 431},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			for i := range c.fields {
				r.Header.Set(fmt.Sprintf("X-%d", i), strings.Repeat("v", c.size))
			}
			w := httptest.NewRecorder()
			gw.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("status = %d, want %d", w.Code, c.want)
			}
		})
	}
	// Over a socket the server refuses before it has read all of it.
	c := dial(t, serve(t, gw))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: svc\r\nX-A: "+strings.Repeat("a", 80<<10)+"\r\n\r\n")
	if resp, _ := c.response(t); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 80 KiB over a socket = %d, want 431", resp.StatusCode)
	}
}

// P23.
func TestRequestTrailersAreDropped(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	exchange(t, s, "POST / HTTP/1.1", "Host: svc", "Transfer-Encoding: chunked", "Trailer: X-User", "", "2", "hi", "0", "X-User: root")
	got, body := backend.last(t)
	if body != "hi" {
		t.Errorf("body = %q, want hi", body)
	}
	if got.Header.Get("X-User") != "" || len(got.Trailer) > 0 {
		t.Errorf("upstream sees X-User %q and trailer %v, want neither", got.Header.Get("X-User"), got.Trailer)
	}
}

// P22.
func TestFoldedFieldReachesTheUpstreamAsOneLine(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	exchange(t, s, "GET / HTTP/1.1", "Host: svc", "X-Folded: a", "\tb")
	got, _ := backend.last(t)
	if v := got.Header.Get("X-Folded"); strings.ContainsAny(v, "\r\n") || v == "" {
		t.Errorf("X-Folded = %q, want it on one line", v)
	}
}

func TestUnknownMethodOfAbsurdLengthIs501(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{})
	resp, body := exchange(t, s, strings.Repeat("M", 33)+" / HTTP/1.1", "Host: svc")
	wantProblem(t, resp, body, http.StatusNotImplemented)
}
