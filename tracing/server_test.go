package tracing_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/tracing"
)

// expect compares the attributes that want names; nil means absent.
func (s *span) expect(t testing.TB, want map[attribute.Key]any) {
	t.Helper()
	for key, value := range want {
		if got := s.attrs[key]; got != value {
			t.Errorf("span %q has %s = %v, want %v", s.name, key, got, value)
		}
	}
}

// serve answers one request within a fresh recorder.
func serve(t testing.TB, cfg tracing.Config, h http.Handler, r *http.Request) (*recorder, *httptest.ResponseRecorder) {
	t.Helper()
	rec := &recorder{}
	cfg.Provider = rec
	w := httptest.NewRecorder()
	mustNew(t, cfg).Middleware(h).ServeHTTP(w, r)
	return rec, w
}

func nothing(http.ResponseWriter, *http.Request) {}

func TestServerSpanIsDescribedByTheConventions(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET example.com/users/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	r := httptest.NewRequest(http.MethodGet, "https://example.com:8443/users/4%2F2?q=1&sig=secret", nil)
	r.RemoteAddr = "[2001:db8::1]:5555"
	r.TLS = &tls.ConnectionState{}
	r.Header.Set("User-Agent", "curl\xff")
	rec, _ := serve(t, tracing.Config{}, mux, r)
	s := rec.only(t)
	if s.name != "GET /users/{id}" || s.kind != trace.SpanKindServer || s.status != codes.Unset {
		t.Errorf("name, kind, status = %q, %v, %v, want GET /users/{id}, server, unset on 404", s.name, s.kind, s.status)
	}
	s.expect(t, map[attribute.Key]any{
		"http.request.method": "GET", "http.request.method_original": nil, "http.route": "/users/{id}",
		"http.response.status_code": int64(404), "error.type": nil,
		"url.scheme": "https", "url.path": "/users/4%2F2", "url.query": "q=1&sig=REDACTED",
		"server.address": "example.com", "server.port": int64(8443),
		"network.peer.address": "2001:db8::1", "network.peer.port": int64(5555), "network.protocol.version": "1.1",
		"user_agent.original": "curl?",
	})
}

func TestServerSpanHasTheDefaultPortAndOtherVersions(t *testing.T) {
	for _, tt := range []struct {
		major, minor int
		host         string
		want         map[attribute.Key]any
	}{
		{1, 0, "example.com", map[attribute.Key]any{"network.protocol.version": "1.0", "server.address": "example.com", "server.port": int64(80)}},
		{2, 0, "[::1]", map[attribute.Key]any{"network.protocol.version": "2", "server.address": "::1", "server.port": int64(80)}},
		{3, 0, "", map[attribute.Key]any{"network.protocol.version": "3", "server.address": nil}},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.ProtoMajor, r.ProtoMinor, r.Host = tt.major, tt.minor, tt.host
		rec, _ := serve(t, tracing.Config{}, http.HandlerFunc(nothing), r)
		rec.only(t).expect(t, tt.want)
	}
}

func TestUnknownMethodSharesAName(t *testing.T) {
	rec, _ := serve(t, tracing.Config{}, http.HandlerFunc(nothing), httptest.NewRequest("BREW", "/", nil))
	s := rec.only(t)
	if s.name != "HTTP" {
		t.Errorf("name = %q, want HTTP", s.name)
	}
	s.expect(t, map[attribute.Key]any{"http.request.method": "_OTHER", "http.request.method_original": "BREW"})
}

func TestPathsWithoutRouteShareAName(t *testing.T) {
	rec := &recorder{}
	h := mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(nothing))
	names := map[string]bool{}
	for i := range 1000 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, fmt.Sprintf("/%d", i), nil))
	}
	for _, s := range rec.all(t) {
		names[s.name] = true
		s.expect(t, map[attribute.Key]any{"http.route": nil})
	}
	if len(names) != 1 || !names["GET"] {
		t.Errorf("1000 paths have the names %v, want GET alone", names)
	}
}

