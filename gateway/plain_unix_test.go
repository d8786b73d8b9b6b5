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
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A scripted target serves each connection by a function, and counts them.
type scripted struct {
	url         string
	connections atomic.Int64
	ended       atomic.Int64 // of these
}

func script(t *testing.T, serve func(nth int64, c net.Conn, r *bufio.Reader)) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{url: "http://" + l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			nth := s.connections.Add(1)
			all.Go(func() {
				defer s.ended.Add(1)
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(nth, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return s
}

// requests calls answer for each request of a connection.
func requests(answer func(n int, c net.Conn, req *http.Request)) func(int64, net.Conn, *bufio.Reader) {
	return func(_ int64, c net.Conn, r *bufio.Reader) {
		for n := 1; ; n++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			answer(n, c, req)
		}
	}
}

func say(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

func sayOK(c net.Conn, body string) {
	say(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

func carrier(t *testing.T, u Upstream) *plain {
	t.Helper()
	c := u.withDefaults()
	p := newPlain(c.transport())
	t.Cleanup(p.CloseIdleConnections)
	return p
}

func roundTrip(ctx context.Context, t *testing.T, by http.RoundTripper, method, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return by.RoundTrip(req)
}

// text asks for an answer and reads all of it.
func text(t *testing.T, by http.RoundTripper, url string) string {
	t.Helper()
	resp, err := roundTrip(t.Context(), t, by, "GET", url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// waiting returns the connections that wait.
func (k *kept) waiting() (all []*wire) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, wires := range k.wires {
		all = append(all, wires...)
	}
	return all
}

// pending reports whether something has come for a connection, and leaves it there.
func pending(c *wire) (some bool) {
	_ = c.raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		some = n > 0 || n == 0 && err == nil
		return true
	})
	return some
}

func TestOneConnectionCarriesOnePlainRequestAfterTheOther(t *testing.T) {
	s := script(t, requests(func(n int, c net.Conn, req *http.Request) {
		switch req.URL.Path {
		case "/none":
			say(c, "HTTP/1.1 204 No Content\r\n\r\n")
		case "/chunks":
			say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n")
		case "/head":
			say(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
		default:
			sayOK(c, fmt.Sprint(n))
		}
	}))
	p := carrier(t, Upstream{})
	before := runtime.NumGoroutine()
	for n := range 3 {
		if got := text(t, p, s.url); got != fmt.Sprint(4*n+1) {
			t.Fatalf("answer = %q, want %d", got, 4*n+1)
		}
		if got := text(t, p, s.url+"/none"); got != "" {
			t.Fatalf("answer = %q, want none", got)
		}
		if got := text(t, p, s.url+"/chunks"); got != "abc" {
			t.Fatalf("answer = %q, want abc", got)
		}
		resp, err := roundTrip(t.Context(), t, p, "HEAD", s.url+"/head")
		if err != nil || resp.ContentLength != 9 || resp.Body != http.NoBody {
			t.Fatalf("HEAD = %v, %v, want a length of 9 and no body", resp, err)
		}
	}
	if n := s.connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	if after := runtime.NumGoroutine(); after > before+1 { // that of the target
		t.Errorf("%d goroutines, of %d before: an idle connection has some", after, before)
	}
}

// What nobody asked for must not become the answer to somebody's request.
func TestWhatATargetSaysUnaskedIsNobodysAnswer(t *testing.T) {
	for name, unasked := range map[string]string{
		"a second answer": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
		"a farewell":      "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
		"one byte":        "x",
	} {
		for _, later := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", later: ", later), func(t *testing.T) {
				read, said := make(chan struct{}), make(chan struct{})
				s := script(t, func(nth int64, c net.Conn, r *bufio.Reader) {
					requests(func(n int, c net.Conn, _ *http.Request) {
						switch {
						case nth > 1:
							sayOK(c, "mine")
						case later:
							sayOK(c, "first")
							<-read
							say(c, unasked)
							close(said)
						default:
							say(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"+unasked)
						}
					})(nth, c, r)
				})
				p := carrier(t, Upstream{})
				if got := text(t, p, s.url); got != "first" {
					t.Fatalf("answer = %q, want first", got)
				}
				if later {
					close(read)
					<-said
					Eventually(t, "what was said", func() bool { return pending(p.kept.waiting()[0]) })
				}
				for range 2 {
					if got := text(t, p, s.url); got != "mine" {
						t.Fatalf("answer = %q, want mine", got)
					}
				}
				if n := s.connections.Load(); n != 2 {
					t.Errorf("%d connections, want 2", n)
				}
				Eventually(t, "the end of the first connection", func() bool { return s.ended.Load() == 1 })
			})
		}
	}
}

func TestABodyBehindTheAnswerToHEADIsNobodysAnswer(t *testing.T) {
	s := script(t, func(nth int64, c net.Conn, r *bufio.Reader) {
		requests(func(_ int, c net.Conn, req *http.Request) {
			if nth == 1 {
				say(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
				return
			}
			sayOK(c, "mine")
		})(nth, c, r)
	})
	p := carrier(t, Upstream{})
	if _, err := roundTrip(t.Context(), t, p, "HEAD", s.url); err != nil {
		t.Fatal(err)
	}
	if got := text(t, p, s.url); got != "mine" {
		t.Errorf("answer = %q, want mine", got)
	}
}

func TestAConnectionThatTheTargetHasClosedIsNotUsed(t *testing.T) {
	s := script(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			sayOK(c, "ok") // and closes, without a word of it
		}
	})
	p := carrier(t, Upstream{})
	for range 3 {
		text(t, p, s.url)
		Eventually(t, "the end of the connection", func() bool { w := p.kept.waiting(); return len(w) == 1 && pending(w[0]) })
	}
	if n := s.connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

// P32. It may close it in the moment of the next request, too.
func TestAConnectionThatEndsUnderARequestCostsOneMoreAttemptAtMost(t *testing.T) {
	var seen atomic.Int64
	s := script(t, requests(func(n int, c net.Conn, req *http.Request) {
		seen.Add(1)
		if n == 1 && req.URL.Path != "/never" {
			sayOK(c, "ok")
			return
		}
		_ = c.Close()
	}))
	p := carrier(t, Upstream{})
	text(t, p, s.url)
	if got := text(t, p, s.url); got != "ok" || s.connections.Load() != 2 {
		t.Errorf("answer = %q on connection %d, want ok on the 2nd", got, s.connections.Load())
	}
	seen.Store(0)
	_, err := roundTrip(t.Context(), t, p, "GET", s.url+"/never")
	if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "closed the connection") {
		t.Errorf("error = %v, want that the target closed the connection", err)
	}
	if n := seen.Load(); n != 2 { // on the kept connection, and on a new one
		t.Errorf("%d attempts, want 2", n)
	}
	seen.Store(0)
	if _, err = roundTrip(t.Context(), t, p, "GET", s.url+"/never"); err == nil || seen.Load() != 1 {
		t.Errorf("error = %v after %d attempts, want one after 1: the connection was new", err, seen.Load())
	}
}

// P27: what is cut off is not sent again, and not whole.
func TestAnAnswerThatHasBegunIsNotAskedForAgain(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"in its header":   {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", "unexpected EOF"},
		"in its body":     {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "unexpected EOF"},
		"in its chunks":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "unexpected EOF"},
		"in its trailers": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-T: ", "trailer"},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int64
			s := script(t, requests(func(n int, conn net.Conn, _ *http.Request) {
				if seen.Add(1); n == 1 {
					sayOK(conn, "ok")
					return
				}
				say(conn, c.answer)
				_ = conn.Close()
			}))
			p := carrier(t, Upstream{})
			text(t, p, s.url) // the next one comes on a kept connection
			resp, err := roundTrip(t.Context(), t, p, "GET", s.url)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %s", err, c.want)
			}
			if seen.Load() != 2 || len(p.kept.waiting()) != 0 {
				t.Errorf("%d requests and %d connections kept, want 2 and none", seen.Load(), len(p.kept.waiting()))
			}
		})
	}
}

