package gateway_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/internal/memhttp"
	"github.com/parley-go/parley/retry"
)

// switched is a backend that switches to WebSocket and then does as it is told.
func switched(then func(net.Conn, io.Reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		then(conn, buffered)
	}
}

func TestStreamThatIsSilentForIdleTimeoutIsBrokenOff(t *testing.T) {
	for name, c := range map[string]struct {
		r    gateway.Route
		took time.Duration // after the first event
	}{
		"by default":                 {gateway.Route{}, 5 * time.Minute},
		"by the route":               {gateway.Route{IdleTimeout: time.Hour}, time.Hour},
		"before the route's Timeout": {gateway.Route{IdleTimeout: 10 * time.Second}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cancelled := make(chan struct{})
				s := bubble(t, func(w http.ResponseWriter, r *http.Request) {
					for range 3 {
						_, _ = io.WriteString(w, "data: x\n\n")
						_ = http.NewResponseController(w).Flush()
						time.Sleep(c.took - time.Second)
					}
					_, _ = io.WriteString(w, "data: x\n\n")
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
					close(cancelled)
				}, gateway.Upstream{}, c.r)
				conn := dialPipe(t, s)
				_ = conn.SetDeadline(time.Now().Add(100 * time.Hour))
				conn.send(t, "GET / HTTP/1.1", "Host: svc")
				resp, err := http.ReadResponse(conn.r, nil)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				body, err := io.ReadAll(resp.Body)
				if err == nil || strings.Count(string(body), "data") != 4 {
					t.Errorf("body = %q, %v, want 4 events and an error", body, err)
				}
				if took, want := time.Since(start), 3*(c.took-time.Second)+c.took; took != want {
					t.Errorf("the stream lasted %v, want %v", took, want)
				}
				<-cancelled
			})
		})
	}
}

// A client that takes nothing blocks the gateway's Write, which no context ends.
func TestClientThatTakesNothingIsBrokenOffAfterIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cancelled error
		s := bubble(t, func(w http.ResponseWriter, r *http.Request) {
			for cancelled == nil {
				_, cancelled = io.WriteString(w, strings.Repeat("x", 1<<16))
			}
		}, gateway.Upstream{}, gateway.Route{IdleTimeout: time.Minute})
		conn := dialPipe(t, s)
		conn.send(t, "GET / HTTP/1.1", "Host: svc")
		if _, err := http.ReadResponse(conn.r, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if cancelled == nil {
			t.Error("the upstream still sends, want it cancelled")
		}
	})
}

// Nor does a context end the Write of a hint, which Timeout has to.
func TestClientThatTakesNoHintsIsBrokenOffByTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		use := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(over)
				next.ServeHTTP(w, r)
			})
		}
		s := bubble(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			<-r.Context().Done()
		}, gateway.Upstream{}, gateway.Route{Timeout: time.Minute, Use: []func(http.Handler) http.Handler{use}})
		start := time.Now()
		dialPipe(t, s).send(t, "GET / HTTP/1.1", "Host: svc")
		<-over
		if took := time.Since(start); took != time.Minute {
			t.Errorf("the request lasted %v, want 1m", took)
		}
	})
}

// What only one side says keeps the stream open for both.
func TestOneDirectionKeepsAStreamOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early := tripper(func(r *http.Request) (*http.Response, error) {
			body, more := io.Pipe()
			go func() {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(more, "done")
				more.Close()
			}()
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: body, ContentLength: -1, Request: r}, nil
		})
		gw := build(t, gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: func(http.RoundTripper) http.RoundTripper { return early }},
			gateway.Route{Pattern: "/", IdleTimeout: time.Minute})
		c := dialPipe(t, memhttp.New(t, gw))
		_ = c.SetDeadline(time.Now().Add(time.Hour))
		c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 10")
		for range 10 {
			time.Sleep(59 * time.Second)
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if resp, body := c.response(t); resp.StatusCode != http.StatusOK || body != "done" {
			t.Errorf("response = %s %q, want 200 done", resp.Status, body)
		}
	})
}

// P12.
func TestTunnelEndsBySilenceOrByMaxTunnel(t *testing.T) {
	for name, c := range map[string]struct {
		r     gateway.Route
		lines int // one after each half minute, before the tunnel ends
		took  time.Duration
	}{
		"silence by default":   {gateway.Route{}, 3, 90*time.Second + 5*time.Minute},
		"silence by the route": {gateway.Route{IdleTimeout: time.Minute}, 3, 90*time.Second + time.Minute},
		"its age":              {gateway.Route{MaxTunnel: 100 * time.Second}, 3, 100 * time.Second},
		"its age, early":       {gateway.Route{MaxTunnel: 10 * time.Second}, 0, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upstream := make(chan time.Time, 1)
				s := bubble(t, switched(func(conn net.Conn, r io.Reader) {
					_, _ = io.Copy(conn, r)
					upstream <- time.Now()
				}), gateway.Upstream{}, c.r)
				start := time.Now()
				conn := dialPipe(t, s)
				_ = conn.SetDeadline(start.Add(time.Hour))
				conn.send(t, handshake...)
				if resp, _ := conn.response(t); resp.StatusCode != http.StatusSwitchingProtocols {
					t.Fatalf("status = %d, want 101", resp.StatusCode)
				}
				for range c.lines {
					time.Sleep(30 * time.Second)
					wantEcho(t, conn, "hello")
				}
				if b, err := conn.r.ReadByte(); err == nil {
					t.Errorf("the tunnel says %q, want its end", b)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("the tunnel lasted %v, want %v", took, c.took)
				}
				if at := (<-upstream).Sub(start); at != c.took {
					t.Errorf("the upstream's side lasted %v, want %v", at, c.took)
				}
			})
		})
	}
}

func TestTunnelWhoseClientTakesNothingEndsBySilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		s := bubble(t, switched(func(conn net.Conn, _ io.Reader) {
			defer close(over)
			for {
				if _, err := io.WriteString(conn, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		}), gateway.Upstream{}, gateway.Route{IdleTimeout: time.Minute})
		conn := dialPipe(t, s)
		conn.send(t, handshake...)
		if resp, _ := conn.response(t); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status = %d, want 101", resp.StatusCode)
		}
		start := time.Now()
		<-over
		if took := time.Since(start); took != time.Minute {
			t.Errorf("the tunnel lasted %v, want 1m", took)
		}
	})
}

// P34.
func TestBodyThatStallsForIdleTimeoutIs408(t *testing.T) {
	for name, r := range map[string]gateway.Route{
		"on its way to an upstream": {Timeout: time.Hour, IdleTimeout: 10 * time.Second},
		"read by Use": {Timeout: time.Hour, IdleTimeout: 10 * time.Second, Use: []func(http.Handler) http.Handler{func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.ReadAll(r.Body); errors.Is(err, os.ErrDeadlineExceeded) {
					w.WriteHeader(http.StatusRequestTimeout)
				}
			})
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := bubble(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, gateway.Upstream{Breaker: trippy()}, r)
				for range 2 { // the breaker stays closed
					c := dialPipe(t, s)
					_ = c.SetDeadline(time.Now().Add(time.Hour))
					start := time.Now()
					c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 100")
					for range 3 {
						time.Sleep(9 * time.Second)
						if _, err := io.WriteString(c, "x"); err != nil {
							t.Fatal(err)
						}
					}
					resp, _ := c.response(t)
					if took := time.Since(start); resp.StatusCode != http.StatusRequestTimeout || took != 37*time.Second {
						t.Errorf("%s after %v, want 408 after 37s", resp.Status, took)
					}
				}
			})
		})
	}
}

// A connection that has carried a body is as good as new for the next request.
func TestDeadlineOfABodyDoesNotOutliveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bubble(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(20 * time.Second)
			_, _ = io.WriteString(w, "ok")
		}, gateway.Upstream{}, gateway.Route{IdleTimeout: 10 * time.Second})
		c := dialPipe(t, s)
		_ = c.SetDeadline(time.Now().Add(time.Hour))
		for range 3 {
			c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 2")
			_, _ = io.WriteString(c, "hi")
			if resp, body := c.response(t); resp.StatusCode != http.StatusOK || body != "ok" {
				t.Fatalf("response = %s %q, want 200 ok", resp.Status, body)
			}
			time.Sleep(time.Minute)
		}
	})
}

// P34: who is slow is the client, not the target.
func TestSlowUploadDoesNotMakeATargetLookSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := memhttp.New(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(time.Second)
		}))
		gw := build(t, gateway.Upstream{
			Targets: []string{"http://in.memory"}, Wrap: func(http.RoundTripper) http.RoundTripper { return backend.Transport },
		}, everything)
		c := dialPipe(t, memhttp.New(t, gw))
		c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 2")
		time.Sleep(20 * time.Second)
		_, _ = io.WriteString(c, "hi")
		if resp, body := c.response(t); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s, want 200", resp.Status, body)
		}
		if got := gw.Stats().Upstreams[0].Targets[0].Latency; got != time.Second {
			t.Errorf("Latency = %v, want the target's own 1s", got)
		}
	})
}

func TestSlowUploadUnderAnAttemptTimeoutIs408AndNotTheTargetsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bubble(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
			gateway.Upstream{Breaker: trippy(), Retry: &retry.Policy{AttemptTimeout: 2 * time.Second, Backoff: retry.Constant(0)}}, gateway.Route{})
		for range 3 {
			c := dialPipe(t, s)
			start := time.Now()
			c.send(t, "PUT / HTTP/1.1", "Host: svc", "Content-Length: 100")
			_, _ = io.WriteString(c, "x")
			resp, body := c.response(t)
			wantProblem(t, resp, body, http.StatusRequestTimeout)
			if took := time.Since(start); took != 2*time.Second {
				t.Errorf("the answer took %v, want 2s", took)
			}
		}
	})
}