func TestServerStatus(t *testing.T) {
	for _, tt := range []struct {
		does   string
		answer func(http.ResponseWriter)
		status any
		want   codes.Code
		kind   any
	}{
		{"200 when nothing is written", func(http.ResponseWriter) {}, int64(200), codes.Unset, nil},
		{"200 when only a body is written", func(w http.ResponseWriter) { io.WriteString(w, "x") }, int64(200), codes.Unset, nil},
		{"200 when only bytes are written", func(w http.ResponseWriter) { w.Write([]byte("x")); w.WriteHeader(500) }, int64(200), codes.Unset, nil},
		{"200 when only flushed", func(w http.ResponseWriter) { w.(http.Flusher).Flush(); w.WriteHeader(500) }, int64(200), codes.Unset, nil},
		{"the first final status counts", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusCreated)
			w.WriteHeader(http.StatusTeapot)
		}, int64(201), codes.Unset, nil},
		{"400 is no error of the server", func(w http.ResponseWriter) { w.WriteHeader(400) }, int64(400), codes.Unset, nil},
		{"500 is an error", func(w http.ResponseWriter) { w.WriteHeader(500) }, int64(500), codes.Error, "500"},
		{"503 is an error", func(w http.ResponseWriter) { w.WriteHeader(503) }, int64(503), codes.Error, "503"},
	} {
		t.Run(tt.does, func(t *testing.T) {
			rec, _ := serve(t, tracing.Config{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tt.answer(w) }), httptest.NewRequest(http.MethodGet, "/", nil))
			s := rec.only(t)
			s.expect(t, map[attribute.Key]any{"http.response.status_code": tt.status, "error.type": tt.kind})
			if s.status != tt.want {
				t.Errorf("status = %v, want %v", s.status, tt.want)
			}
		})
	}
}

func TestPanicIsRecordedAndGoesOnWithItsStack(t *testing.T) {
	rec := &recorder{}
	h := mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { explode() }))
	func() {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("recover() = %v, want the handler's own panic", v)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}()
	s := rec.only(t)
	s.expect(t, map[attribute.Key]any{"error.type": "panic", "http.response.status_code": nil})
	if stack, _ := s.eventAttrs["exception.stacktrace"].(string); s.status != codes.Error || len(s.events) != 1 || s.events[0] != "exception" || !strings.Contains(stack, "tracing_test.explode") {
		t.Errorf("status, events, stack = %v, %v, %.200q, want an error with an exception in explode", s.status, s.events, stack)
	}
}

func explode() { panic("boom") }

func TestPanicAfterTheClientWentAwayIsNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rec := &recorder{}
	h := mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		cancel()
		panic(http.ErrAbortHandler)
	}))
	func() {
		defer func() {
			if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
				t.Errorf("recover() = %v, want ErrAbortHandler", err)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	}()
	s := rec.only(t)
	s.expect(t, map[attribute.Key]any{"error.type": nil, "http.response.status_code": int64(200)})
	if s.status != codes.Unset {
		t.Errorf("status = %v, want unset", s.status)
	}
}

func TestUnsampledParentIsNotOverruled(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	var sent http.Header
	client := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := client.RoundTrip(httptest.NewRequest(http.MethodGet, "http://h/", nil).WithContext(r.Context())); err != nil {
			t.Error(err)
		}
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("traceparent", w3cParent+"-00")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got := sent.Get("traceparent"); !strings.HasPrefix(got, "00-"+w3cTrace) || !strings.HasSuffix(got, "-00") {
		t.Errorf("traceparent = %q, want the same trace, not sampled", got)
	}
	if spans := rec.all(t); len(spans) != 0 {
		t.Errorf("%d spans were recorded, want none", len(spans))
	}
}

func TestPublicRequestStartsANewTraceWithALinkAndWithoutBaggage(t *testing.T) {
	rec := &recorder{neverRoots: true}
	tracer := mustNew(t, tracing.Config{Provider: rec, Public: func(*http.Request) bool { return true }})
	var seen trace.SpanContext
	var bag baggage.Baggage
	h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen, bag = trace.SpanContextFromContext(r.Context()), baggage.FromContext(r.Context())
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("traceparent", w3cParent+"-01")
	r.Header.Set("baggage", "user=1")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if seen.TraceID().String() == w3cTrace || seen.IsSampled() || bag.Len() != 0 {
		t.Errorf("trace, sampled, baggage = %v, %v, %v: a stranger forced them", seen.TraceID(), seen.IsSampled(), bag)
	}

	rec.neverRoots = false
	h.ServeHTTP(httptest.NewRecorder(), r)
	s := rec.only(t)
	if len(s.links) != 1 || s.links[0].SpanContext.TraceID().String() != w3cTrace || s.parent.IsValid() {
		t.Errorf("links, parent = %v, %v, want a link to the trace that came in and no parent", s.links, s.parent)
	}
}

