package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/gateway"
)

// P8, P24.
func TestTrailersThatConcernTheConnectionDoNotReachTheClient(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Kept, Alt-Svc\r\n\r\n2\r\nhi\r\n0\r\n"+
				"X-Kept: 1\r\nX-More: 2\r\nKeep-Alive: timeout=5\r\nAlt-Svc: h3\r\nProxy-Authenticate: Basic\r\nHost: evil\r\nX-Request-Id: other\r\n"+
				"Connection: X-Nominated\r\nX-Nominated: 1\r\n\r\n")
		}
	})
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
	for name, client := range map[string]*http.Client{"HTTP/1.1": http.DefaultClient, "HTTP/2": h2c(t)} {
		resp, err := client.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "hi" {
			t.Fatalf("%s: body = %q, %v, want hi", name, body, err)
		}
		if resp.Trailer.Get("X-Kept") != "1" || resp.Trailer.Get("X-More") != "2" {
			t.Errorf("%s: trailers = %v, want X-Kept and X-More", name, resp.Trailer)
		}
		for field := range resp.Trailer {
			if field != "X-Kept" && field != "X-More" {
				t.Errorf("%s: client sees the trailer %s, want it removed", name, field)
			}
		}
	}
}

// P25.
func TestRequestIDOfAnUpstreamIsNotInItsHints(t *testing.T) {
	at := hinting(t)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
	c := dial(t, s)
	c.send(t, "GET / HTTP/1.1", "Host: svc")
	early, _ := c.response(t)
	if early.StatusCode != http.StatusEarlyHints || early.Header.Get("Link") == "" || early.Header.Get("X-Request-Id") != "" {
		t.Errorf("first response = %s %v, want 103 with Link and without X-Request-Id", early.Status, early.Header)
	}
}

// hinting is an upstream that sends hints and then an answer.
func hinting(t *testing.T) string {
	return rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Request-Id: of-the-upstream\r\n\r\n"+
				"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
}

// P25: RFC 9110 §15.2.
func TestClientOfHTTP10GetsNoInformationalResponse(t *testing.T) {
	s := serve(t, build(t, gateway.Upstream{Targets: []string{hinting(t)}}, everything))
	resp, body := exchange(t, s, "GET / HTTP/1.0", "Host: svc")
	if resp.StatusCode != http.StatusOK || body != "ok" {
		t.Errorf("first response = %s %q, want 200 ok", resp.Status, body)
	}
}

// P10: RFC 9110 §7.8.
func TestClientOfHTTP10IsNotUpgraded(t *testing.T) {
	s := serve(t, build(t, gateway.Upstream{Targets: []string{echo(t)}}, everything))
	resp, body := exchange(t, s, append([]string{"GET /ws HTTP/1.0"}, handshake[1:]...)...)
	if resp.StatusCode != http.StatusOK || body != "plain" {
		t.Errorf("response = %s %q, want 200 plain", resp.Status, body)
	}
}

func TestTooLargeABodyOverHTTP2EndsNoOtherRequest(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "/", MaxBody: 4})
	client := h2c(t)
	var reused atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused.Store(i.Reused) }}
	for range 3 {
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, s.URL, strings.NewReader("too much"))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		wantProblem(t, resp, string(body), http.StatusRequestEntityTooLarge)
	}
	if !reused.Load() {
		t.Error("the connection was closed after a 413, want it to go on")
	}
}

func TestZeroGatewayHasNoRoutes(t *testing.T) {
	gw := new(gateway.Gateway)
	w := ask(gw, http.MethodGet, "svc", "/")
	wantProblem(t, w.Result(), w.Body.String(), http.StatusNotFound)
	gw.CloseIdleConnections()
}

