package gateway_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

var handshake = []string{
	"GET /ws HTTP/1.1", "Host: svc", "Connection: Upgrade", "Upgrade: websocket",
	"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

// echo is an upstream that switches to WebSocket, as far as a proxy can tell, and
// sends back what it gets.
func echo(t *testing.T) string {
	return rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Hop\r\nUpgrade: websocket\r\n"+
			"X-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: Basic\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		_, _ = io.Copy(c, r)
		_ = c.(*net.TCPConn).CloseWrite()
	})
}

// wantEcho sends a line through the tunnel and expects it back.
func wantEcho(t *testing.T, c *rawConn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.r.ReadString('\n'); got != line+"\n" {
		t.Fatalf("tunnel = %q, %v, want %q back", got, err, line)
	}
}

// P11, P13, P14.
func TestWebSocketPassesThroughLoggingRetryAndMiddleware(t *testing.T) {
	lines := new(lineBuffer)
	gw := withLog(t, lines, gateway.Upstream{Targets: []string{echo(t)}, Retry: &retry.Policy{AttemptTimeout: time.Minute}, Breaker: trippy()},
		gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{wrapWriter}})
	s := serve(t, gw)
	c := dial(t, s)
	c.send(t, handshake...)
	resp, _ := c.response(t)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("response = %s %v, want 101 to websocket", resp.Status, resp.Header)
	}
	for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate"} {
		if resp.Header.Get(name) != "" {
			t.Errorf("client sees %s, want it removed from the 101", name)
		}
	}
	for _, name := range []string{"Sec-Websocket-Accept", "X-Request-Id"} {
		if resp.Header.Get(name) == "" {
			t.Errorf("client does not see %s in the 101", name)
		}
	}
	wantEcho(t, c, "hello")
	// The end of what one side has to say reaches the other, and its end comes back.
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		t.Errorf("after CloseWrite: %q, %v, want a clean end", rest, err)
	}
	line := lines.wait(t, 1)[0]
	if line["status"] != 101.0 || line["bytes"] != 6.0 || line["aborted"] != nil {
		t.Errorf("log line %v, want status 101 and 6 bytes", line)
	}
}

// wrapWriter is middleware that hides all but Unwrap of the ResponseWriter.
func wrapWriter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(wrappedWriter{w}, r)
	})
}

type wrappedWriter struct{ w http.ResponseWriter }

func (w wrappedWriter) Header() http.Header         { return w.w.Header() }
func (w wrappedWriter) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w wrappedWriter) WriteHeader(status int)      { w.w.WriteHeader(status) }
func (w wrappedWriter) Unwrap() http.ResponseWriter { return w.w }

// P11.
func TestBytesSentRightBehindAnUpgradeRequestReachTheUpstream(t *testing.T) {
	s := serve(t, build(t, gateway.Upstream{Targets: []string{echo(t)}}, everything))
	c := dial(t, s)
	if _, err := io.WriteString(c, strings.Join(handshake, "\r\n")+"\r\n\r\nearly\n"); err != nil {
		t.Fatal(err)
	}
	if resp, _ := c.response(t); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status = %d, want 101", resp.StatusCode)
	}
	if got, err := c.r.ReadString('\n'); got != "early\n" {
		t.Fatalf("tunnel = %q, %v, want early back", got, err)
	}
	wantEcho(t, c, "late")
}

// P11.
func TestBytesSentRightBehindA101ReachTheClient(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly\n")
		_, _ = io.Copy(c, r)
	})
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
	c := dial(t, s)
	c.send(t, handshake...)
	if resp, _ := c.response(t); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status = %d, want 101", resp.StatusCode)
	}
	if got, err := c.r.ReadString('\n'); got != "early\n" {
		t.Fatalf("tunnel = %q, %v, want early", got, err)
	}
	wantEcho(t, c, "late")
}

// P10.
func TestUpgradeToAnythingButWebSocketIsServedAsAPlainRequest(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{})
	for name, lines := range map[string][]string{
		"h2c":                      {"GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"},
		"h2c not nominated":        {"GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMA"},
		"another protocol":         {"GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: foo"},
		"websocket or h2c":         {"GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket, h2c"},
		"websocket and h2c":        {"GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"},
		"websocket by POST":        {"POST / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"},
		"websocket with a body":    {"GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked", "", "0"},
		"websocket, not nominated": {"GET / HTTP/1.1", "Upgrade: websocket"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := exchange(t, s, append(lines[:1:1], append([]string{"Host: svc"}, lines[1:]...)...)...)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("status = %d %s, want 200", resp.StatusCode, body)
			}
			got, _ := backend.last(t)
			for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
				if v := got.Header.Get(name); v != "" {
					t.Errorf("upstream sees %s: %s, want it removed", name, v)
				}
			}
		})
	}
}

// P11.
func TestUpstreamThatSwitchesToAnotherProtocolIsAnsweredForBy502AndClosed(t *testing.T) {
	for name, c := range map[string]struct {
		request []string
		upgrade string
	}{
		"another protocol": {handshake, "h2c"},
		"no protocol":      {handshake, ""},
		"nobody asked":     {[]string{"GET / HTTP/1.1", "Host: svc"}, "websocket"},
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan error, 1)
			at := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+c.upgrade+"\r\n\r\n")
				_, err := r.ReadByte()
				closed <- err
			})
			s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
			resp, body := exchange(t, s, c.request...)
			wantProblem(t, resp, body, http.StatusBadGateway)
			if err := <-closed; !errors.Is(err, io.EOF) {
				t.Errorf("upstream reads %v, want its connection closed", err)
			}
		})
	}
}

// P14.
func TestUpstreamOfATunnelIsClosedWhenTheClientIsGone(t *testing.T) {
	gone := make(chan struct{})
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
		close(gone)
	})
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
	c := dial(t, s)
	c.send(t, handshake...)
	if resp, _ := c.response(t); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status = %d, want 101", resp.StatusCode)
	}
	c.Close()
	<-gone
}

func TestWriterOfARouteCanFlushAndSetDeadlines(t *testing.T) {
	var flusher bool
	var deadline, flushed error
	use := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			f, ok := w.(http.Flusher)
			flusher = ok
			f.Flush()
			deadline = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute))
			flushed = http.NewResponseController(w).Flush()
		})
	}
	s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{use}})
	if resp, _ := get(t, s.URL); resp.StatusCode != http.StatusOK {
		t.Errorf("status = %d, want 200", resp.StatusCode)
	}
	if !flusher || deadline != nil || flushed != nil {
		t.Errorf("Flusher = %v, SetWriteDeadline() = %v, Flush() = %v, want true and no errors", flusher, deadline, flushed)
	}
}

func TestUpgradeOnAWriterThatCannotIsAnsweredBy502(t *testing.T) {
	gw := build(t, gateway.Upstream{Targets: []string{echo(t)}}, everything)
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	if w.Code != http.StatusBadGateway {
		t.Errorf("status = %d, want 502", w.Code)
	}
}

func TestTunnelThatWrapHasMadeUnwritableIs502(t *testing.T) {
	wrap := func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusSwitchingProtocols, Header: http.Header{"Upgrade": {"websocket"}}, Body: http.NoBody, Request: r}, nil
		})
	}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: wrap}, everything))
	resp, body := exchange(t, s, handshake...)
	wantProblem(t, resp, body, http.StatusBadGateway)
}
