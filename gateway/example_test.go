package gateway_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// orders is a service as it may stand behind a gateway.
func orders() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "order %s for %s", r.PathValue("id"), r.Header.Get("X-Forwarded-Host"))
	})
	return httptest.NewServer(mux)
}

// request sends one request through a gateway.
func request(h http.Handler, method, target string) (status int, body string) {
	r := httptest.NewRequest(method, target, http.NoBody)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func Example() {
	service := orders()
	defer service.Close()

	var b gateway.Builder
	b.Upstream(&gateway.Upstream{
		Name:    "orders",
		Targets: []string{service.URL},
		Retry:   &retry.Policy{MaxAttempts: 3},
		Breaker: &breaker.Config{},
	})
	b.Route(gateway.Route{Pattern: "GET /v1/orders/{id}", Upstream: "orders", Rewrite: "/orders/{id}"})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gw.CloseIdleConnections()

	// To serve it: gw.Server("127.0.0.1:8080").ListenAndServe()
	fmt.Println(request(gw, "GET", "http://shop.example/v1/orders/7"))
	fmt.Println(request(gw, "GET", "http://shop.example/v1/orders/%2e%2e/secret"))
	// Output:
	// 200 order 7 for shop.example
	// 400 {"title":"Bad Request","status":400,"detail":"the path is ambiguous or malformed; send it without dot segments, empty segments, parameters and encoded delimiters"}
}

// Faults of all upstreams and routes come at once, on one line.
func ExampleBuilder_Build() {
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "orders", Targets: []string{"orders:8080"}})
	b.Route(gateway.Route{Pattern: "GET /orders/{id", Upstream: "order"})
	_, err := b.Build()
	fmt.Println(err)
	// Output:
	// gateway: build: Upstream "orders": Targets[0]: its scheme is neither http nor https; Route "GET /orders/{id": Pattern: segment "{id": a wildcard must fill a whole segment; Route "GET /orders/{id": there is no Upstream "order"
}

// A fallback stands in for an upstream that cannot be reached.
func ExampleRoute_fallback() {
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "prices", Targets: []string{"http://127.0.0.1:1"}}) // nobody listens there
	b.Route(gateway.Route{
		Pattern: "GET /prices/{item}", Upstream: "prices",
		Fallback: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "list price of %s", r.PathValue("item"))
		}),
	})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(request(gw, "GET", "/prices/tea"))
	// Output:
	// 200 list price of tea
}

// Middleware of a route runs before the request is forwarded; what it sets, the
// client cannot forge.
func ExampleRoute_use() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Header.Get("X-User"))
	}))
	defer service.Close()
	asAlice := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-User", "alice")
			next.ServeHTTP(w, r)
		})
	}

	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "greeter", Targets: []string{service.URL}})
	b.Route(gateway.Route{Pattern: "/", Upstream: "greeter", Use: []func(http.Handler) http.Handler{asAlice}})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gw.CloseIdleConnections()
	r := httptest.NewRequest("GET", "/", http.NoBody)
	r.Header.Set("X-User", "mallory")
	r.Header.Set("Connection", "X-User")
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	fmt.Println(w.Body)
	// Output:
	// hello alice
}

func ExampleBuilder_AccessLog() {
	service := orders()
	defer service.Close()
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "orders", Targets: []string{service.URL}})
	b.Route(gateway.Route{Pattern: "GET /orders/{id}", Upstream: "orders"})
	b.AccessLog(gateway.AccessLog{Logger: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { // what differs from run to run
			switch a.Key {
			case slog.TimeKey, "duration", "target", "request_id":
				return slog.Attr{}
			}
			return a
		},
	}))})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gw.CloseIdleConnections()
	request(gw, "GET", "/orders/7?token=secret")
	// Output:
	// level=INFO msg=request method=GET route="GET /orders/{id}" status=200 bytes=23 upstream=orders attempts=1
}

func ExampleGateway_Server() {
	gw, err := new(gateway.Builder).Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	server := gw.Server("127.0.0.1:8080") // then server.ListenAndServe()
	fmt.Println(server.ReadHeaderTimeout, server.IdleTimeout, server.MaxHeaderBytes)
	// Output:
	// 5s 2m0s 65536
}
