package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// say is a service that says its name.
func say(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
}

// single is a gateway of one upstream, for examples.
func single(u *gateway.Upstream) *gateway.Gateway {
	var b gateway.Builder
	b.Upstream(u)
	b.Route(gateway.Route{Pattern: "/", Upstream: u.Name})
	gw, err := b.Build()
	if err != nil {
		panic(err)
	}
	return gw
}

// A target of weight 3 gets three of four requests.
func ExampleRoundRobin() {
	large, small := say("large"), say("small")
	defer large.Close()
	defer small.Close()
	gw := single(&gateway.Upstream{
		Name: "orders", Targets: []string{large.URL, small.URL}, Weights: []int{3, 1},
	})
	defer gw.CloseIdleConnections()
	for range 4 {
		fmt.Println(request(gw, "GET", "/"))
	}
	// Output:
	// 200 large
	// 200 large
	// 200 small
	// 200 large
}

// The same customer always meets the same target.
func ExampleHash() {
	a, b := say("ok"), say("ok")
	defer a.Close()
	defer b.Close()
	gw := single(&gateway.Upstream{
		Name: "carts", Targets: []string{a.URL, b.URL}, Picker: gateway.Hash{By: gateway.ByHeader("X-Customer")},
	})
	defer gw.CloseIdleConnections()
	for range 10 {
		r := httptest.NewRequest("GET", "/", http.NoBody)
		r.Header.Set("X-Customer", "7")
		gw.ServeHTTP(httptest.NewRecorder(), r)
	}
	t := gw.Stats().Upstreams[0].Targets
	fmt.Println(max(t[0].Requests, t[1].Requests), min(t[0].Requests, t[1].Requests))
	// Output:
	// 10 0
}

// byShard takes the target that a header names by its number.
type byShard struct{}

func (byShard) Over(instances []*gateway.Instance) func(*http.Request) int {
	return func(r *http.Request) int {
		n, _ := strconv.Atoi(r.Header.Get("X-Shard"))
		return n % len(instances)
	}
}

// A Picker of one's own may go by whatever a request says.
func ExamplePicker() {
	a, b := say("shard 0"), say("shard 1")
	defer a.Close()
	defer b.Close()
	gw := single(&gateway.Upstream{Name: "orders", Targets: []string{a.URL, b.URL}, Picker: byShard{}})
	defer gw.CloseIdleConnections()
	for _, shard := range []string{"0", "1", "1"} {
		r := httptest.NewRequest("GET", "/", http.NoBody)
		r.Header.Set("X-Shard", shard)
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		fmt.Println(w.Body)
	}
	// Output:
	// shard 0
	// shard 1
	// shard 1
}

// A cookie that only the gateway can make keeps a client where it was.
func ExampleSticky() {
	a, b := say("a"), say("b")
	defer a.Close()
	defer b.Close()
	gw := single(&gateway.Upstream{
		Name: "carts", Targets: []string{a.URL, b.URL},
		Sticky: &gateway.Sticky{Keys: [][]byte{[]byte("a key of 16 bytes or more")}},
	})
	defer gw.CloseIdleConnections()
	first := httptest.NewRecorder()
	gw.ServeHTTP(first, httptest.NewRequest("GET", "/", http.NoBody))
	cookie := first.Result().Cookies()[0]
	fmt.Println(first.Body, cookie.Name, cookie.HttpOnly, cookie.Secure)
	for range 2 {
		r := httptest.NewRequest("GET", "/", http.NoBody)
		r.AddCookie(cookie)
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		fmt.Println(w.Body)
	}
	// Output:
	// a gw-carts true true
	// a
	// a
}

