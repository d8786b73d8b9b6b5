//go:build unix

package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// told is a context whose deadline is known before it ends by it, as that of a trip is.
type told struct {
	context.Context
	deadline time.Time
}

func (t told) Deadline() (time.Time, bool) { return t.deadline, true }

// By its cause it is known that a client left too little time. A dialler that knew the
// deadline would say "i/o timeout" first, and the target would be blamed for the client.
func TestADialEndsWithItsRequestAndNotByTheDeadline(t *testing.T) {
	p := carrier(t, Upstream{})
	dialer := net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}}
	p.DialContext = dialer.DialContext
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(timeoutError{}) })
	_, err := roundTrip(told{ctx, time.Now().Add(time.Millisecond)}, t, p, "GET", "http://slow.example")
	if !errors.Is(err, timeoutError{}) {
		t.Errorf("error = %v, want the cause of the context", err)
	}
}

func TestAConnectionThatIsInUseWhenTheIdleOnesAreClosedIsNotKept(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") }))
	p := carrier(t, Upstream{})
	resp, err := roundTrip(t.Context(), t, p, "GET", s.url)
	if err != nil {
		t.Fatal(err)
	}
	p.CloseIdleConnections()
	if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
		t.Errorf("answer = %q, %v, want ok", b, err)
	}
	soon(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
	for range 2 { // from the next request on, they are kept again
		text(t, p, s.url)
	}
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// The answer and the end of the patience with it may come together: then the answer
// is late, or all of it is good.
func TestAnAnswerInTheMomentOfTheHeaderTimeoutIsLateOrWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := carrier(t, Upstream{HeaderTimeout: time.Second})
		p.DialContext = func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				if _, err := http.ReadRequest(bufio.NewReader(there)); err != nil {
					return
				}
				time.Sleep(time.Second)
				say(there, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
				say(there, "ok")
			}()
			return here, nil
		}
		for range 1000 {
			resp, err := roundTrip(t.Context(), t, p, "GET", "http://a")
			if err != nil {
				if !errors.Is(err, slowHeaderError{}) {
					t.Fatalf("error = %v, want that it was late", err)
				}
				continue
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
				t.Fatalf("answer = %q, %v, want ok", b, err)
			}
		}
	})
}

// As after a Wrap that forgets it.
func TestAnAnswerThatNobodyClosesEndsWithItsRequest(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		say(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
	}))
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := roundTrip(ctx, t, carrier(t, Upstream{}), "GET", s.url)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	soon(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want that of the context", err)
	}
}

func TestAHookThatPanicsLeavesNoConnectionBehind(t *testing.T) {
	for name, trace := range map[string]*httptrace.ClientTrace{
		"GotConn":              {GotConn: func(httptrace.GotConnInfo) { panic("hook") }},
		"WroteHeaders":         {WroteHeaders: func() { panic("hook") }},
		"GotFirstResponseByte": {GotFirstResponseByte: func() { panic("hook") }},
		"Got1xxResponse":       {Got1xxResponse: func(int, textproto.MIMEHeader) error { panic("hook") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
				say(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
				sayOK(c, "ok")
			}))
			p := carrier(t, Upstream{})
			for kept := range 2 {
				if kept == 1 {
					text(t, p, s.url)
				}
				func() {
					defer func() {
						if recover() != "hook" {
							t.Error("the panic did not come through")
						}
					}()
					_, _ = roundTrip(httptrace.WithClientTrace(t.Context(), trace), t, p, "GET", s.url)
				}()
				soon(t, "the end of the connection", func() bool { return s.ended.Load() == int64(kept+1) })
			}
		})
	}
}

// It is the client who sent a header that is too large for the target, which need not
// read all of it before it says so.
func TestATargetThatAnswersBeforeTheEndOfTheHeadIsHeard(t *testing.T) {
	over := make(chan struct{})
	for name, c := range map[string]struct {
		size int
		then func()
	}{
		"a head that is written at once, and its connection ends": {maxHead - 1<<10, func() {}},
		"a large one, of which no more is read":                   {16 << 20, func() { <-over }},
	} {
		s := script(t, func(_ int64, conn net.Conn, r *bufio.Reader) {
			_, _ = r.ReadByte()
			say(conn, "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			c.then()
		})
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["X"] = []string{strings.Repeat("v", c.size)}
		resp, err := carrier(t, Upstream{}).RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: answer = %v, %v, want 431", name, resp, err)
		}
	}
	close(over)
}

// As after the sleep of the machine, in which no timer runs.
func TestAConnectionThatWaitsForTooLongIsNotUsedThoughNoTimerCame(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") }))
	p := carrier(t, Upstream{IdleTimeout: time.Hour})
	text(t, p, s.url)
	p.kept.waiting()[0].idle = time.Now().Round(0).Add(-time.Hour)
	text(t, p, s.url)
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}
