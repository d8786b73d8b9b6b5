package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/internal/services"
)

// A probe is a request as a stranger may send it, byte for byte, and an upstream's
// answer to it, and what they show of the proxy between the two.
type probe struct {
	name   string
	send   string
	answer string // default answer200
	show   func(o observed) string
	ours   string // what this gateway must show
}

// observed is what came out at both ends of a proxy.
type observed struct {
	upstream []string // the requests, byte for byte
	client   string   // all that the client got
}

const answer200 = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

// raw returns the bytes of a request without a body that asks for the
// connection's end, as all probes do.
func raw(lines ...string) string {
	return "GET / HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// probes are the rows of the table.
var probes = []probe{
	{"a header that Connection nominates", raw("Connection:", "Connection: X-Secret", "X-Secret: 1"), "", leaks("X-Secret:"), "dropped"},
	{"Proxy-Authorization", raw("Proxy-Authorization: Basic YTpi"), "", leaks("Proxy-Authorization:"), "dropped"},
	{"TE: gzip", raw("TE: gzip"), "", leaks("gzip"), "dropped"},
	{"forged X-Forwarded-Host", raw("X-Forwarded-Host: evil.example"), "", leaks("evil.example"), "dropped"},
	{"forged X-Forwarded-Proto", raw("X-Forwarded-Proto: evil"), "", leaks("evil"), "dropped"},
	{"forged X-Forwarded-Client-Cert", raw("X-Forwarded-Client-Cert: evil"), "", leaks("evil"), "dropped"},
	{"forged X-Real-Ip", raw("X-Real-Ip: 6.6.6.6"), "", leaks("6.6.6.6"), "dropped"},
	{"forged Forwarded", raw("Forwarded: for=6.6.6.6"), "", leaks("6.6.6.6"), "dropped"},
	{"forged X_Forwarded_For", raw("X_Forwarded_For: 6.6.6.6"), "", leaks("6.6.6.6"), "dropped"},
	{"Upgrade: h2c", raw("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"), "", leaks("h2c"), "dropped"},
	{"hop-by-hop fields of a 101", askUpgrade, answer101, hops("101"), "101, dropped"},
	{"hop-by-hop fields of a 103", raw(), answer103, hops("103"), "103, dropped"},
	{"Alt-Svc of the upstream", raw(), "HTTP/1.1 200 OK\r\nConnection: close\r\nAlt-Svc: h3=\":1\"\r\nContent-Length: 2\r\n\r\nok", returned("Alt-Svc:"), "dropped"},
	{"an answer without Content-Type", raw(), "", returned("Content-Type:"), "dropped"},
	{"?a=1;b=2", target("/?a=1;b=2"), "", arrives("?a=1;b=2"), "400"},
	{"/a/%2e%2e/b", target("/a/%2e%2e/b"), "", arrives("/a/%2e%2e/b"), "400"},
	{"/a%2Fb", target("/a%2Fb"), "", arrives("/a%2Fb"), "400"},
	{"//a", target("//a"), "", arrives("//a"), "400"},
	{"/a;x=1/b", target("/a;x=1/b"), "", arrives("/a;x=1/b"), "400"},
	{"two Host fields", raw("Host: other"), "", observed.status, "400"},
	{"Content-Length and chunked", "POST /1 HTTP/1.1\r\nHost: svc\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + target("/2"), "", observed.framing, "chunked, 2 requests"},
	{"bare LF behind a chunk's size", "POST / HTTP/1.1\r\nHost: svc\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", "", observed.status, "400"},
	{"a folded field", raw("X-Fold: a", " b"), "", observed.folding, "one line"},
	{"130 fields", raw(strings.Repeat("X-A: 1\r\n", 127) + "X-A: 1"), "", observed.status, "431"},
	{"trailers of a request", "POST / HTTP/1.1\r\nHost: svc\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-User\r\n\r\n5\r\nhello\r\n0\r\nX-User: root\r\n\r\n", "", leaks("root"), "dropped"},
	{"unannounced trailers of an answer", raw("TE: trailers"), "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", returned("X-Sum: 7"), "passed on"},
	{"413 instead of 100 Continue", "POST / HTTP/1.1\r\nHost: svc\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", observed.status, "413"},
	{"an answer that is cut off", raw(), "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", observed.ending, "cut off"},
}

const (
	askUpgrade = "GET / HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	answer101 = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Hop\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n"
	answer103 = "HTTP/1.1 103 Early Hints\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nLink: </a.css>\r\n\r\n" + answer200
)

func target(t string) string {
	return "GET " + t + " HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n\r\n"
}

// has is strings.Contains for text in which names of fields have any case.
func has(text, s string) bool { return strings.Contains(strings.ToLower(text), strings.ToLower(s)) }

// status shows the client's final status.
func (o observed) status() string {
	r := bufio.NewReader(strings.NewReader(o.client))
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return "no answer"
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return fmt.Sprint(resp.StatusCode)
		}
	}
}

// leaks shows whether the upstream saw s, or the status where it saw nothing.
func leaks(s string) func(observed) string {
	return func(o observed) string {
		switch {
		case len(o.upstream) == 0:
			return o.status()
		case has(o.upstream[0], s):
			return "passed on"
		}
		return "dropped"
	}
}

// returned shows whether the client saw s.
func returned(s string) func(observed) string {
	return func(o observed) string {
		if has(o.client, s) {
			return "passed on"
		}
		return "dropped"
	}
}

