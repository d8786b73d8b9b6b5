package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// asServer makes this program one of the servers of the gateway's rows, which run in
// processes of their own so that their processor time can be told apart. Their
// command line is serve ROLE BACKEND PORT.
func asServer(args []string) bool {
	if len(args) != 4 || args[0] != "serve" {
		return false
	}
	backend, addr := "http://"+args[2], net.JoinHostPort("127.0.0.1", args[3])
	switch args[1] {
	case "backend":
		check(http.ListenAndServe(addr, http.HandlerFunc(order)))
	case "gateway", "gateway_no_log", "gateway_net_http":
		maxConns := 0
		if args[1] == "gateway_net_http" {
			maxConns = 1 << 10 // never reached; who sets it has net/http's connections alone
		}
		gw := everythingOn(backend, nil, args[1] != "gateway_no_log", maxConns)
		go func() { check(gw.Run(context.Background())) }()
		check(gw.Server(addr).ListenAndServe())
	case "gateway_plain":
		check(nothingOn(backend, nil).Server(addr).ListenAndServe())
	case "reverseproxy":
		check(limited(addr, reverseProxy(backend, tunedTransport())).ListenAndServe())
	case "reverseproxy_bare":
		check(http.ListenAndServe(addr, reverseProxy(backend, bareTransport())))
	case "reverseproxy_log":
		check(limited(addr, logged(reverseProxy(backend, tunedTransport()))).ListenAndServe())
	}
	return true
}

// order answers with 1 KiB of JSON, as far as its header says.
func order(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", "1024")
	h.Set("Cache-Control", "no-store")
	h.Set("Etag", `"33a64df5"`)
	_, _ = w.Write(kilobyte)
}

// thrownAway is a log that costs what one on standard output does, a call of the system
// for each line, which is thrown away there.
func thrownAway() *slog.Logger {
	return slog.New(slog.NewJSONHandler(must(os.OpenFile(os.DevNull, os.O_WRONLY, 0)), nil))
}

// patience is how long an upstream has for its headers.
const patience = 10 * time.Second

// everythingOn is a gateway as one would set it up for a service in production.
func everythingOn(backend string, wrap func(http.RoundTripper) http.RoundTripper, log bool, maxConns int) *gateway.Gateway {
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{
		Name: "orders", Targets: []string{backend}, Wrap: wrap, Picker: gateway.LeastLoaded{},
		Retry: &retry.Policy{MaxAttempts: 3}, Breaker: &breaker.Config{},
		Health: &gateway.Health{Path: "/healthz"}, Eject: &gateway.Eject{}, MaxConns: maxConns,
	})
	for _, method := range []string{"GET", "POST"} {
		b.Route(gateway.Route{Pattern: method + " /v1/orders/{id}", Upstream: "orders", Timeout: patience, MaxBody: 1 << 20})
	}
	if log {
		b.AccessLog(gateway.AccessLog{Logger: thrownAway()})
	}
	return must(b.Build())
}

// nothingOn forwards, and does what cannot be switched off: it checks, cleans and
// identifies requests, and bounds them.
func nothingOn(backend string, wrap func(http.RoundTripper) http.RoundTripper) *gateway.Gateway {
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "orders", Targets: []string{backend}, Wrap: wrap})
	b.Route(gateway.Route{Pattern: "/", Upstream: "orders"})
	return must(b.Build())
}

// limited is a server that waits for nobody for ever, as that of a gateway: what faces
// clients of the world has to.
func limited(addr string, h http.Handler) *http.Server {
	return &http.Server{Addr: addr, Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

// reverseProxy is httputil's, set up as well as its options allow.
func reverseProxy(backend string, t http.RoundTripper) http.Handler {
	to := must(url.Parse(backend))
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
		},
		Transport:  t,
		BufferPool: &buffers{},
	}
}

// logged writes a line for each request, as one would by hand around a ReverseProxy.
func logged(next http.Handler) http.Handler {
	log := thrownAway()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		seen := &witness{ResponseWriter: w}
		next.ServeHTTP(seen, r)
		log.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("remote", r.RemoteAddr),
			slog.Int("status", seen.status), slog.Int("bytes", seen.bytes), slog.Duration("duration", time.Since(start)))
	})
}

// witness sees what a handler answers.
type witness struct {
	http.ResponseWriter
	status, bytes int
}

func (w *witness) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *witness) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *witness) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += n
	return n, err
}

// bareTransport keeps as many connections as the others do.
func bareTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute, DisableCompression: true}
}

// tunedTransport waits for no upstream for ever either, as the route of the gateway.
func tunedTransport() *http.Transport {
	t := bareTransport()
	t.ResponseHeaderTimeout = patience
	return t
}

// buffers is a pool of arrays: to put a slice into it would be one allocation more.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }
