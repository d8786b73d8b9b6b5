package gateway_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
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

// A canary gets one request of twenty, and those that carry a field.
func ExampleRoute_split() {
	var b gateway.Builder
	for _, name := range []string{"stable", "canary"} {
		service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, name)
		}))
		defer service.Close()
		b.Upstream(&gateway.Upstream{Name: name, Targets: []string{service.URL}})
	}
	b.Route(gateway.Route{Pattern: "/", Split: []gateway.Share{{Upstream: "stable", Weight: 95}, {Upstream: "canary", Weight: 5}}})
	b.Route(gateway.Route{Pattern: "/", Header: map[string]string{"X-Canary": "*"}, Upstream: "canary"})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gw.CloseIdleConnections()
	served := make(map[string]int)
	for range 100 {
		_, by := request(gw, "GET", "/")
		served[by]++
	}
	fmt.Println(served)
	r := httptest.NewRequest("GET", "/", http.NoBody)
	r.Header.Set("X-Canary", "me")
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	fmt.Println(w.Body)
	// Output:
	// map[canary:5 stable:95]
	// canary
}

// A route may answer by itself, or send its clients elsewhere.
func ExampleRoute_redirect() {
	var b gateway.Builder
	b.Route(gateway.Route{Pattern: "/old/{rest...}", Redirect: gateway.Redirect{To: "https://www.example/{rest...}", Status: http.StatusPermanentRedirect}})
	b.Route(gateway.Route{Pattern: "GET /robots.txt", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "User-agent: *")
	})})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, httptest.NewRequest("GET", "/old/shop/tea?size=2", http.NoBody))
	fmt.Println(w.Code, w.Header().Get("Location"))
	fmt.Println(request(gw, "GET", "/robots.txt"))
	// Output:
	// 308 https://www.example/shop/tea?size=2
	// 200 User-agent: *
}

// What a client says of its own address counts for nothing; what a trusted proxy
// says of it, does.
func ExampleClientIP() {
	b := gateway.Builder{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	b.Route(gateway.Route{Pattern: "/", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, gateway.ClientIP(r))
	})})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, peer := range []string{"203.0.113.7:1234", "10.0.0.1:1234"} {
		r := httptest.NewRequest("GET", "/", http.NoBody)
		r.RemoteAddr = peer
		r.Header.Set("X-Forwarded-For", "1.1.1.1, 198.51.100.9")
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		fmt.Println("peer", peer, "client", w.Body)
	}
	// Output:
	// peer 203.0.113.7:1234 client 203.0.113.7
	// peer 10.0.0.1:1234 client 198.51.100.9
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
	// level=INFO msg=request route="GET /orders/{id}" upstream=orders method=GET status=200 bytes=23 attempts=1
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
