package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/gateway"
)

// overTLS serves h over HTTP/2 with TLS.
func overTLS(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// P24.
func TestTrailersPassOverTLSFromEndToEnd(t *testing.T) {
	backend := overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/announced":
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = io.WriteString(w, r.Proto)
			w.Header().Set("Grpc-Status", "7")
		case "/unannounced":
			_, _ = io.WriteString(w, r.Proto)
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "7")
		}
	}))
	roots := x509.NewCertPool()
	roots.AddCert(backend.Certificate())
	s := overTLS(t, build(t, gateway.Upstream{Targets: []string{backend.URL}, TLS: &tls.Config{RootCAs: roots}}, everything))
	for _, path := range []string{"/announced", "/unannounced"} {
		resp, err := s.Client().Post(s.URL+path, "application/grpc", strings.NewReader("ask"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "HTTP/2.0" || resp.ProtoMajor != 2 || resp.Trailer.Get("Grpc-Status") != "7" {
			t.Errorf("%s: %s %q, %v, trailer %v, want Grpc-Status 7 over HTTP/2.0", path, resp.Proto, body, err, resp.Trailer)
		}
	}
}

// P3, P34: one stream that stalls is answered, and the others of its connection
// go on.
func TestStalledBodyOverHTTP2EndsNothingButItsOwnStream(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "/", IdleTimeout: 100 * time.Millisecond})
	client := h2c(t)
	var fresh atomic.Int64
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			fresh.Add(1)
		}
	}}
	ctx := httptrace.WithClientTrace(t.Context(), trace)
	for range 3 {
		body, stall := io.Pipe()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, body)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		stall.Close()
		wantProblem(t, resp, string(text), http.StatusRequestTimeout)

		req, _ = http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("whole"))
		if resp, err = client.Do(req); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the next request = %s, want 200", resp.Status)
		}
	}
	if n := fresh.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// Once the answer has begun, a client that waits for more of it is not slow.
func TestClientOfABidirectionalStreamMayFallSilent(t *testing.T) {
	backend := serveH2C(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 30 {
			<-tick.C
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
		rest, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the upstream reads %v, want the rest of the body", err)
		}
		_, _ = w.Write(rest)
	}))
	s := serve(t, build(t, gateway.Upstream{Targets: []string{backend.URL}, HTTP2: true}, gateway.Route{Pattern: "/", IdleTimeout: time.Second}))
	body, say := io.Pipe()
	req, _ := http.NewRequest(http.MethodPost, s.URL, body)
	resp, err := h2c(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 30)
	if _, err := io.ReadFull(resp.Body, got); err != nil { // for longer than IdleTimeout
		t.Fatal(err)
	}
	_, _ = io.WriteString(say, "late")
	say.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "late" {
		t.Errorf("the stream goes on %q, %v, want late", rest, err)
	}
}