var errLeft = errors.New("the caller has had enough")

func TestTheEndOfTheContextEndsAPlainRequestAndItsConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"before the answer": "",
		"in the header":     "HTTP/1.1 200 OK\r\nConte",
		"after a hint":      "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
		"in the body":       "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 1)
			s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
				say(c, answer)
				asked <- struct{}{}
			}))
			p := carrier(t, Upstream{})
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-asked
				cancel(errLeft)
			}()
			resp, err := roundTrip(ctx, t, p, "GET", s.url)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if !errors.Is(err, errLeft) {
				t.Errorf("error = %v, want the cause of the context", err)
			}
			Eventually(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
			if s.connections.Load() != 1 {
				t.Errorf("%d connections, want 1", s.connections.Load())
			}
		})
	}
	t.Run("before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		if _, err := roundTrip(ctx, t, carrier(t, Upstream{}), "GET", "http://127.0.0.1:1"); !errors.Is(err, errLeft) {
			t.Errorf("error = %v, want the cause of the context", err)
		}
	})
}

// The end of a context comes at any time, also between the last byte of an answer and
// the next request. No request may suffer from the end of another one.
func TestTheEndOfARequestHarmsNoOther(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, req *http.Request) { sayOK(c, req.URL.Path) }))
	p := carrier(t, Upstream{})
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				path := fmt.Sprintf("/%d/%d", worker, n)
				early := n%3 == 0
				if early {
					go cancel() // while it is under way
				}
				resp, err := roundTrip(ctx, t, p, "GET", s.url+path)
				var body []byte
				if err == nil {
					body, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				cancel()
				if err != nil && !early {
					t.Errorf("%s: error = %v, though nobody ended it", path, err)
				} else if err == nil && string(body) != path {
					t.Errorf("%s: answer = %q", path, body)
				}
			}
		})
	}
	all.Wait()
}

