package bulkhead_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
	"github.com/parley-go/parley/internal/memhttp"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// stream is a body that says how it was closed, and fails when asked to.
type stream struct {
	io.Reader
	closed int
}

func (s *stream) Close() error { s.closed++; return nil }

func newRequest(ctx context.Context, t *testing.T, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://stock/", body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func answer(code int, body io.ReadCloser) roundTrip {
	return func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: code, Body: body}, nil }
}

func TestMiddlewareShedsWith503AndRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Name: "secret name", Limit: 1})
		leave := make(chan struct{})
		server := memhttp.New(t, b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			<-leave
			_, _ = io.WriteString(w, "served")
		})))
		client := &http.Client{Transport: server.Transport}
		first := make(chan string, 1)
		go func() {
			resp, err := client.Get("http://stock/")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			first <- string(text)
		}()
		synctest.Wait()

		resp, err := client.Get("http://stock/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var problem struct {
			Title, Detail string
			Status        int
		}
		if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil {
			t.Fatal(err)
		}
		for header, want := range map[string]string{
			"Content-Type": "application/problem+json", "Retry-After": "1", "Cache-Control": "no-store",
		} {
			if got := resp.Header.Get(header); got != want {
				t.Errorf("%s = %q, want %q", header, got, want)
			}
		}
		if resp.StatusCode != 503 || problem.Status != 503 || problem.Title != "Service Unavailable" ||
			strings.Contains(problem.Detail, "secret") {
			t.Errorf("answer = %d %+v, want 503 without the name", resp.StatusCode, problem)
		}
		close(leave)
		if got := <-first; got != "served" {
			t.Errorf("the request within the limit got %q, want it served", got)
		}
		synctest.Wait()
		wantRunning(t, b, 0)
	})
}

func TestMiddlewareFreesTheSlotOfAHandlerThatPanics(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 1})
	h := b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	v := panicOf(func() { h.ServeHTTP(httptest.NewRecorder(), newRequest(t.Context(), t, nil)) })
	if err, _ := v.(error); !errors.Is(err, http.ErrAbortHandler) {
		t.Errorf("panic = %v, want http.ErrAbortHandler", v)
	}
	wantRunning(t, b, 0)
}

func TestMiddlewareAdaptsToSlowRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 4, SlowCall: time.Second})
		h := b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) }))
		h.ServeHTTP(httptest.NewRecorder(), newRequest(t.Context(), t, nil))
		wantLimit(t, b, 3)
	})
}

func TestTransportHoldsTheSlotUntilTheBodyIsOver(t *testing.T) {
	for name, c := range map[string]struct {
		body func(*io.PipeWriter)
		over func(io.ReadCloser)
	}{
		"read to its end": {
			func(w *io.PipeWriter) { _, _ = io.WriteString(w, "in stock"); w.Close() },
			func(body io.ReadCloser) { _, _ = io.ReadAll(body) },
		},
		"broken off": {
			func(w *io.PipeWriter) { w.CloseWithError(io.ErrUnexpectedEOF) },
			func(body io.ReadCloser) { _, _ = io.ReadAll(body) },
		},
		"closed before": {
			func(*io.PipeWriter) {},
			func(body io.ReadCloser) { body.Close(); body.Close() },
		},
		"read to its end and closed": {
			func(w *io.PipeWriter) { w.Close() },
			func(body io.ReadCloser) { _, _ = io.ReadAll(body); body.Close() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, bulkhead.Config{Limit: 2})
			mustAcquire(t, b)
			r, w := io.Pipe()
			rt := b.Transport(answer(200, r))
			resp, err := rt.RoundTrip(newRequest(t.Context(), t, nil))
			if err != nil {
				t.Fatal(err)
			}
			wantRunning(t, b, 2)
			if _, err := rt.RoundTrip(newRequest(t.Context(), t, nil)); !errors.Is(err, bulkhead.ErrFull) {
				t.Errorf("RoundTrip() while the body is open = %v, want ErrFull", err)
			}
			go c.body(w)
			c.over(resp.Body)
			wantRunning(t, b, 1)
		})
	}
}

func TestABodyMayBeClosedWhileItIsRead(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 1})
	r, _ := io.Pipe()
	resp, err := b.Transport(answer(200, r)).RoundTrip(newRequest(t.Context(), t, nil))
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		read <- err
	}()
	resp.Body.Close()
	if err := <-read; err == nil {
		t.Error("Read() of a closed body = nil, want an error")
	}
	wantRunning(t, b, 0)
}

