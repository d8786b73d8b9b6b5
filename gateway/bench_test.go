package gateway_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// stub is an upstream that answers at once.
func stub(http.RoundTripper) http.RoundTripper {
	body := strings.Repeat("x", 1024)
	return tripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusOK, Request: r, ContentLength: 1024,
			Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"1024"}},
			Body:   io.NopCloser(strings.NewReader(body)),
		}, nil
	})
}

// stubbed is a gateway of one route whose upstream answers at once, and a request
// for it with six fields.
func stubbed(tb testing.TB, u gateway.Upstream, logs ...gateway.AccessLog) (*gateway.Gateway, *http.Request) {
	tb.Helper()
	var b gateway.Builder
	for _, l := range logs {
		b.AccessLog(l)
	}
	u.Name, u.Targets, u.Wrap = "svc", []string{"http://127.0.0.1:1"}, stub
	b.Upstream(&u)
	b.Route(gateway.Route{Pattern: "GET /v1/orders/{id}", Upstream: "svc"})
	gw, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/v1/orders/7", http.NoBody)
	for _, name := range []string{"Accept", "User-Agent", "Accept-Encoding", "Authorization", "Cache-Control", "X-Trace"} {
		r.Header.Set(name, "value")
	}
	return gw, r
}

// reference is a proxy without a gateway, set up as well as it can be.
func reference() *httputil.ReverseProxy {
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	return &httputil.ReverseProxy{
		Transport: stub(nil), BufferPool: new(buffers),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.SetXForwarded()
		},
	}
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }

func BenchmarkServeHTTP(b *testing.B) {
	plain, r := stubbed(b, gateway.Upstream{})
	guarded, _ := stubbed(b, gateway.Upstream{Retry: &retry.Policy{}, Breaker: &breaker.Config{}})
	everything, _ := stubbed(b, gateway.Upstream{
		Retry: &retry.Policy{}, Breaker: &breaker.Config{}, Eject: &gateway.Eject{}, Picker: gateway.LeastLoaded{},
	}, gateway.AccessLog{Logger: slog.New(slog.NewJSONHandler(io.Discard, nil))})
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"plain", plain}, {"retry and breaker", guarded}, {"everything", everything}, {"ReverseProxy alone", reference()}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.h.ServeHTTP(&discard{make(http.Header)}, r)
			}
		})
	}
}

// A forward makes seventeen allocations beside those of the stub and its writer: the
// exchange, its identifier, and that in the answer's header; a copy of the request for
// Use; the cleaned header (4, of more than eight fields); the trip, with the request of
// its first attempt in it, its context (2), its timer (2), the hook for hints (2); the
// request to the upstream, and the time that this is told.
func TestAForwardMakesSixAllocationsFewerThanReverseProxy(t *testing.T) {
	if gateway.RaceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	other := reference()
	for name, u := range map[string]gateway.Upstream{
		"plain": {}, "with retry and breaker": {Retry: &retry.Policy{}, Breaker: &breaker.Config{}},
	} {
		gw, r := stubbed(t, u)
		forward := func(h http.Handler) float64 {
			return testing.AllocsPerRun(1000, func() { h.ServeHTTP(&discard{make(http.Header)}, r) })
		}
		if got, bare := forward(gw), forward(other); got > bare-6 {
			t.Errorf("%s: %v allocations, and ReverseProxy makes %v; want at least 6 fewer", name, got, bare)
		}
	}
}