func TestAnAnswerThatIsClosedEarlyCostsItsConnectionAlone(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		say(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
	}))
	p := carrier(t, Upstream{})
	resp, err := roundTrip(t.Context(), t, p, "GET", s.url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	waits := make(chan error)
	go func() {
		_, err := resp.Body.Read(make([]byte, 4))
		waits <- err
	}()
	if err := errors.Join(resp.Body.Close(), resp.Body.Close()); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	if err := <-waits; err == nil {
		t.Error("the Read that waited ended without an error")
	}
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("Read after Close = %v, want ErrBodyReadAfterClose", err)
	}
	Eventually(t, "the end of the connection", func() bool { return s.ended.Load() == 1 })
}

func TestAReadAfterTheEndTouchesNoConnection(t *testing.T) {
	s := script(t, requests(func(n int, c net.Conn, _ *http.Request) { sayOK(c, fmt.Sprint("answer ", n)) }))
	p := carrier(t, Upstream{})
	first, err := roundTrip(t.Context(), t, p, "GET", s.url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(first.Body); err != nil {
		t.Fatal(err)
	}
	second, err := roundTrip(t.Context(), t, p, "GET", s.url) // on the same connection
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.Body.Read(make([]byte, 9)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read = %d, %v, want the end", n, err)
	}
	_ = first.Body.Close()
	if b, err := io.ReadAll(second.Body); string(b) != "answer 2" || err != nil {
		t.Errorf("second answer = %q, %v", b, err)
	}
}

func TestAnswersThatCloseAreNotFollowed(t *testing.T) {
	for name, answer := range map[string]string{
		"Connection: close": "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
		"HTTP/1.0":          "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
		"101":               "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"status below 100":  "HTTP/1.1 099 What\r\nContent-Length: 1\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) { say(c, answer) }))
			p := carrier(t, Upstream{})
			for range 2 {
				text(t, p, s.url)
			}
			Eventually(t, "the end of both connections", func() bool { return s.ended.Load() == 2 })
		})
	}
}

