package gateway_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/internal/memhttp"
	"github.com/parley-go/parley/retry"
)

// bubble serves a gateway in front of a backend over pipes, for virtual time.
func bubble(t *testing.T, backend http.HandlerFunc, u gateway.Upstream, r gateway.Route) *memhttp.Server {
	t.Helper()
	u.Targets = append(u.Targets, "http://in.memory")
	u.Wrap = func(http.RoundTripper) http.RoundTripper { return memhttp.New(t, backend).Transport }
	r.Pattern = "/"
	return memhttp.New(t, build(t, u, r))
}

// dialPipe opens a raw connection to the gateway.
func dialPipe(t *testing.T, s *memhttp.Server) *rawConn {
	t.Helper()
	c, err := s.Transport.DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &rawConn{c, bufio.NewReader(c)}
}

// hang is a backend that never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func TestUpstreamThatDoesNotAnswerInTimeIs504(t *testing.T) {
	for name, c := range map[string]struct {
		u    gateway.Upstream
		r    gateway.Route
		took time.Duration
	}{
		"by default":         {gateway.Upstream{}, gateway.Route{}, 30 * time.Second},
		"by the route":       {gateway.Upstream{}, gateway.Route{Timeout: time.Second}, time.Second},
		"with retries":       {gateway.Upstream{Retry: quickRetry()}, gateway.Route{Timeout: time.Second}, time.Second},
		"by attempt timeout": {gateway.Upstream{Retry: &retry.Policy{Backoff: retry.Constant(time.Second), AttemptTimeout: 2 * time.Second}}, gateway.Route{}, 8 * time.Second},
		// The second attempt could not end in time, so the wait is not begun.
		"no doomed wait": {gateway.Upstream{Retry: &retry.Policy{Backoff: retry.Constant(time.Hour), AttemptTimeout: 2 * time.Second}}, gateway.Route{}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cancelled := make(chan struct{}, 10)
				s := bubble(t, func(w http.ResponseWriter, r *http.Request) {
					hang(w, r)
					cancelled <- struct{}{}
				}, c.u, c.r)
				start := time.Now()
				conn := dialPipe(t, s)
				conn.send(t, "GET / HTTP/1.1", "Host: svc")
				resp, body := conn.response(t)
				wantProblem(t, resp, body, http.StatusGatewayTimeout)
				if took := time.Since(start); took != c.took {
					t.Errorf("the answer took %v, want %v", took, c.took)
				}
				<-cancelled // or the bubble never ends
			})
		})
	}
}

// P34.
func TestBodyThatDoesNotArriveInTimeIs408(t *testing.T) {
	for name, lines := range map[string][]string{
		"of known length": {"Content-Length: 100"},
		"in chunks":       {"Transfer-Encoding: chunked"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := bubble(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
					gateway.Upstream{Breaker: trippy()}, gateway.Route{})
				for range 2 { // the breaker stays closed
					c := dialPipe(t, s)
					c.send(t, append([]string{"POST / HTTP/1.1", "Host: svc"}, lines...)...)
					gone := make(chan struct{})
					go func() { // a byte now and then
						defer close(gone)
						for {
							text := "x"
							if name == "in chunks" {
								text = "1\r\nx\r\n"
							}
							if _, err := io.WriteString(c, text); err != nil {
								return
							}
							time.Sleep(700 * time.Millisecond)
						}
					}()
					start := time.Now()
					resp, body := c.response(t)
					wantProblem(t, resp, body, http.StatusRequestTimeout)
					if took := time.Since(start); took != 30*time.Second {
						t.Errorf("the answer took %v, want 30s", took)
					}
					if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
						t.Errorf("the connection reads %v, want it closed", err)
					}
					c.Close()
					<-gone
				}
			})
		})
	}
}

func TestBodyThatNobodyReadsHoldsTheServerForTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b gateway.Builder
		gw, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		c := dialPipe(t, memhttp.New(t, gw))
		c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 10")
		start := time.Now()
		resp, body := c.response(t) // the server first waits for the body
		wantProblem(t, resp, body, http.StatusNotFound)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("the answer took %v, want 2s", took)
		}
	})
}

// P12.
func TestTunnelOutlivesTheTimeoutOfItsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bubble(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.Copy(conn, buffered)
		}, gateway.Upstream{Retry: &retry.Policy{AttemptTimeout: time.Second}}, gateway.Route{Timeout: time.Second, IdleTimeout: 2 * time.Hour})
		c := dialPipe(t, s)
		c.send(t, handshake...)
		if resp, _ := c.response(t); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status = %d, want 101", resp.StatusCode)
		}
		time.Sleep(time.Hour)
		wantEcho(t, c, "still there")
	})
}

func TestStreamOutlivesTheTimeoutOfItsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bubble(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, "data: x\n\n")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Hour)
			}
		}, gateway.Upstream{}, gateway.Route{IdleTimeout: 2 * time.Hour})
		c := dialPipe(t, s)
		c.send(t, "GET / HTTP/1.1", "Host: svc")
		if resp, body := c.response(t); resp.StatusCode != http.StatusOK || strings.Count(body, "data") != 3 {
			t.Errorf("response = %s %q, want 200 with 3 events", resp.Status, body)
		}
	})
}

// An upstream may answer, and go on to answer, while the client owes its body.
func TestAnswerBeforeTheEndOfTheBodyIsPassedOnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// What answers is no server of net/http, which would first wait for the
		// body itself.
		early := tripper(func(r *http.Request) (*http.Response, error) {
			body, more := io.Pipe()
			go func() {
				_, _ = io.WriteString(more, "first")
				time.Sleep(time.Hour)
				_, _ = io.WriteString(more, "later")
				more.Close()
			}()
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: body, ContentLength: -1, Request: r}, nil
		})
		gw := build(t, gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: func(http.RoundTripper) http.RoundTripper { return early }}, gateway.Route{Pattern: "/", IdleTimeout: 2 * time.Hour})
		c := dialPipe(t, memhttp.New(t, gw))
		c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 100000")
		start := time.Now()
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" || time.Since(start) != 0 {
			t.Fatalf("body begins %q, %v after %v, want first at once", first, err, time.Since(start))
		}
		if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "later" {
			t.Errorf("body goes on %q, %v, want later", rest, err)
		}
	})
}

// The breaker must count what only a timeout ended, or a target that hangs would
// never be left alone.
func TestTimeoutOfTheRouteOpensTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bubble(t, hang, gateway.Upstream{Breaker: trippy()}, gateway.Route{})
		for _, want := range []int{http.StatusGatewayTimeout, http.StatusServiceUnavailable} {
			c := dialPipe(t, s)
			c.send(t, "GET / HTTP/1.1", "Host: svc")
			resp, body := c.response(t)
			wantProblem(t, resp, body, want)
		}
	})
}