func TestWrapThatBreaksItsContractIsAnsweredFor(t *testing.T) {
	for name, c := range map[string]struct {
		answer *http.Response
		want   int
	}{
		"no response and no error":           {nil, http.StatusBadGateway},
		"a response without body and header": {&http.Response{StatusCode: http.StatusOK}, http.StatusOK},
		"a response without all":             {&http.Response{}, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			gw := build(t, gateway.Upstream{Targets: []string{"http://in.memory"}, Sticky: &gateway.Sticky{Keys: stickyKeys}, Wrap: func(http.RoundTripper) http.RoundTripper {
				return tripper(func(*http.Request) (*http.Response, error) { return c.answer, nil })
			}}, everything)
			if w := ask(gw, http.MethodGet, "svc", "/"); w.Code != c.want {
				t.Errorf("status = %d, want %d", w.Code, c.want)
			}
		})
	}
}

// A transport may look at a request for a while after it has failed.
func TestFallbackHasAHeaderOfItsOwn(t *testing.T) {
	var upstream http.Header
	failing := func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			upstream = r.Header
			return nil, io.ErrUnexpectedEOF
		})
	}
	fallback := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Kept") != "1" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("Fallback sees %v, want X-Kept and X-Request-Id", r.Header)
		}
		r.Header.Set("X-Fallback", "1")
	})
	gw := build(t, gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: failing}, gateway.Route{Pattern: "/", Fallback: fallback})
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Header.Set("X-Kept", "1")
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	if w.Code != http.StatusOK || upstream.Get("X-Fallback") != "" {
		t.Errorf("status = %d, upstream's header %v, want 200 and no X-Fallback", w.Code, upstream)
	}
}

func TestQuestionForTheWholeServerIsAnsweredAndLogged(t *testing.T) {
	gw, lines := logged(t, "http://127.0.0.1:1", everything)
	s := serve(t, gw)
	resp, body := exchange(t, s, "OPTIONS * HTTP/1.1", "Host: svc")
	if resp.StatusCode != http.StatusNoContent || body != "" || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("response = %s %q, want 204 with X-Request-Id", resp.Status, body)
	}
	if line := lines.wait(t, 1)[0]; line["status"] != 204.0 || line["method"] != "OPTIONS" {
		t.Errorf("log line %v, want OPTIONS and 204", line)
	}
}

// Run with the race detector: as http.TimeoutHandler does, the middleware leaves
// the forwarding behind.
func TestWhatMiddlewareLeavesBehindIsEndedBeforeTheLog(t *testing.T) {
	reached, cancelled := make(chan struct{}), make(chan struct{})
	at := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			_, _ = io.Copy(io.Discard, r.Body)
			reached <- struct{}{}
			<-r.Context().Done()
			cancelled <- struct{}{}
		}
	})).URL
	impatient := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/slow" {
				next.ServeHTTP(w, r)
				return
			}
			// No end of the request's own context would end the forwarding.
			go next.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
			<-reached
			http.Error(w, "too late", http.StatusServiceUnavailable)
		})
	}
	lines := new(lineBuffer)
	gw := withLog(t, lines, gateway.Upstream{Targets: []string{at}}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{impatient}})
	c := dial(t, serve(t, gw))
	for range 5 {
		c.send(t, "POST /slow HTTP/1.1", "Host: svc", "Content-Length: 2")
		_, _ = io.WriteString(c, "hi")
		if resp, body := c.response(t); resp.StatusCode != http.StatusServiceUnavailable || body != "too late\n" {
			t.Fatalf("response = %s %q, want the middleware's 503", resp.Status, body)
		}
		<-cancelled
		c.send(t, "GET /quick HTTP/1.1", "Host: svc")
		if resp, _ := c.response(t); resp.StatusCode != http.StatusOK {
			t.Fatalf("the next request on the connection = %s, want 200", resp.Status)
		}
	}
	for i, line := range lines.wait(t, 10) {
		if line["attempts"] != 1.0 {
			t.Errorf("line %d: %v, want 1 attempt", i, line)
		}
	}
}

