package gateway_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/gateway"
)

// build makes a gateway of one upstream "svc" and routes to it.
func build(t *testing.T, u gateway.Upstream, routes ...gateway.Route) *gateway.Gateway {
	t.Helper()
	return buildWith(t, gateway.Builder{}, u, routes...)
}

// loopback are the addresses that requests of tests come from.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// buildWith does the same for a builder with settings. Routes that say who
// answers keep it.
func buildWith(t *testing.T, b gateway.Builder, u gateway.Upstream, routes ...gateway.Route) *gateway.Gateway {
	t.Helper()
	b.Logger(slog.New(slog.NewTextHandler(t.Output(), nil)))
	u.Name = "svc"
	b.Upstream(&u)
	for _, r := range routes {
		if len(r.Split) == 0 && r.Handler == nil && r.Redirect.To == "" {
			r.Upstream = "svc"
		}
		b.Route(r)
	}
	gw, err := b.Build()
	if err != nil {
		t.Fatalf("Build() = %v, want nil", err)
	}
	t.Cleanup(gw.CloseIdleConnections)
	return gw
}

// everything is a route that matches all requests.
var everything = gateway.Route{Pattern: "/"}

// serve serves h on a loopback socket with the limits of a gateway's own server.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if gw, ok := h.(*gateway.Gateway); ok {
		s.Config = gw.Server("")
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// front puts a gateway before one backend and serves both.
func front(t *testing.T, backend http.Handler, u gateway.Upstream, routes ...gateway.Route) *httptest.Server {
	t.Helper()
	u.Targets = append(u.Targets, serve(t, backend).URL)
	if len(routes) == 0 {
		routes = []gateway.Route{everything}
	}
	return serve(t, build(t, u, routes...))
}

// recorder is a backend that remembers the requests it gets.
type recorder struct {
	mu     sync.Mutex
	got    []*http.Request
	bodies []string
	answer http.HandlerFunc
}

func (b *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.got = append(b.got, r)
	b.bodies = append(b.bodies, string(body))
	b.mu.Unlock()
	if b.answer != nil {
		b.answer(w, r)
	}
}

func (b *recorder) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

// last returns the last request, with its body as a string.
func (b *recorder) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.got) == 0 {
		t.Fatal("the upstream got no request")
	}
	return b.got[len(b.got)-1], b.bodies[len(b.bodies)-1]
}

// dial opens a raw connection to a server, which ends with the test.
func dial(t *testing.T, s *httptest.Server) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	// A bound for a test that hangs, not a measure of anything.
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &rawConn{c, bufio.NewReader(c)}
}

type rawConn struct {
	net.Conn
	r *bufio.Reader
}

// send writes lines, which it ends as HTTP does, and an empty one.
func (c *rawConn) send(t *testing.T, lines ...string) {
	t.Helper()
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// response reads one response, with its body.
func (c *rawConn) response(t *testing.T) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("no response: %v", err)
	}
	if resp.StatusCode < 200 {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body of %s: %v", resp.Status, err)
	}
	return resp, string(body)
}

// exchange sends one raw request on a connection of its own.
func exchange(t *testing.T, s *httptest.Server, lines ...string) (*http.Response, string) {
	t.Helper()
	c := dial(t, s)
	c.send(t, lines...)
	return c.response(t)
}

// get sends a plain request.
func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// wantProblem fails unless the response is a problem of that status.
func wantProblem(t *testing.T, resp *http.Response, body string, status int) {
	t.Helper()
	var p struct{ Status int }
	if resp.StatusCode != status {
		t.Fatalf("status = %d, want %d (%s)", resp.StatusCode, status, body)
	}
	if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != status {
		t.Errorf("body = %q, want a problem of status %d", body, status)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type = %q, want application/problem+json", got)
	}
}

// unreachable returns the URL of a port that nobody listens on.
func unreachable(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// rawBackend accepts connections and hands each to serve, on a goroutine.
func rawBackend(t *testing.T, serve func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				serve(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	gateway.Eventually(t, what, ok)
}

// quiet is an ErrorLog for a server that is expected to complain. It may do so when
// the test is over: closing a server does not wait for its connections.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
