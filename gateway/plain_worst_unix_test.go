//go:build unix

package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
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
	ctx, cancel := context.WithCancelCause(t.Context())
	at := crowded(t)
	time.AfterFunc(100*time.Millisecond, func() { cancel(timeoutError{}) })
	_, err := roundTrip(told{ctx, time.Now().Add(10 * time.Millisecond)}, t, carrier(t, Upstream{}), "GET", "http://"+at)
	if !errors.Is(err, timeoutError{}) {
		t.Errorf("error = %v, want the cause of the context", err)
	}
}

// Or strangers who leave no time to connect could open the breaker for all others.
func TestATargetThatIsSlowToConnectIsNotBlamedForTheHurryOfAClient(t *testing.T) {
	var b Builder
	b.Upstream(&Upstream{Name: "svc", Targets: []string{"http://" + crowded(t)}, Breaker: &breaker.Config{Consecutive: 1}})
	b.Route(Route{Pattern: "/", Upstream: "svc"})
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		r := httptest.NewRequest(http.MethodGet, "http://svc/", nil)
		r.Header.Set(requestTimeoutHeader, "3")
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		if w.Code != http.StatusGatewayTimeout {
			t.Fatalf("status = %d %s, want 504", w.Code, w.Body)
		}
	}
	if s := gw.Stats().Upstreams[0].Targets[0]; s.Failures != 0 {
		t.Errorf("%d of %d requests count against the target, want none", s.Failures, s.Requests)
	}
}

// crowded returns an address at which so many wait to be accepted that no connection
// is made any more, and none refused.
func crowded(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	err = errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprint("127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
	for range 1000 {
		c, err := net.DialTimeout("tcp", at, 50*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the target takes all connections")
	return ""
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
	Eventually(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
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
	Eventually(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
	for range 2 { // and it remains so
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want that of the context", err)
		}
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
				Eventually(t, "the end of the connection", func() bool { return s.ended.Load() == int64(kept+1) })
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
	Eventually(t, "the end of the first connection", func() bool { return s.ended.Load() == 1 })
}

func TestAConnectionThatCannotBeLookedAtIsNotUsedAgain(t *testing.T) {
	p := carrier(t, Upstream{})
	dials := 0
	p.DialContext = func(context.Context, string, string) (net.Conn, error) {
		dials++
		here, there := net.Pipe()
		go requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") })(0, there, bufio.NewReader(there))
		return here, nil
	}
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(at string) {
		if at != "a:80" {
			t.Errorf("GetConn(%q), want a:80", at)
		}
	}})
	for range 2 {
		resp, err := roundTrip(ctx, t, p, "GET", "http://a")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(resp.Body)
	}
	if dials != 2 {
		t.Errorf("%d connections, want 2", dials)
	}
}

func TestAConnectionThatTheTargetHasResetIsNotUsed(t *testing.T) {
	read := make(chan struct{})
	s := script(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			sayOK(c, "ok")
			<-read
			_ = c.(*net.TCPConn).SetLinger(0)
		}
	})
	p := carrier(t, Upstream{})
	text(t, p, s.url)
	close(read)
	Eventually(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if i.Reused {
			t.Error("the connection was used again")
		}
	}})
	resp, err := roundTrip(ctx, t, p, "GET", s.url)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// fragile is a connection that takes so many requests.
type fragile struct {
	*net.TCPConn
	takes int
}

var errFragile = errors.New("it takes no more")

func (f *fragile) Write(p []byte) (int, error) {
	if f.takes--; f.takes < 0 {
		return 0, errFragile
	}
	return f.TCPConn.Write(p)
}

func TestARequestThatCannotBeWrittenIsSentOnANewConnectionAtMostOnce(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") }))
	p := carrier(t, Upstream{})
	dial, takes := p.DialContext, 1
	p.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &fragile{c.(*net.TCPConn), takes}, nil
	}
	for range 2 { // the second time, the connection that was kept fails
		text(t, p, s.url)
	}
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	takes = 0
	var wrote error
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteHeaderField: func(name string, _ []string) { t.Errorf("%s is said to be written", name) },
		WroteHeaders:     func() { t.Error("the header is said to be written") },
		WroteRequest:     func(i httptrace.WroteRequestInfo) { wrote = i.Err },
	})
	if _, err := roundTrip(ctx, t, p, "GET", s.url); !errors.Is(err, errFragile) || !errors.Is(wrote, errFragile) {
		t.Errorf("error = %v, and of the request %v, want that of the Write", err, wrote)
	}
	Eventually(t, "the end of the connections", func() bool { return s.ended.Load() == 3 && s.connections.Load() == 3 })
}

