package retry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/internal/memhttp"
	"github.com/parley-go/parley/retry"
)

// counting counts the response bodies that pass through it.
type counting struct {
	next           http.RoundTripper
	opened, closed atomic.Int32
}

type countedBody struct {
	io.ReadCloser
	c    *counting
	done atomic.Bool
}

func (b *countedBody) Close() error {
	if !b.done.Swap(true) {
		b.c.closed.Add(1)
	}
	return b.ReadCloser.Close()
}

func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err == nil {
		c.opened.Add(1)
		resp.Body = &countedBody{ReadCloser: resp.Body, c: c}
	}
	return resp, err
}

// listen starts a server on loopback and counts the TCP connections to it.
func listen(t *testing.T, h http.HandlerFunc) (srv *httptest.Server, conns *atomic.Int32) {
	t.Helper()
	conns = new(atomic.Int32)
	srv = httptest.NewUnstartedServer(h)
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return srv, conns
}

func TestOverRealConnectionsEveryAttemptIsWholeAndNothingLeaks(t *testing.T) {
	const payload = "one book, please"
	for name, c := range map[string]struct {
		answer string // of a failed attempt
		conns  int32
	}{
		"short answers are drained, so that one connection serves all":     {"busy", 1},
		"an answer of 1 MiB is not, and costs a connection for each retry": {strings.Repeat("x", 1<<20), 3},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var received []string
			srv, conns := listen(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				mu.Lock()
				defer mu.Unlock()
				received = append(received, fmt.Sprintf("%s %d %s", r.Method, r.ContentLength, b))
				if len(received) < 3 {
					w.WriteHeader(http.StatusServiceUnavailable)
					_, _ = io.WriteString(w, c.answer)
					return
				}
				_, _ = io.WriteString(w, "placed")
			})
			count := &counting{next: srv.Client().Transport}
			client := &http.Client{Transport: quick.Transport(count)}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, strings.NewReader(payload))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Idempotency-Key", "k1")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || string(body) != "placed" {
				t.Errorf("Do() = %d %q, %v, want 200 placed", resp.StatusCode, body, err)
			}
			mu.Lock()
			defer mu.Unlock()
			want := fmt.Sprintf("POST %d %s", len(payload), payload)
			if fmt.Sprint(received) != fmt.Sprint([]string{want, want, want}) {
				t.Errorf("received %q, want 3 times %q", received, want)
			}
			if o, cl := count.opened.Load(), count.closed.Load(); o != 3 || cl != 3 {
				t.Errorf("bodies opened %d, closed %d, want 3, 3", o, cl)
			}
			if got := conns.Load(); got != c.conns {
				t.Errorf("TCP connections = %d, want %d", got, c.conns)
			}
		})
	}
}

func TestAnAnswerOf60KiBIsDrainedSoThatItsConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in virtual time no transfer takes 50 ms
		s := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, strings.Repeat("x", 60<<10))
		}))
		var dials atomic.Int32
		dial := s.Transport.DialContext
		s.Transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, network, addr)
		}
		resp, err := get(t, &http.Client{Transport: quick.Transport(s.Transport)})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); len(body) != 60<<10 || err != nil || dials.Load() != 1 {
			t.Errorf("read %d bytes, %v, over %d connections, want 60 KiB, nil, 1", len(body), err, dials.Load())
		}
	})
}

func TestAPostWhoseConnectionWasRefusedIsSentAgain(t *testing.T) {
	var arrived atomic.Int32
	srv, _ := listen(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived.Add(1)
	})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := free.Addr().String()
	free.Close()
	var dials atomic.Int32
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			addr = refusing
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: quick.Transport(tr)}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if arrived.Load() != 1 || dials.Load() != 2 {
		t.Errorf("arrived %d times after %d dials, want once after 2", arrived.Load(), dials.Load())
	}
}

func TestAPostWhoseConnectionBrokeIsNotSentAgain(t *testing.T) {
	var arrived atomic.Int32
	srv, _ := listen(t, func(http.ResponseWriter, *http.Request) {
		arrived.Add(1)
		panic(http.ErrAbortHandler)
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: quick.Transport(srv.Client().Transport)}).Do(req)
	if err == nil {
		resp.Body.Close()
		t.Error("Do() = nil, want an error")
	}
	if _, ok := errors.AsType[*retry.Error](err); ok || arrived.Load() != 1 {
		t.Errorf("Do() = %v after %d arrivals, want the transport's own error after 1", err, arrived.Load())
	}
}

func get(t *testing.T, client *http.Client) (*http.Response, error) {
	t.Helper()
	return client.Do(httpRequest(t, http.MethodGet, ""))
}

func TestAttemptTimeoutBoundsTheHeadersNotTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		s := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) < 3 {
				<-r.Context().Done() // never answers
				return
			}
			for i := range 6 { // a stream that lasts for a minute
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Second)
			}
		}))
		p := retry.Policy{AttemptTimeout: time.Second, Backoff: retry.Constant(0)}
		start := time.Now()
		resp, err := get(t, &http.Client{Transport: p.Transport(s.Transport)})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("headers came after %v, want 2 attempts of 1s", took)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || strings.Count(string(got), "data:") != 6 {
			t.Errorf("body = %q, %v, want the whole stream", got, err)
		}
	})
}

