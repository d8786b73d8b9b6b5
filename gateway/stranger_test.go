package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
)

// serveRoute serves one route to h and returns the address.
func serveRoute(t *testing.T, maxBody int64, h http.Handler) string {
	t.Helper()
	backend := httptest.NewServer(h)
	t.Cleanup(backend.Close)
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "u", Targets: []string{backend.URL}})
	b.Route(gateway.Route{Pattern: "/{rest...}", Upstream: "u", MaxBody: maxBody})
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gw.CloseIdleConnections)
	front := httptest.NewServer(gw)
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

func TestMethodsThatMakeTunnelsOrEchoAreNotForwarded(t *testing.T) {
	var forwarded atomic.Int64
	addr := serveRoute(t, 0, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { forwarded.Add(1) }))
	for _, method := range []string{"CONNECT", "TRACE", "get", "Get", "G\u00e9T"} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s /foo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", method)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		// net/http itself refuses what is no token.
		if resp.StatusCode != http.StatusNotImplemented && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s = %d, want 501", method, resp.StatusCode)
		}
		conn.Close()
	}
	if n := forwarded.Load(); n != 0 {
		t.Errorf("%d requests were forwarded, want none", n)
	}
}

func TestOneClientsQuotaDoesNotOpenTheBreakerForAll(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Api-Key") == "greedy" {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(backend.Close)
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "u", Targets: []string{backend.URL}, Breaker: &breaker.Config{}})
	b.Route(gateway.Route{Pattern: "/{rest...}", Upstream: "u"})
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gw.CloseIdleConnections)
	status := func(key string) int {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Api-Key", key)
		gw.ServeHTTP(w, r)
		return w.Code
	}
	for range 50 {
		status("greedy")
	}
	if got := status("modest"); got != http.StatusOK {
		t.Errorf("another client's request = %d, want 200", got)
	}
}

func TestFieldsThatOtherServersTakeForTheGatewaysAreDropped(t *testing.T) {
	var got atomic.Value
	addr := serveRoute(t, 0, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Header.Clone()) }))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{
		"X-Original-Url", "X-Original-Method", "X-Original-Forwarded-For", "X-Rewrite-Url", "X-Host", "X-Http-Host-Override",
		"X-Http-Method-Override", "Proxy", "True-Client-Ip", "X-Remote-Addr", "X-Originating-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
		"X-Envoy-External-Address", "X-Envoy-Original-Path", "X-Arr-Clientcert", "X-Amzn-Mtls-Clientcert",
	}
	for _, name := range names {
		req.Header.Set(name, "evil")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, name := range names {
		if v := got.Load().(http.Header).Get(name); v != "" {
			t.Errorf("%s: %s reached the upstream", name, v)
		}
	}
}

// An HTTP/2 client can send a field Host beside :authority.
func TestHostThatIsNotTheRequestsIsNotSeen(t *testing.T) {
	var b gateway.Builder
	b.Route(gateway.Route{Pattern: "/", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Host"); r.Host != "svc" || got != "" {
			t.Errorf("Host = %q and a field %q, want svc and none", r.Host, got)
		}
	})})
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Host = "svc"
	r.Header.Set("Host", "evil")
	mustBuild(t, &b).ServeHTTP(httptest.NewRecorder(), r)
}

// An upstream that answers before it has read the body makes the gateway write
// the answer on one goroutine while the body, on another, reaches its limit. Run
// with the race detector.
func TestABodyThatReachesItsLimitWhileTheAnswerComesHarmsNothing(t *testing.T) {
	addr := serveRoute(t, 16, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 8))
		for i := range 100 {
			w.Header().Set(fmt.Sprintf("X-Field-%d", i), "v")
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	for range 30 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nxxxxxxxx\r\n")
		_, _ = io.WriteString(conn, "20\r\n"+strings.Repeat("x", 32)+"\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("status = %d, want 401 or 413", resp.StatusCode)
		}
		conn.Close()
	}
}

// The core holds a lock while it writes an informational response, and would wait
// for it when the trip ends.
func TestClientThatTakesNoInformationalResponseHoldsNothingBeyondTimeout(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		hints := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 32<<10) + "\r\n\r\n"
		for {
			if _, err := io.WriteString(c, hints); err != nil {
				return
			}
		}
	})
	gw := build(t, gateway.Upstream{Targets: []string{at}}, gateway.Route{Pattern: "/", Timeout: 200 * time.Millisecond})
	inFlight := func() int { return gw.Stats().Upstreams[0].InFlight }
	dial(t, serve(t, gw)).send(t, "GET / HTTP/1.1", "Host: svc")
	eventually(t, "the request at work", func() bool { return inFlight() == 1 })
	eventually(t, "the end of the request", func() bool { return inFlight() == 0 })
}
