package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
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

func BenchmarkServeHTTP(b *testing.B) {
	for name, u := range map[string]gateway.Upstream{
		"plain":             {},
		"retry and breaker": {Retry: &retry.Policy{}, Breaker: &breaker.Config{}},
	} {
		b.Run(name, func(b *testing.B) {
			var builder gateway.Builder
			u.Name, u.Targets, u.Wrap = "svc", []string{"http://127.0.0.1:1"}, stub
			builder.Upstream(&u)
			builder.Route(gateway.Route{Pattern: "GET /v1/orders/{id}", Upstream: "svc"})
			gw, err := builder.Build()
			if err != nil {
				b.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/v1/orders/7", http.NoBody)
			for _, name := range []string{"Accept", "User-Agent", "Accept-Encoding", "Authorization", "Cache-Control", "X-Trace"} {
				r.Header.Set(name, "value")
			}
			b.ReportAllocs()
			for b.Loop() {
				gw.ServeHTTP(&discard{make(http.Header)}, r)
			}
		})
	}
}