func TestSkippedRequestHasNoSpanAndPassesItsContextOn(t *testing.T) {
	var seen trace.SpanContext
	r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
	r.Header.Set("traceparent", w3cParent+"-01")
	cfg := tracing.Config{MintIDs: true, Skip: func(r *http.Request) bool { return r.URL.Path == "/healthz" }}
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = trace.SpanContextFromContext(r.Context()) })
	rec, _ := serve(t, cfg, h, r)
	if n := len(rec.all(t)); n != 0 || seen.TraceID().String() != w3cTrace {
		t.Errorf("spans, trace = %d, %v, want 0 and the inbound one", n, seen.TraceID())
	}
	_, _ = serve(t, cfg, h, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if seen.IsValid() {
		t.Errorf("trace = %v, want none: ids are minted only without a provider", seen.TraceID())
	}
}

func TestWrappingAHandlerTwiceMakesOneSpan(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	mux := http.NewServeMux()
	mux.Handle("POST /orders/{id}", tracer.Middleware(http.HandlerFunc(nothing)))
	// Something in between copies the request, so that only the inner one sees
	// the route.
	copies := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { mux.ServeHTTP(w, r.Clone(r.Context())) })
	tracer.Middleware(copies).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/orders/7", nil))
	s := rec.only(t)
	if s.name != "POST /orders/{id}" {
		t.Errorf("name = %q, want the route that the inner middleware saw", s.name)
	}
	s.expect(t, map[attribute.Key]any{"http.route": "/orders/{id}"})
}

func TestRouteIsKnownAtTheStartInsideAMux(t *testing.T) {
	rec := &recorder{}
	mux := http.NewServeMux()
	mux.Handle("/files/", mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(nothing)))
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/files/a/b", nil))
	s := rec.only(t)
	if s.name != "GET /files/" {
		t.Errorf("name = %q, want GET /files/", s.name)
	}
	s.expect(t, map[attribute.Key]any{"http.route": "/files/"})
}

func TestAPathThatAMuxMakesUpIsNoRoute(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/users/{id}/", nothing)
	mux.HandleFunc("CONNECT /tunnel/{id}", nothing)
	for _, tt := range []struct{ method, path, want string }{
		{http.MethodGet, "/users/7", "GET /users/{id}/"},
		{http.MethodConnect, "/users/7", "CONNECT"},   // the mux says that its pattern is /users/7/
		{http.MethodConnect, "/users/%2e", "CONNECT"}, // the same, cleaned
		{http.MethodConnect, "/users/7/", "CONNECT /users/{id}/"},
		{http.MethodConnect, "/tunnel/7", "CONNECT /tunnel/{id}"},
	} {
		rec, _ := serve(t, tracing.Config{}, mux, httptest.NewRequest(tt.method, tt.path, nil))
		if got := rec.only(t).name; got != tt.want {
			t.Errorf("%s %s: name = %q, want %q", tt.method, tt.path, got, tt.want)
		}
	}
}

func TestWriterCanDoWhatTheServersCan(t *testing.T) {
	for _, tt := range []struct {
		does                     string
		w                        http.ResponseWriter
		flushes, hijacks, pushes bool
	}{
		{"a plain one", plainWriter{}, false, false, false},
		{"one that flushes", struct {
			plainWriter
			http.Flusher
		}{}, true, false, false},
		{"one that hijacks", struct {
			plainWriter
			http.Hijacker
		}{}, false, true, false},
		{"that of HTTP/1", struct {
			plainWriter
			http.Flusher
			http.Hijacker
		}{}, true, true, false},
		{"that of HTTP/2", struct {
			plainWriter
			http.Flusher
			http.Pusher
		}{}, true, false, true},
	} {
		t.Run(tt.does, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, flushes := w.(http.Flusher)
				_, hijacks := w.(http.Hijacker)
				_, pushes := w.(http.Pusher)
				if flushes != tt.flushes || hijacks != tt.hijacks || pushes != tt.pushes {
					t.Errorf("flushes, hijacks, pushes = %v, %v, %v, want %v, %v, %v", flushes, hijacks, pushes, tt.flushes, tt.hijacks, tt.pushes)
				}
				if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); !ok || u.Unwrap() != tt.w {
					t.Error("Unwrap() does not return the server's writer")
				}
			})
			mustNew(t, tracing.Config{Provider: &recorder{}}).Middleware(h).ServeHTTP(tt.w, httptest.NewRequest(http.MethodGet, "/", nil))
		})
	}
}

