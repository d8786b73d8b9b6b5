package gateway_test

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
	"slices"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t *testing.T) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// serveH2C serves h over HTTP/2 without TLS.
func serveH2C(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// P24.
func TestTrailersOfTheUpstreamReachTheClient(t *testing.T) {
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" {
			t.Errorf("TE = %q, want trailers", r.Header.Get("Te"))
		}
		w.Header().Set("Content-Type", "application/grpc")
		switch r.URL.Path {
		case "/announced":
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = io.WriteString(w, "message")
			w.Header().Set("Grpc-Status", "7")
		case "/unannounced":
			_, _ = io.WriteString(w, "message")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "7")
		case "/only":
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "7")
		}
	})
	servers := map[string]*httptest.Server{
		"HTTP/2 upstream":   serve(t, build(t, gateway.Upstream{Targets: []string{serveH2C(t, backend).URL}, HTTP2: true}, everything)),
		"HTTP/1.1 upstream": front(t, backend, gateway.Upstream{}),
	}
	clients := map[string]*http.Client{"HTTP/2 client": h2c(t), "HTTP/1.1 client": http.DefaultClient}
	for from, client := range clients {
		for to, s := range servers {
			for _, path := range []string{"/announced", "/unannounced", "/only"} {
				t.Run(from+" "+to+" "+path[1:], func(t *testing.T) {
					req, _ := http.NewRequest(http.MethodPost, s.URL+path, strings.NewReader("ask"))
					req.Header.Set("Te", "trailers")
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					if _, err := io.ReadAll(resp.Body); err != nil {
						t.Fatal(err)
					}
					if got := resp.Trailer.Get("Grpc-Status"); got != "7" {
						t.Errorf("Grpc-Status = %q, want 7", got)
					}
				})
			}
		}
	}
}

// P24: net/http sends, as a trailer that was announced, what stands under its name
// in the header.
func TestTrailersAreNotMixedWithFieldsOfTheSameName(t *testing.T) {
	for name, c := range map[string]struct {
		late string
		want []string
	}{"it comes": {"X-Sum: 7\r\n", []string{"7"}}, "it never comes": {"", nil}} {
		t.Run(name, func(t *testing.T) {
			at := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Sum: 1\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\n"+c.late+"\r\n")
				}
			})
			resp, _ := get(t, serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything)).URL)
			if resp.Header.Get("X-Sum") != "1" || !slices.Equal(resp.Trailer["X-Sum"], c.want) {
				t.Errorf("header %v, trailer %v, want X-Sum 1 and %v", resp.Header, resp.Trailer, c.want)
			}
		})
	}
}

// P24.
func TestBothDirectionsStreamAtOnceOverHTTP2(t *testing.T) {
	backend := serveH2C(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(w, "got", lines.Text())
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	s := serve(t, build(t, gateway.Upstream{Targets: []string{backend.URL}, HTTP2: true}, everything))
	body, ask := io.Pipe()
	req, _ := http.NewRequest(http.MethodPost, s.URL, body)
	resp, err := h2c(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for _, line := range []string{"one", "two", "three"} {
		fmt.Fprintln(ask, line)
		if got, err := answers.ReadString('\n'); got != "got "+line+"\n" {
			t.Fatalf("answer = %q, %v, want got %s", got, err, line)
		}
	}
	ask.Close()
	if _, err := io.ReadAll(answers); err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("end = %v, trailer %v, want Grpc-Status 0", err, resp.Trailer)
	}
}

// P13.
func TestServerSentEventsAreFlushedOneByOne(t *testing.T) {
	next := make(chan struct{})
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range next {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	}), gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{wrapWriter}})
	c := dial(t, s)
	go func() { next <- struct{}{} }()
	c.send(t, "GET / HTTP/1.0", "Host: svc") // by 1.0, so that the body is bare
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("response = %v, %v, want 200", resp, err)
	}
	events := bufio.NewReader(resp.Body)
	for range 3 {
		if line, err := events.ReadString('\n'); line != "data: x\n" {
			t.Fatalf("event = %q, %v, want data: x", line, err)
		}
		_, _ = events.ReadString('\n')
		select {
		case next <- struct{}{}:
		case <-t.Context().Done():
		}
	}
	close(next)
}

// P25.
func TestEarlyHintsPassWithoutHopByHopFieldsAndWipeNothing(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"+
			"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nAlt-Svc: h3\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Final: 1\r\n\r\nok")
	})
	outer := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Outer", "1")
			next.ServeHTTP(w, r)
		})
	}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{outer}}))
	c := dial(t, s)
	c.send(t, "GET / HTTP/1.1", "Host: svc")
	early, _ := c.response(t)
	if early.StatusCode != http.StatusEarlyHints || early.Header.Get("Link") != "</a.css>" {
		t.Fatalf("first response = %s %v, want 103 with Link", early.Status, early.Header)
	}
	for name := range early.Header {
		if name != "Link" {
			t.Errorf("the 103 has %s, want Link alone", name)
		}
	}
	final, body := c.response(t)
	if final.StatusCode != http.StatusOK || body != "ok" {
		t.Fatalf("final response = %s %q, want 200 ok", final.Status, body)
	}
	for _, name := range []string{"X-Outer", "X-Final", "X-Request-Id"} {
		if final.Header.Get(name) == "" {
			t.Errorf("the final response has no %s", name)
		}
	}
	if final.Header.Get("Link") != "" {
		t.Error("the final response has the Link of the 103")
	}
}

// P25.
func TestClientOfHTTP10GetsNoHints(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
	if resp, body := exchange(t, s, "GET / HTTP/1.0", "Host: svc"); resp.StatusCode != http.StatusOK || body != "ok" {
		t.Errorf("response = %s %q, want 200 ok at once", resp.Status, body)
	}
}

