// Package edge is the entry to the order flow: the one address that clients
// know.
package edge

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/parley-go/parley/examples/orderflow/httpjson"
	"github.com/parley-go/parley/gateway"
)

// Config says where the services are.
type Config struct {
	Users, Orders, Inventory string
	// Traced adds the trace context to each request that goes to a service.
	Traced func(http.RoundTripper) http.RoundTripper
	Logger *slog.Logger
}

// New returns the gateway. It neither retries nor breaks: the Order service does
// both where it calls others, and the client may send an order again, so a third
// layer would only multiply the attempts.
func New(cfg Config) (*gateway.Gateway, error) {
	var b gateway.Builder
	for name, target := range map[string]string{"users": cfg.Users, "orders": cfg.Orders, "inventory": cfg.Inventory} {
		b.Upstream(&gateway.Upstream{Name: name, Targets: []string{target}, Wrap: cfg.Traced})
	}
	for _, r := range []struct{ pattern, upstream, rewrite string }{
		{"POST /v1/orders", "orders", "/orders"},
		{"GET /v1/orders/{orderId}", "orders", "/orders/{orderId}"},
		{"GET /v1/users/{userId}", "users", "/users/{userId}"},
		{"GET /v1/items/{sku}", "inventory", "/items/{sku}"},
	} {
		b.Route(gateway.Route{
			Pattern: r.pattern, Upstream: r.upstream, Rewrite: r.rewrite, Timeout: 10 * time.Second, MaxBody: httpjson.MaxBody,
		})
	}
	b.AccessLog(gateway.AccessLog{Logger: cfg.Logger})
	return b.Build()
}
