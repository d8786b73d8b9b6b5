package gateway_test

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/gateway"
)

// sent is what an upstream gets.
type sent struct {
	Method, Path, Query, Body string
	Length                    int64
	Header, Trailer           http.Header
}

// capture is an upstream that remembers what it gets and answers by raw text.
type capture struct {
	answer string
	got    *sent
}

func (c *capture) RoundTrip(r *http.Request) (*http.Response, error) {
	s := sent{Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Length: r.ContentLength, Header: r.Header.Clone(), Trailer: r.Trailer}
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		s.Body = string(body)
	}
	c.got = &s
	return http.ReadResponse(bufio.NewReader(strings.NewReader(c.answer)), r)
}

// The policy, in words of its own.
var (
	methodsThatPass = regexp.MustCompile(`^[A-Z0-9_-]{1,32}$`)
	hostsThatPass   = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?(:[0-9]{0,5})?$`)
	pathsThatPass   = regexp.MustCompile(`^(/([A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)*/?$`)
	escapesThatHide = regexp.MustCompile(`(?i)%([01].|7f|2e|2f|5c|3b)`)
	dotSegments     = regexp.MustCompile(`(^|/)\.\.?(/|$)`)
	anyEscape       = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	queriesThatPass = regexp.MustCompile(`^([!"$&-:<-~]|%[0-9A-Fa-f]{2})*$`)
	fieldsThatStay  = regexp.MustCompile(`^[^_]+$`)
	fieldsThatGo    = regexp.MustCompile(`^(X-Forwarded.*|Forwarded|X-Real-Ip|True-Client-Ip|X-Client-Ip|X-Cluster-Client-Ip|Cf-Connecting-Ip|` +
		`X-Original-Url|X-Rewrite-Url|X-Http-Method-Override|X-Http-Method|X-Method-Override|Proxy|Http2-Settings|` +
		`Client-Cert.*|X-Client-Cert.*|X-Ssl-.*|Ssl-.*|X-User|X-User-.*|X-Auth-.*|X-Authenticated-.*|X-Remote-User|Remote-User|` +
		`X-Request-Id|X-Request-Timeout|Grpc-Timeout)$`)
)

func policyRefuses(r *http.Request) bool {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.EscapedPath()
	}
	decoded, err := url.PathUnescape(path)
	host := hostsThatPass.MatchString(r.Host)
	if inner, ok := strings.CutPrefix(r.Host, "["); ok {
		inner, port, _ := strings.Cut(inner, "]")
		addr, err := netip.ParseAddr(inner)
		host = err == nil && addr.Is6() && addr.Zone() == "" && regexp.MustCompile(`^(:[0-9]{0,5})?$`).MatchString(port) && strings.Contains(r.Host, "]")
	}
	if name, _, _ := strings.Cut(r.Host, ":"); len(name) > 255 {
		host = false
	}
	size, fields := 0, 0
	for name, values := range r.Header {
		fields += len(values)
		size += len(values)*len(name) + len(strings.Join(values, ""))
	}
	switch {
	case !methodsThatPass.MatchString(r.Method), r.Method == "CONNECT", r.Method == "TRACE":
	case !host && (r.Host != "" || r.ProtoAtLeast(1, 1)):
	case path == "", !pathsThatPass.MatchString(path), escapesThatHide.MatchString(path), err != nil, dotSegments.MatchString(path):
	case !utf8.ValidString(decoded), anyEscape.MatchString(decoded):
	case !queriesThatPass.MatchString(r.URL.RawQuery):
	case max(len(r.URL.Path), len(r.URL.RawPath))+len(r.URL.RawQuery) > 8<<10, size > 64<<10, fields > 128:
	default:
		return false
	}
	return true
}

// parse reads a request as a server does, or nothing that a server would.
func parse(raw string) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil || r.ProtoMajor != 1 || r.RequestURI == "*" {
		return nil
	}
	r.RemoteAddr = "192.0.2.1:1234"
	return r
}

// strip removes the fields of whose fate the policy decides.
func strip(h http.Header) http.Header {
	h = maps.Clone(h)
	maps.DeleteFunc(h, func(name string, _ []string) bool {
		return !fieldsThatStay.MatchString(name) || fieldsThatGo.MatchString(name)
	})
	return h
}

// Whatever a client sends and an upstream answers: the gateway does what
// httputil.ReverseProxy does, save for what its policy refuses or removes.
func FuzzGatewayForwardsAsReverseProxyDoesSaveForItsPolicy(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok"
	for _, c := range [][2]string{
		{"GET /a/b?c=d HTTP/1.1\r\nHost: svc\r\nX-A: 1\r\nAccept: */*\r\n\r\n", ok},
		{"POST /%61/b%20c HTTP/1.1\r\nHost: SVC:80\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"},
		{"PUT /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\nTrailer: X-U\r\n\r\n2\r\nhi\r\n0\r\nX-U: 1\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET / HTTP/1.1\r\nHost: svc\r\nConnection: X-A, close\r\nX-A: 1\r\nTE: trailers, gzip\r\nKeep-Alive: 5\r\nX_B: 1\r\nX-User-Id: root\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: X-B\r\nX-B: 1\r\nAlt-Svc: h3\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n"},
		{"GET /x/..%2fy HTTP/1.1\r\nHost: svc\r\n\r\n", ok},
		{"GET //x HTTP/1.1\r\nHost: svc\r\n\r\n", ok},
		{"GET /?a;b HTTP/1.1\r\nHost: svc\r\n\r\n", ok},
		{"HEAD http://other/x?%zz HTTP/1.1\r\nHost: svc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"},
		{"GET / HTTP/1.0\r\nForwarded: for=x\r\nX-Forwarded-For: 1.2.3.4\r\nUser-Agent: u\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n"},
		{"GET / HTTP/1.1\r\nHost: svc\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n"},
		{"GET /caf%c3%a9 HTTP/1.1\r\nHost: [::1]:8080\r\nX-Folded: a\r\n b\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Late: 1\r\n\r\n"},
		{"OPTIONS /x HTTP/1.1\r\nHost: a..b\r\n\r\n", ok},
		{"TRACE / HTTP/1.1\r\nHost: svc\r\n\r\n", ok},
	} {
		f.Add(c[0], c[1])
	}
	// Both bodies of one input are compared, so that neither side may keep state.
	ours, theirs := new(capture), new(capture)
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "svc", Targets: []string{"http://target"}, Wrap: func(http.RoundTripper) http.RoundTripper { return ours }})
	b.Route(gateway.Route{Pattern: "/", Upstream: "svc"})
	gw, err := b.Build()
	if err != nil {
		f.Fatal(err)
	}
	target, _ := url.Parse("http://target")
	rp := &httputil.ReverseProxy{
		Transport: theirs, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = target.Scheme, target.Host
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.SetXForwarded()
		},
	}
	f.Fuzz(func(t *testing.T, request, answer string) {
		r, twin := parse(request), parse(request)
		if r == nil {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), r)
		if err != nil || resp.StatusCode < 200 { // 1xx are tests of their own
			return
		}
		*ours, *theirs = capture{answer: answer}, capture{answer: answer}
		got, want := httptest.NewRecorder(), httptest.NewRecorder()
		gw.ServeHTTP(got, r)
		if refuses := policyRefuses(twin); refuses || got.Code == http.StatusRequestEntityTooLarge {
			if ours.got != nil || got.Code < 400 {
				t.Fatalf("%q = %d, forwarded: %v, want it refused", request, got.Code, ours.got != nil)
			}
			return
		}
		rp.ServeHTTP(want, twin)
		if (ours.got == nil) != (theirs.got == nil) {
			t.Fatalf("%q: forwarded by the gateway: %+v (%d), by ReverseProxy: %+v (%d)", request, ours.got, got.Code, theirs.got, want.Code)
		}
		if ours.got == nil { // the body is broken
			if got.Code < 400 {
				t.Fatalf("%q = %d, want a failure", request, got.Code)
			}
			return
		}
		compareRequests(t, ours.got, theirs.got)
		if ours.got.Header.Get("Te") != "" {
			want.Header().Del("Content-Length") // HTTP/1.1 has no trailers where there is a length
		}
		compareAnswers(t, got, want)
	})
}