func TestAHeaderThatIsTooLongFails(t *testing.T) {
	field := "X-F: " + strings.Repeat("v", 1<<10) + "\r\n"
	for name, head := range map[string]string{
		"in the answer":  "HTTP/1.1 200 OK\r\n" + strings.Repeat(field, maxAnswerHeader>>10),
		"in a hint":      "HTTP/1.1 103 Early Hints\r\n" + strings.Repeat(field, maxAnswerHeader>>10),
		"without an end": "HTTP/1.1 200 " + strings.Repeat("O", maxAnswerHeader),
	} {
		s := script(t, requests(func(_ int, c net.Conn, req *http.Request) {
			if req.URL.Path == "/long" {
				say(c, head+"\r\n")
				return
			}
			sayOK(c, "ok")
		}))
		p := carrier(t, Upstream{})
		for _, connection := range []string{"new", "kept"} {
			if _, err := roundTrip(t.Context(), t, p, "GET", s.url+"/long"); !errors.Is(err, errLongHeader) {
				t.Errorf("%s, on a %s connection: error = %v, want errLongHeader", name, connection, err)
			}
			text(t, p, s.url)
		}
	}
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		sayOK(c, strings.Repeat("b", 4*maxAnswerHeader)) // a body may be longer
	}))
	if got := text(t, carrier(t, Upstream{}), s.url); len(got) != 4*maxAnswerHeader {
		t.Errorf("%d bytes, want %d", len(got), 4*maxAnswerHeader)
	}
}

func TestHeaderTimeoutEndsAPlainRequest(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, req *http.Request) {
		switch req.URL.Path {
		case "/hint":
			say(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
		case "/silence":
		default:
			sayOK(c, "ok")
		}
	}))
	p := carrier(t, Upstream{HeaderTimeout: 50 * time.Millisecond})
	for n, path := range []string{"/hint", "/silence"} {
		text(t, p, s.url)
		_, err := roundTrip(t.Context(), t, p, "GET", s.url+path) // on a kept connection, yet not a second time
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, context.DeadlineExceeded) || s.connections.Load() != int64(n+1) {
			t.Errorf("%s: error = %v after %d connections, want a timeout after %d", path, err, s.connections.Load(), n+1)
		}
	}
	if got := text(t, p, s.url); got != "ok" {
		t.Errorf("answer = %q, want ok", got)
	}
}

func TestMaxIdleBoundsWhatIsKept(t *testing.T) {
	const more = 5
	var asked sync.WaitGroup
	asked.Add(more)
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		asked.Done()
		asked.Wait() // all at once
		sayOK(c, "ok")
	}))
	p := carrier(t, Upstream{MaxIdle: 2})
	var all sync.WaitGroup
	for range more {
		all.Go(func() { text(t, p, s.url) })
	}
	all.Wait()
	if n := len(p.kept.waiting()); n != 2 {
		t.Errorf("%d connections wait, want 2", n)
	}
	Eventually(t, "the end of the others", func() bool { return s.ended.Load() == more-2 })
	p.CloseIdleConnections()
	Eventually(t, "the end of all", func() bool { return s.ended.Load() == more })
}

func TestConnectionsWaitForIdleTimeoutAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := carrier(t, Upstream{IdleTimeout: time.Minute})
		var open atomic.Int64
		put := func(host string) {
			here, there := net.Pipe()
			if err := p.kept.put(host, newWire(here)); err != nil {
				t.Fatal(err)
			}
			open.Add(1)
			go func() {
				_, _ = there.Read(make([]byte, 1)) // until it is closed
				open.Add(-1)
			}()
		}
		want := func(n int64) {
			t.Helper()
			if synctest.Wait(); open.Load() != n {
				t.Fatalf("%d connections are open, want %d", open.Load(), n)
			}
		}
		put("a")
		time.Sleep(20 * time.Second)
		put("a")
		time.Sleep(20 * time.Second)
		put("b")
		time.Sleep(19 * time.Second)
		want(3)
		time.Sleep(2 * time.Second)
		want(2)
		time.Sleep(20 * time.Second)
		want(1)
		time.Sleep(20 * time.Second)
		want(0)
		if p.kept.timer != nil || len(p.kept.wires) != 0 {
			t.Error("something is left")
		}
		for range 3 { // what is used does not grow old
			put("a")
			time.Sleep(40 * time.Second)
			c := p.kept.pop("a")
			if err := p.kept.put("a", c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(40 * time.Second)
			want(1)
			time.Sleep(20 * time.Second)
			want(0)
		}
		put("a") // of hosts that are not asked any more, nothing is left
		_ = p.kept.pop("a").Close()
		put("b")
		time.Sleep(time.Minute)
		want(0)
		if p.kept.timer != nil || len(p.kept.wires) != 0 {
			t.Error("something is left")
		}
		put("a") // it begins again
		time.Sleep(time.Minute)
		want(0)
		put("a")
		p.CloseIdleConnections()
		want(0)
		if p.kept.timer != nil || len(p.kept.wires) != 0 {
			t.Error("something is left")
		}
	})
}

func TestThoseWhoTraceHearOfPlainRequestsWhatTheyHearOfOthers(t *testing.T) {
	s := script(t, requests(func(_ int, c net.Conn, _ *http.Request) {
		say(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		sayOK(c, "ok")
	}))
	heard := func(by http.RoundTripper, agent string) (events []string) {
		var mu sync.Mutex
		tell := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, fmt.Sprintf(format, args...))
		}
		var fields []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GetConn: func(at string) { tell("get %s", at) },
			GotConn: func(i httptrace.GotConnInfo) {
				tell("got, reused: %v, idle: %v %v", i.Reused, i.WasIdle, i.IdleTime > 0)
			},
			PutIdleConn:          func(err error) { tell("put %v", err) },
			GotFirstResponseByte: func() { tell("first byte") },
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				tell("%d %v", code, h)
				return nil
			},
			ConnectStart:     func(network, _ string) { tell("connect %s", network) },
			WroteHeaderField: func(name string, values []string) { fields = append(fields, fmt.Sprint(name, values)) },
			WroteHeaders: func() {
				slices.Sort(fields)
				tell("headers %v", fields)
				fields = nil
			},
			WroteRequest: func(i httptrace.WroteRequestInfo) { tell("request %v", i.Err) },
		})
		for range 2 {
			req, _ := http.NewRequestWithContext(ctx, "GET", s.url, nil)
			req.Header = http.Header{"X-A": {"1", "2"}, "Content-Length": {"9"}}
			req.Host = "shop.example"
			if agent != "" {
				req.Header["User-Agent"] = []string{agent, "other"}
			}
			resp, err := by.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadAll(resp.Body)
		}
		mu.Lock()
		defer mu.Unlock()
		return events
	}
	for _, agent := range []string{"", "test"} {
		p := carrier(t, Upstream{})
		ours, theirs := heard(p, agent), heard(p.Transport, agent)
		// Goroutines of the Transport may tell of two things in either order.
		slices.Sort(ours)
		slices.Sort(theirs)
		if !slices.Equal(ours, theirs) {
			t.Errorf("told %q\nthe Transport %q", ours, theirs)
		}
	}
	failed := errors.New("enough")
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return failed }})
	if _, err := roundTrip(ctx, t, carrier(t, Upstream{}), "GET", s.url); !errors.Is(err, failed) {
		t.Errorf("error = %v, want that of the hook", err)
	}
}

func TestWhatAPlainRequestAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	s := script(t, func(_ int64, c net.Conn, r *bufio.Reader) { // without an allocation of its own
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				_, _ = c.Write(answer)
			}
		}
	})
	p := carrier(t, Upstream{})
	count := func(by http.RoundTripper) float64 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.url, nil)
		buf := make([]byte, 16)
		return testing.AllocsPerRun(200, func() {
			resp, err := by.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = resp.Body.Read(buf)
			_ = resp.Body.Close()
		})
	}
	ours, theirs := count(p), count(p.Transport)
	t.Logf("%v allocations, of the Transport %v", ours, theirs)
	if ours > 12 {
		t.Errorf("%v allocations, want 12 at most", ours)
	}
}