// P25: transports call the hook from goroutines of their own, whenever that is.
func TestHintsThatComeAfterTheAnswerAreDropped(t *testing.T) {
	wrap := func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			hint := httptrace.ContextClientTrace(r.Context()).Got1xxResponse
			late := hook{strings.NewReader("ok"), func() { _ = hint(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"</late>"}}) }}
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), ContentLength: -1, Body: late, Request: r}, nil
		})
	}
	w := &statuses{ResponseWriter: httptest.NewRecorder()}
	gw := build(t, gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: wrap}, everything)
	gw.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	if !slices.Equal(w.all, []int{http.StatusOK}) {
		t.Errorf("statuses %v, want 200 alone", w.all)
	}
}

// statuses remembers the statuses that are written.
type statuses struct {
	http.ResponseWriter
	all []int
}

func (s *statuses) WriteHeader(status int) {
	s.all = append(s.all, status)
	s.ResponseWriter.WriteHeader(status)
}

// hook is a body that does something before each Read.
type hook struct {
	io.Reader
	do func()
}

func (h hook) Read(p []byte) (int, error) {
	h.do()
	return h.Reader.Read(p)
}

func (h hook) Close() error { return nil }

// P26.
func TestAnswerBeforeTheBodyReachesAClientThatWaitsFor100Continue(t *testing.T) {
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}), gateway.Upstream{})
	c := dial(t, s)
	c.send(t, "POST /refused HTTP/1.1", "Host: svc", "Expect: 100-continue", "Content-Length: 5")
	if resp, _ := c.response(t); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("status = %d, want 413 in place of 100", resp.StatusCode)
	}
	c = dial(t, s)
	c.send(t, "POST /taken HTTP/1.1", "Host: svc", "Expect: 100-continue", "Content-Length: 5")
	if resp, _ := c.response(t); resp.StatusCode != http.StatusContinue {
		t.Fatalf("status = %d, want 100", resp.StatusCode)
	}
	_, _ = io.WriteString(c, "hello")
	if resp, body := c.response(t); resp.StatusCode != http.StatusOK || body != "hello" {
		t.Errorf("response = %s %q, want 200 hello", resp.Status, body)
	}
}

// P27.
func TestAnswerThatBreaksOffIsBrokenOffForTheClientToo(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 5000))
	})
	gw, lines := logged(t, at, everything)
	s := serve(t, gw)
	for name, client := range map[string]*http.Client{"HTTP/1.1": http.DefaultClient, "HTTP/2": h2c(t)} {
		t.Run(name, func(t *testing.T) {
			resp, err := client.Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("%d bytes and a clean end, want an error", len(body))
			}
		})
	}
	for _, line := range lines.wait(t, 2) {
		if line["status"] != 200.0 || line["bytes"] != 5000.0 || line["aborted"] != true {
			t.Errorf("log line %v, want status 200, 5000 bytes, aborted", line)
		}
	}
}

// P28.
func TestBodilessAnswersStayBodilessAndKeepTheirLength(t *testing.T) {
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "1234")
		}
	}), gateway.Upstream{})
	for _, c := range []struct {
		method, path string
		status       int
		length       string
	}{{"HEAD", "/", 200, "1234"}, {"GET", "/204", 204, ""}, {"GET", "/304", 304, ""}} {
		req, _ := http.NewRequest(c.method, s.URL+c.path, http.NoBody)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || len(body) > 0 || err != nil || resp.Header.Get("Content-Length") != c.length {
			t.Errorf("%s %s = %s, length %q, %d bytes, %v, want %d, %q and none",
				c.method, c.path, resp.Status, resp.Header.Get("Content-Length"), len(body), err, c.status, c.length)
		}
	}
}

// P28.
func TestAnswerThatIsNoHTTPIs502(t *testing.T) {
	for name, answer := range map[string]string{
		"status below 100":         "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
		"status above 599":         "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
		"two lengths":              "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"no HTTP":                  "hello\r\n\r\n",
		"nothing":                  "",
		"a header without a colon": "HTTP/1.1 200 OK\r\nodd\r\n\r\n",
		"an endless header":        "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 129<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					_, _ = io.WriteString(c, answer)
				}
			})
			s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
			resp, body := get(t, s.URL)
			wantProblem(t, resp, body, http.StatusBadGateway)
		})
	}
}

func TestAbortOfAHandlerGoesThroughTheGatewayAndIsLogged(t *testing.T) {
	gw, lines := logged(t, "http://127.0.0.1:1", gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{
		func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		},
	}})
	func() {
		defer func() {
			if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
				t.Errorf("recover() = %v, want http.ErrAbortHandler", err)
			}
		}()
		ask(gw, http.MethodGet, "svc", "/")
	}()
	if line := lines.wait(t, 1)[0]; line["aborted"] != true || line["status"] != 0.0 {
		t.Errorf("log line %v, want aborted and status 0", line)
	}
}

// P25: the hints of an attempt that failed do not mix with the answer of the next.
func TestHintsOfAFailedAttemptAreNotInTheAnswer(t *testing.T) {
	first := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </first>\r\n\r\n")
		}
	})
	second := serve(t, new(recorder))
	s := serve(t, build(t, gateway.Upstream{Targets: []string{first, second.URL}, Retry: quickRetry()}, everything))
	hints := 0
	trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }}
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, s.URL, http.NoBody)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Link") != "" || hints != 1 {
		t.Errorf("response = %s, Link %q, %d hints, want 200 without Link after 1 hint", resp.Status, resp.Header.Get("Link"), hints)
	}
}