// A bulkhead in Wrap bounds the requests to an upstream, one in Use those of a
// route.
func ExampleUpstream_wrap() {
	inventory, err := bulkhead.New(bulkhead.Config{Name: "inventory", Limit: 20, Queue: 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	reports, err := bulkhead.New(bulkhead.Config{Name: "reports", Limit: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	service := say("done")
	defer service.Close()
	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "inventory", Targets: []string{service.URL}, Wrap: inventory.Transport})
	b.Route(gateway.Route{Pattern: "GET /reports/", Upstream: "inventory", Use: []func(http.Handler) http.Handler{reports.Middleware}})
	gw, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gw.CloseIdleConnections()
	fmt.Println(request(gw, "GET", "/reports/"))
	// Output:
	// 200 done
}

// Where the first target is slow, a second one is asked.
func ExampleUpstream_hedge() {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	quick := say("quick")
	defer slow.Close()
	defer quick.Close()
	defer close(release)
	gw := single(&gateway.Upstream{
		Name: "search", Targets: []string{slow.URL, quick.URL}, Hedge: &retry.Hedging{Delay: 10 * time.Millisecond},
	})
	defer gw.CloseIdleConnections()
	fmt.Println(request(gw, "GET", "/"))
	// Output:
	// 200 quick
}

// Run resolves targets and checks their health.
func ExampleGateway_Run() {
	service := say("hello")
	defer service.Close()
	named := make(chan struct{})
	gw := single(&gateway.Upstream{
		Name: "greeter",
		Resolver: gateway.ResolverFunc(func(context.Context) ([]gateway.Target, error) {
			defer close(named)
			return []gateway.Target{{URL: service.URL}}, nil
		}),
		Health: &gateway.Health{Path: "/"},
	})
	defer gw.CloseIdleConnections()
	status, _ := request(gw, "GET", "/")
	fmt.Println("before:", status)

	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- gw.Run(ctx) }()
	<-named
	for len(gw.Stats().Upstreams[0].Targets) == 0 {
		time.Sleep(time.Millisecond)
	}
	status, _ = request(gw, "GET", "/")
	fmt.Println("then:", status)
	stop()
	fmt.Println(<-ended)
	// Output:
	// before: 503
	// then: 200
	// <nil>
}

// The upstream that stays is the same pointer; what it knows stays with it.
func ExampleGateway_Reload() {
	service := say("ok")
	defer service.Close()
	orders := &gateway.Upstream{Name: "orders", Targets: []string{service.URL}}
	gw := single(orders)
	defer gw.CloseIdleConnections()
	request(gw, "GET", "/")

	var next gateway.Builder
	next.Upstream(orders)
	next.Route(gateway.Route{Pattern: "GET /v2/{rest...}", Upstream: "orders", Rewrite: "/{rest...}"})
	if err := gw.Reload(&next); err != nil {
		fmt.Println(err)
		return
	}
	status, _ := request(gw, "GET", "/v1/x")
	fmt.Println("old route:", status)
	status, _ = request(gw, "GET", "/v2/x")
	fmt.Println("new route:", status)
	fmt.Println("requests of the target:", gw.Stats().Upstreams[0].Targets[0].Requests)
	// Output:
	// old route: 404
	// new route: 200
	// requests of the target: 2
}

// A server ends in two steps: its requests, then the gateway's tunnels.
func ExampleGateway_Close() {
	gw := single(&gateway.Upstream{Name: "chat", Targets: []string{"http://10.0.0.4:8080"}})
	server := gw.Server("127.0.0.1:8080")

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(server.Shutdown(ctx))
	fmt.Println(gw.Close(ctx))
	// Output:
	// <nil>
	// <nil>
}

func ExampleGateway_Stats() {
	service := say("ok")
	defer service.Close()
	gw := single(&gateway.Upstream{Name: "orders", Targets: []string{service.URL}})
	defer gw.CloseIdleConnections()
	request(gw, "GET", "/")
	for _, u := range gw.Stats().Upstreams {
		for _, t := range u.Targets {
			fmt.Println(u.Name, t.Healthy, t.Ejected, t.InFlight, t.Requests, t.Failures, t.Breaker)
		}
	}
	// Output:
	// orders true 0s 0 1 0 closed
}