type plainWriter struct{}

func (plainWriter) Header() http.Header         { return http.Header{} }
func (plainWriter) Write(p []byte) (int, error) { return len(p), nil }
func (plainWriter) WriteHeader(int)             {}

type pushWriter struct {
	*httptest.ResponseRecorder
	pushed string
}

func (w *pushWriter) Push(target string, _ *http.PushOptions) error {
	w.pushed = target
	return nil
}

func TestPushReachesTheServer(t *testing.T) {
	w := &pushWriter{ResponseRecorder: httptest.NewRecorder()}
	rec := &recorder{}
	mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := w.(http.Pusher).Push("/style.css", nil); err != nil {
			t.Error(err)
		}
		w.(http.Flusher).Flush()
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.pushed != "/style.css" || !w.Flushed {
		t.Errorf("pushed, flushed = %q, %v, want /style.css, true", w.pushed, w.Flushed)
	}
	rec.only(t).expect(t, map[attribute.Key]any{"http.response.status_code": int64(200)})
}

func TestStreamsReachTheClientWhileTheHandlerRuns(t *testing.T) {
	rec := &recorder{}
	proceed := make(chan struct{})
	server := httptest.NewServer(mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-proceed
		io.Copy(w, io.LimitReader(strings.NewReader("data: 2\n\n"), 100))
	})))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if line, _ := body.ReadString('\n'); line != "data: 1\n" {
		t.Errorf("first line = %q before the handler returned, want data: 1", line)
	}
	close(proceed)
	if rest, _ := io.ReadAll(body); string(rest) != "\ndata: 2\n\n" {
		t.Errorf("rest = %q", rest)
	}
}

func TestHijackedConnectionIsTheHandlers(t *testing.T) {
	rec := &recorder{}
	done := make(chan struct{})
	server := httptest.NewServer(mustNew(t, tracing.Config{Provider: rec}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello")
	})))
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	if got, _ := io.ReadAll(conn); !strings.HasSuffix(string(got), "\r\n\r\nhello") {
		t.Errorf("read %q, want the handler's own bytes", got)
	}
	<-done
	server.Close()
	rec.only(t).expect(t, map[attribute.Key]any{"http.response.status_code": nil})
}

// readerFrom notes that the server was asked to read by itself.
type readerFrom struct {
	http.ResponseWriter
	asked bool
}

func (w *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	w.asked = true
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
}

func TestReadFromReachesTheServer(t *testing.T) {
	inner := httptest.NewRecorder()
	w := &readerFrom{ResponseWriter: inner}
	mustNew(t, tracing.Config{Provider: &recorder{}}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.Copy(w, struct{ io.Reader }{strings.NewReader("file")})
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if !w.asked || inner.Body.String() != "file" {
		t.Errorf("asked, body = %v, %q, want true, file", w.asked, inner.Body)
	}
}

func TestHostileHeadersNeverFailARequest(t *testing.T) {
	big := strings.Repeat("a", 1<<20)
	for name, h := range map[string]http.Header{
		"long lines": {"Traceparent": {big}, "Tracestate": {big, "x=" + big}, "Baggage": {big + "=" + big}},
		"many lines": {"Traceparent": make([]string, 1<<16), "Tracestate": make([]string, 1<<16), "Baggage": make([]string, 1<<16)},
		"binary":     {"Traceparent": {"\x00\xff"}, "Tracestate": {"\x00=\xff"}, "Baggage": {"\x00=%zz;;;=,,"}, "User-Agent": {"\xff" + big}},
		"no values":  {"Traceparent": {}, "Tracestate": {}, "Baggage": {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/?"+strings.Repeat("a&", 1<<16), nil)
			r.Header = h
			r.URL.Path = "/" + big
			rec, w := serve(t, tracing.Config{}, http.HandlerFunc(nothing), r)
			s := rec.only(t)
			if w.Code != http.StatusOK || s.parent.IsValid() {
				t.Errorf("status, parent = %d, %v, want 200 and none", w.Code, s.parent)
			}
			for key, value := range s.attrs {
				if text, ok := value.(string); ok && len(text) > 1024 {
					t.Errorf("%s has %d bytes, want at most 1024", key, len(text))
				}
			}
		})
	}
}