// Middleware may even begin to forward when the answer has been given.
func TestForwardingThatBeginsTooLateReachesNothing(t *testing.T) {
	backend := new(recorder)
	begin, done := make(chan struct{}), make(chan int, 1)
	late := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			r = r.WithContext(context.WithoutCancel(r.Context()))
			go func() {
				<-begin
				w := httptest.NewRecorder()
				next.ServeHTTP(w, r)
				_, err := r.Body.Read(make([]byte, 1))
				if !errors.Is(err, http.ErrBodyReadAfterClose) {
					t.Errorf("Read() = %v, want ErrBodyReadAfterClose", err)
				}
				done <- w.Code
			}()
		})
	}
	s := front(t, backend, gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{late}})
	resp, err := http.Post(s.URL, "text/plain", strings.NewReader("hi"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	close(begin)
	if code := <-done; code < 500 || backend.count() != 0 {
		t.Errorf("status = %d, %d requests upstream, want a failure and none", code, backend.count())
	}
}

// P27.
func TestLineSaysWhyAnAnswerBrokeOff(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
		}
	})
	gw, lines := logged(t, at, everything)
	if resp, err := http.Get(serve(t, gw).URL); err == nil {
		if _, err = io.ReadAll(resp.Body); err == nil {
			t.Error("the answer ends cleanly, want it broken off")
		}
		resp.Body.Close()
	}
	if line := lines.wait(t, 1)[0]; line["aborted"] != true || line["err"] != "unexpected EOF" {
		t.Errorf("log line %v, want aborted by unexpected EOF", line)
	}
}

// P14.
func TestResetOfATunnelsClientClosesTheUpstreamWithinASecond(t *testing.T) {
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
	_ = c.Conn.(*net.TCPConn).SetLinger(0) // Close sends a reset
	start := time.Now()
	c.Close()
	<-gone
	if took := time.Since(start); took > time.Second {
		t.Errorf("the upstream was closed after %v, want at most 1s", took)
	}
}

// P21: the server under the gateway decides these, and the upstream sees one
// framing whatever it decides.
func TestUpstreamSeesOneFramingOrNothing(t *testing.T) {
	for name, c := range map[string]struct {
		raw    string
		status int
		body   string // that the upstream sees; empty where it sees no request
	}{
		"both framings":                {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, "hi"},
		"two lengths":                  {"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400, ""},
		"an unknown coding":            {"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, ""},
		"a space before the colon":     {"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, ""},
		"a bare LF after a chunk size": {"Transfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n", 400, ""},
		"a chunk that is longer":       {"Transfer-Encoding: chunked\r\n\r\n1\r\nhi\r\n0\r\n\r\n", 400, ""},
		"a negative length":            {"Content-Length: -1\r\n\r\n", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bodies := make(chan string, 4)
			at := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if len(req.TransferEncoding) > 0 && req.Header.Get("Content-Length") != "" {
						t.Error("upstream sees two framings")
					}
					body, err := io.ReadAll(req.Body)
					if err != nil {
						return
					}
					bodies <- string(body)
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			conn := dial(t, serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything)))
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: svc\r\n"+c.raw)
			resp, body := conn.response(t)
			if resp.StatusCode != c.status {
				t.Errorf("status = %d %s, want %d", resp.StatusCode, body, c.status)
			}
			if c.body != "" {
				if got := <-bodies; got != c.body {
					t.Errorf("upstream sees the body %q, want %q", got, c.body)
				}
			}
			if n := len(bodies); n > 0 {
				t.Errorf("upstream sees %d requests more, want none", n)
			}
		})
	}
}

// P26.
func TestRequestsAfterARefusedExpectationAreFineOnBothConnections(t *testing.T) {
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}), gateway.Upstream{})
	c := dial(t, s)
	for range 3 {
		c.send(t, "POST /refused HTTP/1.1", "Host: svc", "Expect: 100-continue", "Content-Length: 5")
		resp, _ := c.response(t)
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Fatalf("status = %d, want 413", resp.StatusCode)
		}
		if resp.Close { // the client may not know whether to send the body, so a new connection is right
			c = dial(t, s)
		}
		c.send(t, "POST /taken HTTP/1.1", "Host: svc", "Content-Length: 5")
		_, _ = io.WriteString(c, "hello")
		if resp, body := c.response(t); resp.StatusCode != http.StatusOK || body != "hello" {
			t.Fatalf("the next response = %s %q, want 200 hello", resp.Status, body)
		}
	}
}
