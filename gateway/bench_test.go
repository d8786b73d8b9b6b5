package gateway_test

import (
	"io"
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
func stubbed(tb testing.TB, u gateway.Upstream) (*gateway.Gateway, *http.Request) {
	tb.Helper()
	var b gateway.Builder
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

// reference is the core without a gateway, set up as well as it can be.
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
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"plain", plain}, {"retry and breaker", guarded}, {"ReverseProxy alone", reference()}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.h.ServeHTTP(&discard{make(http.Header)}, r)
			}
		})
	}
}

// A forward costs sixteen allocations that the core by itself does not make: the
// exchange with the trip in it, its identifier, a copy of the request for Use and
// one for the core, the cleaned header (4, of more than eight fields), the context
// of the trip (3), its timer (2), the request and URL of the attempt, and the time
// that the upstream is told. It saves ten: the core copies no header and no path
// values, and nothing is said of the forwarding in words of its own.
func TestAllocsOfAForwardAreSixAboveTheCore(t *testing.T) {
	if gateway.RaceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	core := reference()
	for name, u := range map[string]gateway.Upstream{
		"plain": {}, "with retry and breaker": {Retry: &retry.Policy{}, Breaker: &breaker.Config{}},
	} {
		gw, r := stubbed(t, u)
		forward := func(h http.Handler) float64 {
			return testing.AllocsPerRun(1000, func() { h.ServeHTTP(&discard{make(http.Header)}, r) })
		}
		if got, bare := forward(gw), forward(core); got > bare+6 {
			t.Errorf("%s: %v allocations, of which the core makes %v; want at most 6 more", name, got, bare)
		}
	}
}