func TestAttemptsThatTimeOutSaySo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.New(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		p := retry.Policy{AttemptTimeout: time.Second, Backoff: retry.Constant(0)}
		resp, err := get(t, &http.Client{Transport: p.Transport(s.Transport)})
		if err == nil {
			resp.Body.Close()
		}
		wantError(t, err, 3, retry.ErrExhausted, retry.ErrAttemptTimeout)
	})
}

func TestHeadersThatComeTooLateAreATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []*spy
		p := retry.Policy{MaxAttempts: 2, AttemptTimeout: time.Second, Backoff: retry.Constant(0)}
		_, err := p.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second) // heeds no context
			bodies = append(bodies, text("late"))
			return &http.Response{StatusCode: 200, Body: bodies[len(bodies)-1]}, nil
		})).RoundTrip(httpRequest(t, http.MethodGet, ""))
		wantError(t, err, 2, retry.ErrExhausted, retry.ErrAttemptTimeout)
		for _, b := range bodies {
			if b.closes.Load() != 1 {
				t.Errorf("a late body was closed %d times, want once", b.closes.Load())
			}
		}
	})
}

func TestAResponseWithoutABodyReleasesItsContextAtOnce(t *testing.T) {
	var sent *http.Request
	resp, err := retry.Policy{AttemptTimeout: time.Hour}.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r
		return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
	})).RoundTrip(httpRequest(t, http.MethodGet, ""))
	if err != nil || resp.Body != http.NoBody || sent.Context().Err() == nil {
		t.Errorf("RoundTrip() = %v, %v with the context %v, want NoBody and an ended context", resp, err, sent.Context().Err())
	}
}

func TestTheClientsTimeoutEndsDoomedWaitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
		client := &http.Client{Timeout: time.Second, Transport: retry.Policy{Backoff: constant(time.Minute)}.Transport(s.Transport)}
		start := time.Now()
		resp, err := get(t, client)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if took := time.Since(start); resp.StatusCode != 503 || took != 0 {
			t.Errorf("Do() = %d after %v, want 503 at once", resp.StatusCode, took)
		}
	})
}

func TestAnUpgradedConnectionPassesThrough(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"": 0, " with AttemptTimeout": time.Second} {
		t.Run("101"+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					conn, rw, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
					line, _ := rw.ReadString('\n')
					_, _ = io.WriteString(conn, line)
				}))
				req := httpRequest(t, http.MethodGet, "")
				req.Header.Set("Connection", "Upgrade")
				req.Header.Set("Upgrade", "echo")
				resp, err := retry.Policy{AttemptTimeout: timeout}.Transport(s.Transport).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				conn, ok := resp.Body.(io.ReadWriteCloser)
				if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
					t.Fatalf("status %d with a body %T, want 101 with an io.ReadWriteCloser", resp.StatusCode, resp.Body)
				}
				time.Sleep(time.Hour)
				_, _ = io.WriteString(conn, "hello\n")
				if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" || err != nil {
					t.Errorf("echo = %q, %v, want hello", line, err)
				}
				if w, ok := conn.(interface{ CloseWrite() error }); !ok {
					t.Error("CloseWrite is lost")
				} else if err := w.CloseWrite(); !errors.Is(err, http.ErrNotSupported) { // a pipe cannot
					t.Errorf("CloseWrite() = %v, want ErrNotSupported from the pipe", err)
				}
				conn.Close()
			})
		})
	}
}

// halfDuplex is a connection body that can close its writing end.
type halfDuplex struct {
	*spy
	io.Writer
	closedWrite bool
}

func (h *halfDuplex) CloseWrite() error { h.closedWrite = true; return nil }

func TestTheWritingEndOfAConnectionCanBeClosed(t *testing.T) {
	for name, b := range map[string]io.ReadWriteCloser{
		"where it can": &halfDuplex{spy: text(""), Writer: io.Discard},
		"where it cannot": struct {
			io.ReadCloser
			io.Writer
		}{text(""), io.Discard},
	} {
		t.Run(name, func(t *testing.T) {
			var sent *http.Request
			resp, err := retry.Policy{AttemptTimeout: time.Hour}.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
				sent = r
				return &http.Response{StatusCode: 101, Body: b}, nil
			})).RoundTrip(httpRequest(t, http.MethodGet, ""))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF || sent.Context().Err() != nil {
				t.Errorf("Read() = %v with the context %v, want EOF that ends nothing", err, sent.Context().Err())
			}
			err = resp.Body.(interface{ CloseWrite() error }).CloseWrite()
			if h, can := b.(*halfDuplex); can && (err != nil || !h.closedWrite) || !can && !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("CloseWrite() = %v", err)
			}
			resp.Body.Close()
			if sent.Context().Err() == nil {
				t.Error("closing the connection did not release its context")
			}
		})
	}
}