func TestTransportFreesTheSlotAtOnceWhereNoBodyFollows(t *testing.T) {
	for name, next := range map[string]roundTrip{
		"no body":         answer(204, http.NoBody),
		"a nil body":      answer(200, nil),
		"an error":        func(*http.Request) (*http.Response, error) { return nil, errDown },
		"neither of both": func(*http.Request) (*http.Response, error) { return nil, nil }, // against the contract
	} {
		t.Run(name, func(t *testing.T) {
			for _, slow := range []time.Duration{0, time.Hour} {
				b := mustNew(t, bulkhead.Config{Limit: 1, SlowCall: slow})
				_, _ = b.Transport(next).RoundTrip(newRequest(t.Context(), t, nil))
				wantRunning(t, b, 0)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		b := mustNew(t, bulkhead.Config{Limit: 1})
		rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }))
		if v := panicOf(func() { _, _ = rt.RoundTrip(newRequest(t.Context(), t, nil)) }); v != "boom" {
			t.Errorf("panic = %v, want boom", v)
		}
		wantRunning(t, b, 0)
	})
}

type conn struct {
	stream
	io.Writer
}

func TestTransportPassesAProtocolSwitchOnAsItIs(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 1})
	c := &conn{}
	resp, err := b.Transport(answer(101, c)).RoundTrip(newRequest(t.Context(), t, nil))
	if err != nil || resp.Body != c {
		t.Errorf("RoundTrip() = %v, %v, want the connection itself", resp, err)
	}
	wantRunning(t, b, 0)
}

func TestTransportClosesTheBodyOfARequestThatItDoesNotSend(t *testing.T) {
	b := mustNew(t, bulkhead.Config{Limit: 1})
	p := mustAcquire(t, b)
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) { t.Error("sent"); return nil, errDown }))
	body := &stream{Reader: strings.NewReader("order")}
	_, err := rt.RoundTrip(newRequest(t.Context(), t, body))
	if !errors.Is(err, bulkhead.ErrFull) || body.closed != 1 {
		t.Errorf("RoundTrip() = %v, body closed %d times, want ErrFull and once", err, body.closed)
	}
	p.Done(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rt.RoundTrip(newRequest(ctx, t, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("RoundTrip() with an ended context = %v, want context.Canceled", err)
	}
}

func TestTransportAdaptsToHeadersAndStatus(t *testing.T) {
	for name, c := range map[string]struct {
		code, from, want int
		delay            time.Duration
	}{
		"a quick success raises the limit":   {200, 1, 2, 0},
		"so does a client's error":           {404, 1, 2, 0},
		"slow headers lower it":              {200, 4, 3, time.Second},
		"too many requests lower it":         {429, 4, 3, 0},
		"an unavailable service lowers it":   {503, 4, 3, 0},
		"a server's quick failure leaves it": {500, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, bulkhead.Config{Limit: c.from, SlowCall: time.Second})
				resp, err := b.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
					time.Sleep(c.delay)
					return answer(c.code, &stream{Reader: strings.NewReader("x")})(req)
				})).RoundTrip(newRequest(t.Context(), t, nil))
				if err != nil {
					t.Fatal(err)
				}
				wantLimit(t, b, c.want)
				wantRunning(t, b, 1)
				time.Sleep(time.Hour) // the pace at which a body is read is the reader's
				resp.Body.Close()
				wantLimit(t, b, c.want)
				wantRunning(t, b, 0)
			})
		})
	}
}

func TestTransportWithoutNextIsTheDefaultTransport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "in stock")
	}))
	defer server.Close()
	b := mustNew(t, bulkhead.Config{Limit: 1})
	client := &http.Client{Transport: b.Transport(nil)}
	for range 3 {
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != "in stock" || err != nil {
			t.Errorf("body = %q, %v, want in stock", text, err)
		}
	}
	wantRunning(t, b, 0)
}

func TestTransportLetsIdleConnectionsBeClosed(t *testing.T) {
	b := mustNew(t, bulkhead.Config{})
	idle := &closer{}
	(&http.Client{Transport: b.Transport(idle)}).CloseIdleConnections()
	(&http.Client{Transport: b.Transport(answer(200, nil))}).CloseIdleConnections()
	if idle.closed != 1 {
		t.Errorf("CloseIdleConnections reached the transport %d times, want once", idle.closed)
	}
}

type closer struct {
	roundTrip
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }
