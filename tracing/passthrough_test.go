package tracing_test

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it
	"encoding/base64"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/parley-go/parley/tracing"
)

// proxied serves backend behind a reverse proxy, with tracing on both sides of
// both, and returns the address of the proxy.
func proxied(t *testing.T, tracer *tracing.Tracer, backend http.HandlerFunc) string {
	t.Helper()
	behind := httptest.NewServer(tracer.Middleware(backend))
	t.Cleanup(behind.Close)
	to, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: tracer.Transport(behind.Client().Transport),
	}
	front := httptest.NewServer(tracer.Middleware(proxy))
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

func TestWebSocketPassesThroughAProxy(t *testing.T) {
	rec := &recorder{}
	addr := proxied(t, mustNew(t, tracing.Config{Provider: rec}), func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455 asks for it
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
			base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
		rw.Flush()
		// A masked frame of one text of 5 bytes comes, the same unmasked goes back.
		frame := make([]byte, 11)
		if _, err := io.ReadFull(rw, frame); err != nil {
			t.Error(err)
			return
		}
		for i := range 5 {
			frame[6+i] ^= frame[2+i%4]
		}
		conn.Write(append([]byte{0x81, 5}, frame[6:]...))
	})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The answer to the key is that of RFC 6455 §1.3.
	if got := resp.Header.Get("Sec-WebSocket-Accept"); resp.StatusCode != 101 || got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("the handshake is answered %d, %q", resp.StatusCode, got)
	}
	conn.Write([]byte{0x81, 0x80 | 5, 1, 2, 3, 4, 'h' ^ 1, 'e' ^ 2, 'l' ^ 3, 'l' ^ 4, 'o' ^ 1})
	got := make([]byte, 7)
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "\x81\x05hello" {
		t.Errorf("read %q, %v, want the text hello in a frame", got, err)
	}
}

func TestServerSentEventsPassThroughAProxyAsTheyAreWritten(t *testing.T) {
	next := make(chan struct{})
	addr := proxied(t, mustNew(t, tracing.Config{Provider: &recorder{}}), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			io.WriteString(w, "data: x\n\n")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-next
		}
	})
	resp, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := body.ReadString('\n')
		if err != nil || line != "data: x\n" {
			t.Fatalf("event %d = %q, %v, before the next is written", i, line, err)
		}
		body.ReadString('\n')
		next <- struct{}{}
	}
}

func TestAFileReachesTheServerAsAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("file"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &fileTaker{ResponseRecorder: httptest.NewRecorder()}
	mustNew(t, tracing.Config{Provider: &recorder{}}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, name)
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/f", nil))
	// This is what the server hands to sendfile(2).
	if l, ok := w.src.(*io.LimitedReader); !ok {
		t.Errorf("the server is given a %T, want a *io.LimitedReader", w.src)
	} else if _, ok := l.R.(*os.File); !ok {
		t.Errorf("the server is given a limited %T, want a limited *os.File", l.R)
	}
	if w.Body.String() != "file" {
		t.Errorf("body = %q, want file", w.Body)
	}
}

type fileTaker struct {
	*httptest.ResponseRecorder
	src io.Reader
}

func (w *fileTaker) ReadFrom(src io.Reader) (int64, error) {
	w.src = src
	return io.Copy(w.ResponseRecorder, src)
}

// A handler that aborts its answer does so on purpose, such as a proxy whose
// upstream is gone: the span of the upstream tells why.
func TestAbortedAnswerIsNoErrorOfTheServer(t *testing.T) {
	rec, m := &recorder{}, &meter{}
	h := mustNew(t, tracing.Config{Provider: rec, MeterProvider: m}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		panic(http.ErrAbortHandler)
	}))
	func() {
		defer func() {
			if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
				t.Errorf("recover() = %v, want ErrAbortHandler", err)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}()
	s := rec.only(t)
	s.expect(t, map[attribute.Key]any{"error.type": nil, "http.response.status_code": int64(200)})
	if s.status != codes.Unset || len(s.events) != 0 || strings.Contains(m.only(t).attrs, "error.type") {
		t.Errorf("status, events, measure = %v, %v, %s, want no error", s.status, s.events, m.only(t).attrs)
	}
}

func TestServerLogsThePanicWithTheStackOfItsOrigin(t *testing.T) {
	var log strings.Builder
	server := httptest.NewUnstartedServer(mustNew(t, tracing.Config{Provider: &recorder{}}).Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { explode() })))
	server.Config.ErrorLog = stdlog.New(&log, "", 0)
	server.Start()
	if resp, err := http.Get(server.URL); err == nil {
		resp.Body.Close()
		t.Error("the answer to a panic is complete, want the connection cut")
	}
	server.Close() // waits for the connection, whose end is the log
	if !strings.Contains(log.String(), "tracing_test.explode") {
		t.Errorf("the server logs %s, want the frame that panicked", &log)
	}
}