// Of several connections that were kept for too long, one alone is tried.
func TestARequestIsSentTwiceAtMostHoweverManyConnectionsEndUnderIt(t *testing.T) {
	const many = 3
	var seen atomic.Int64
	var all sync.WaitGroup
	all.Add(many)
	s := script(t, requests(func(n int, c net.Conn, req *http.Request) {
		seen.Add(1)
		if req.URL.Path == "/all" {
			all.Done()
			all.Wait()
		} else if n > 1 {
			_ = c.Close()
			return
		}
		sayOK(c, "ok")
	}))
	p := carrier(t, Upstream{})
	var askers sync.WaitGroup
	for range many {
		askers.Go(func() { text(t, p, s.url+"/all") })
	}
	askers.Wait()
	if got := text(t, p, s.url); got != "ok" || seen.Load() != many+2 {
		t.Errorf("answer = %q after %d requests, want ok after %d", got, seen.Load(), many+2)
	}
}

func TestARequestThatHasEndedBeforeItBeganTakesNoConnection(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") }))
	p := carrier(t, Upstream{})
	text(t, p, s.url)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := roundTrip(ctx, t, p, "GET", s.url); !errors.Is(err, context.Canceled) || len(p.kept.waiting()) != 1 {
		t.Errorf("error = %v, and %d connections wait, want one", err, len(p.kept.waiting()))
	}
}

func TestTheRoomOfALargeHeadIsNotKept(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") }))
	p := carrier(t, Upstream{})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.url, nil)
	req.Header["X"] = []string{strings.Repeat("v", 4*maxHead)}
	for range 10 {
		resp, err := p.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if b := p.heads.Get().(*[]byte); cap(*b) > maxHead {
			t.Fatalf("room for %d bytes waits, want %d at most", cap(*b), maxHead)
		}
	}
}

// They may have one name between them, by Upstream.Host.
func TestTargetsOfOneNameShareNoConnection(t *testing.T) {
	named := func(name string) *scripted {
		return script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, name) }))
	}
	targets := map[string]*scripted{"a": named("a"), "b": named("b")}
	p := carrier(t, Upstream{})
	for range 2 {
		for name, s := range targets {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", s.url, nil)
			req.Host = "shop.example"
			resp, err := p.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != name || err != nil {
				t.Errorf("answer = %q, %v, want that of %s", b, err, name)
			}
		}
	}
	for name, s := range targets {
		if n := s.connections.Load(); n != 1 {
			t.Errorf("%s has %d connections, want 1", name, n)
		}
	}
}

// So that those grow old that are above the need.
func TestTheConnectionThatWasUsedLastIsTakenFirst(t *testing.T) {
	k := kept{most: 3, timeout: time.Hour}
	defer k.end()
	var wires []*wire
	for range 3 {
		here, _ := net.Pipe()
		c := newWire(here)
		if err := k.put("a", c); err != nil {
			t.Fatal(err)
		}
		wires = append(wires, c)
	}
	for n := range 3 {
		if k.pop("a") != wires[2-n] {
			t.Errorf("connection %d is not the one that was put %d from the end", n, n)
		}
	}
	if k.pop("a") != nil {
		t.Error("there is one more")
	}
}

// Who listens to hints says how many there may be; else a header bounds them all.
func TestAFloodOfHintsIsBoundedUnlessSomebodyListens(t *testing.T) {
	hint := "HTTP/1.1 103 Early Hints\r\nX-F: " + strings.Repeat("v", 1<<10) + "\r\n\r\n"
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		say(c, strings.Repeat(hint, 2*maxAnswerHeader>>10))
		sayOK(c, "ok")
	}))
	p := carrier(t, Upstream{})
	if _, err := roundTrip(t.Context(), t, p, "GET", s.url); !errors.Is(err, errLongHeader) {
		t.Errorf("error = %v, want errLongHeader", err)
	}
	hints := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		hints++
		return nil
	}})
	if resp, err := roundTrip(ctx, t, p, "GET", s.url); err != nil || resp.StatusCode != http.StatusOK || hints != 2*maxAnswerHeader>>10 {
		t.Errorf("answer = %v, %v after %d hints, want 200 after all", resp, err, hints)
	}
}

// All of it may be here when its request is ended. Who ends the connection comes later.
func TestAConnectionWhoseRequestHasEndedIsNotKeptThoughItsAnswerIsWhole(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { sayOK(c, "ok") }))
	p := carrier(t, Upstream{})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := roundTrip(ctx, t, p, "GET", s.url)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
		t.Errorf("answer = %q, %v, want ok", b, err)
	}
	if n := len(p.kept.waiting()); n != 0 {
		t.Errorf("%d connections wait, want none", n)
	}
}

func TestMaxConnsBoundsTheConnectionsOfPlainRequestsToo(t *testing.T) {
	asked, release := make(chan struct{}, 2), make(chan struct{})
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		asked <- struct{}{}
		<-release
		sayOK(c, "ok")
	}))
	p := carrier(t, Upstream{MaxConns: 1})
	var first sync.WaitGroup
	first.Go(func() { text(t, p, s.url) })
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := roundTrip(ctx, t, p, "GET", s.url); !errors.Is(err, context.DeadlineExceeded) || s.connections.Load() != 1 {
		t.Errorf("error = %v with %d connections, want that it waited for the one", err, s.connections.Load())
	}
	close(release)
	first.Wait()
}