func compareRequests(t *testing.T, ours, theirs *sent) {
	t.Helper()
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if !slices.Equal(ours.Header[name], theirs.Header[name]) && theirs.Header.Get(name) != "" {
			t.Fatalf("upstream sees %s %q, want %q", name, ours.Header[name], theirs.Header[name])
		}
	}
	for name := range ours.Header {
		if _, known := theirs.Header[name]; !known && name != "X-Request-Id" && name != "X-Request-Timeout" && name != "Grpc-Timeout" {
			t.Fatalf("upstream sees %s, which ReverseProxy does not send", name)
		}
	}
	if up := ours.Header["Upgrade"]; up != nil && !strings.EqualFold(up[0], "websocket") {
		t.Fatalf("upstream is asked to upgrade to %q", up)
	}
	a, b := *ours, *theirs
	for _, s := range []*sent{&a, &b} {
		s.Path, _ = url.PathUnescape(s.Path)
		s.Header = strip(s.Header)
		if s.Header["Upgrade"] != nil && ours.Header["Upgrade"] == nil || ours.Header["Upgrade"] != nil {
			delete(s.Header, "Upgrade")
			delete(s.Header, "Connection")
		}
		s.Trailer = nil // P23: dropped here, and there only sent where announced
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Fatalf("upstream's view (-ReverseProxy +gateway):\n%s", diff)
	}
}

func compareAnswers(t *testing.T, got, want *httptest.ResponseRecorder) {
	t.Helper()
	if want.Code > 599 {
		if got.Code != http.StatusBadGateway {
			t.Fatalf("status %d passes as %d, want 502", want.Code, got.Code)
		}
		return
	}
	if got.Code != want.Code || !bytes.Equal(got.Body.Bytes(), want.Body.Bytes()) {
		t.Fatalf("answer = %d %q, want %d %q", got.Code, got.Body, want.Code, want.Body)
	}
	a, b := got.Header(), want.Header()
	for _, h := range []http.Header{a, b} {
		for _, name := range []string{"X-Request-Id", "Alt-Svc"} {
			delete(h, name)
			delete(h, http.TrailerPrefix+name)
		}
		for _, name := range []string{"Content-Length", "Host", "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Upgrade", "Transfer-Encoding", "Trailer"} {
			delete(h, http.TrailerPrefix+name)
		}
	}
	delete(a, "Connection") // close, where the rest of a body is unread
	delete(b, "Connection")
	if diff := cmp.Diff(b, a); diff != "" {
		t.Fatalf("client's view (-ReverseProxy +gateway):\n%s", diff)
	}
}