// hops shows what became of the hop-by-hop fields of an answer.
func hops(code string) func(observed) string {
	return func(o observed) string {
		kept, nominated := has(o.client, "Keep-Alive:"), has(o.client, "X-Hop:")
		shown := code + ", dropped"
		switch {
		case !strings.Contains(o.client, "HTTP/1.1 "+code):
			return o.status()
		case kept && nominated:
			shown = code + ", passed on"
		case kept || nominated:
			shown = code + ", some passed on"
		}
		if o.status() == "no answer" {
			shown += ", the rest lost"
		}
		return shown
	}
}

// arrives shows whether the upstream got the target as it was sent.
func arrives(t string) func(observed) string {
	return func(o observed) string {
		if len(o.upstream) == 0 {
			return o.status()
		}
		if got := strings.Fields(o.upstream[0])[1]; got != t && got != "/"+t {
			return got
		}
		return "as it is"
	}
}

// framing shows which of two framings counted.
func (o observed) framing() string {
	if len(o.upstream) == 0 {
		return o.status()
	}
	how := "length"
	if !has(o.upstream[0], "Content-Length: 4") {
		how = "chunked"
	}
	if len(o.upstream) == 1 {
		return how + ", 1 request"
	}
	return fmt.Sprintf("%s, %d requests", how, len(o.upstream))
}

func (o observed) folding() string {
	switch {
	case len(o.upstream) == 0:
		return o.status()
	case has(o.upstream[0], "\r\n b"):
		return "as it is"
	}
	return "one line"
}

// ending shows whether the client can tell that an answer is not whole.
func (o observed) ending() string {
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(o.client)), nil)
	if err != nil {
		return "no answer"
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		return "cut off"
	}
	return "whole"
}

// An upstream answers each connection's first request by what is set, and keeps
// what it got.
type upstream struct {
	url    string
	mu     sync.Mutex
	answer string   // guarded by mu
	got    []string // guarded by mu
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{answer: answer200}
	u.url = rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		var got bytes.Buffer
		req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(r, &got)))
		if err != nil {
			return // a connection in advance, or a body that the proxy gave up
		}
		if req.Header.Get("Expect") == "" {
			if _, err := io.ReadAll(req.Body); err != nil {
				return
			}
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.got = append(u.got, got.String())
		_, _ = io.WriteString(c, u.answer)
	})
	return u
}

// observe sends a probe to the proxy at addr, whose upstream is u, and waits for so
// long for the end of what comes back: some proxies do not end it.
func (u *upstream) observe(t *testing.T, addr string, p probe, wait time.Duration) observed {
	t.Helper()
	u.mu.Lock()
	u.answer, u.got = p.answer, nil
	if p.answer == "" {
		u.answer = answer200
	}
	u.mu.Unlock()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(c, p.send); err != nil {
		t.Fatal(err)
	}
	client, _ := io.ReadAll(c) // an answer that is cut off ends with an error, too
	u.mu.Lock()
	defer u.mu.Unlock()
	return observed{upstream: u.got, client: string(client)}
}

// peers starts those other proxies that are installed here.
func peers(t *testing.T) (names, addrs []string, behind []*upstream) {
	if !testing.Verbose() {
		return nil, nil, nil // nobody would see the columns
	}
	for _, peer := range []func(string) services.Service{services.Nginx, services.HAProxy, services.Caddy} {
		u := newUpstream(t)
		s := peer(strings.TrimPrefix(u.url, "http://"))
		if err := s.Installed(); err != nil {
			t.Logf("no column of %s: %v", s.Name, err)
			continue
		}
		n, err := s.Start(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Kill(); err != nil {
				t.Error(err)
			}
		})
		names, addrs, behind = append(names, s.Name), append(addrs, n.URL()), append(behind, u)
	}
	return names, addrs, behind
}

// Each row is a request, or an answer, that proxies have been found to treat in
// several ways. Ours is asserted; the others are there to compare with, in the
// table that go test -v prints.
func TestBehaviourTowardsWhatProxiesDisagreeOn(t *testing.T) {
	names, addrs, behind := peers(t)
	ours, theirs := newUpstream(t), newUpstream(t)
	to, err := url.Parse(theirs.url)
	if err != nil {
		t.Fatal(err)
	}
	plain := serve(t, &httputil.ReverseProxy{ErrorLog: quiet(), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.SetXForwarded()
	}})
	gw := serve(t, build(t, gateway.Upstream{Targets: []string{ours.url}}, everything))
	names = append([]string{"gateway", "ReverseProxy"}, names...)
	addrs = append([]string{gw.Listener.Addr().String(), plain.Listener.Addr().String()}, addrs...)
	behind = append([]*upstream{ours, theirs}, behind...)

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "probe\t"+strings.Join(names, "\t"))
	for _, p := range probes {
		line := p.name
		for i, addr := range addrs {
			wait := time.Second
			if behind[i] == ours {
				wait = 10 * time.Second
			}
			o := behind[i].observe(t, addr, p, wait)
			got := p.show(o)
			line += "\t" + got
			if behind[i] == ours && got != p.ours {
				t.Errorf("%s: the gateway shows %q, want %q; the upstream got %q, the client %q", p.name, got, p.ours, o.upstream, o.client)
			}
		}
		fmt.Fprintln(w, line)
	}
	_ = w.Flush()
	t.Logf("\n%s", &table)
}
