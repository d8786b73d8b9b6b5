package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/julienschmidt/httprouter"

	"github.com/parley-go/parley/gateway"
)

// handlerRows compare what a request costs the handler alone, called in this process.
// What a server does before, to make a request and a header to answer in, is in no figure.
// The ratios only show; the allocations may not become more than they were measured to
// be. With so little else in memory the collector comes often, and its time is counted:
// what a request allocates costs more here than in a process that holds something.
func handlerRows() []row {
	if !wanted("gateway/handler/") {
		return nil
	}
	return append(findRows(), forwardRows()...)
}

// findRows find the route of a request among a hundred, whose handler reads what the
// path says and answers by 204. A miss is answered by each as it does by itself.
//
// This is no race of routers: the gateway finds as part of all that it does for a
// request whoever answers it, with nothing switched on. It makes an identifier, checks
// and cleans host, path, query and header, keeps what becomes of the answer, and hands
// on a request of its own. Its peers find, and little more. What it costs the gateway
// that the routes are many is the difference to ours_1_route, which does all the same
// for the only route that it has; finding and nothing else is BenchmarkFind of package
// gateway.
func findRows() (rows []row) {
	type peer struct {
		name string
		h    http.Handler
	}
	all, peers := ours(hundred), []peer{{"servemux", serveMux()}, {"chi_v5", chiRouter()}, {"httprouter", httpRouter()}}
	for _, c := range []struct {
		name, path string
		status     int
		allocs     int // as measured
		route      string
		params     []string
	}{
		{"static", "/static17/list", http.StatusNoContent, 7, "/static17/list", nil},
		{"1_param", "/one17/4711", http.StatusNoContent, 9, "/one17/{a}", []string{"a"}},
		{"2_params", "/two17/4711/items/12", http.StatusNoContent, 9, "/two17/{a}/items/{b}", []string{"a", "b"}},
		{"miss", "/two17/4711/things/12", http.StatusNotFound, 16, "/two17/{a}/items/{b}", []string{"a", "b"}},
	} {
		one := ours(func(add adder) { add(c.route, c.params...) })
		for _, p := range slices.Concat(peers, []peer{{"ours_1_route", one}}) {
			rows = append(rows, row{
				name: "gateway/handler/find_" + c.name, ours: serving(all, c.path, c.status), peer: p.name, them: serving(p.h, c.path, c.status),
				allocs: c.allocs,
			})
		}
	}
	return rows
}

// forwardRows forward a request to an upstream in memory, whose answer is taken off.
// With everything on, both figures have a call of the system in them for the line of
// the log. The time that an upstream has is bounded by the gateway itself, and by the
// transport of a ReverseProxy, which is no part of this: the timer is in ours alone.
func forwardRows() []row {
	const backend = "http://127.0.0.1:1"
	forward := func(h http.Handler) loop { return serving(h, "/v1/orders/7", http.StatusOK) }
	base := forward(http.HandlerFunc(cannedAnswer))
	proxy, loggedProxy := forward(reverseProxy(backend, canned{})), forward(logged(reverseProxy(backend, canned{})))
	plain, everything := forward(nothingOn(backend, alwaysCanned)), forward(everythingOn(backend, alwaysCanned, true, 0))
	return []row{
		{name: "gateway/handler/forward_plain", ours: plain, peer: "reverseproxy", them: proxy, base: base, allocs: 17},
		{name: "gateway/handler/forward_all_on", ours: everything, peer: "reverseproxy_log", them: loggedProxy, base: base, allocs: 20},
	}
}

// An adder adds a route for a path in which names stand in braces.
type adder func(path string, names ...string)

// hundred adds the routes: static ones, and as many with one parameter and with two.
func hundred(add adder) {
	for i := range 34 {
		add(fmt.Sprintf("/static%d/list", i))
	}
	for i := range 33 {
		add(fmt.Sprintf("/one%d/{a}", i), "a")
		add(fmt.Sprintf("/two%d/{a}/items/{b}", i), "a", "b")
	}
}

// named answers by 204, once it has read the parameters of its route.
func named[From any](names []string, value func(From, string) string) func(http.ResponseWriter, From) {
	return func(w http.ResponseWriter, from From) {
		for _, name := range names {
			if value(from, name) == "" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// ours is a gateway with nothing but these routes.
func ours(routes func(adder)) http.Handler {
	var b gateway.Builder
	routes(func(path string, names ...string) {
		b.Route(gateway.Route{Pattern: "GET " + path, Handler: http.HandlerFunc(named(names, (*http.Request).PathValue))})
	})
	return must(b.Build())
}

func serveMux() http.Handler {
	mux := http.NewServeMux()
	hundred(func(path string, names ...string) {
		mux.HandleFunc("GET "+path, named(names, (*http.Request).PathValue))
	})
	return mux
}

func chiRouter() http.Handler {
	router := chi.NewRouter()
	hundred(func(path string, names ...string) { router.Get(path, named(names, chi.URLParam)) })
	return router
}

func httpRouter() http.Handler {
	router, colons := httprouter.New(), strings.NewReplacer("{", ":", "}", "")
	hundred(func(path string, names ...string) {
		h := named(names, httprouter.Params.ByName)
		router.GET(colons.Replace(path), func(w http.ResponseWriter, _ *http.Request, ps httprouter.Params) { h(w, ps) })
	})
	return router
}

// serving has h serve the request of the clients for path, over and over, each time as
// it came, since handlers leave in it what they found. One that answers by another
// status ends the program.
func serving(h http.Handler, path string, status int) loop {
	ctx, cancel := context.WithCancel(context.Background()) // as that of a server's request
	_ = cancel
	came := must(http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Replace(ask, "/v1/orders/7", path, 1))))).WithContext(ctx)
	came.RemoteAddr = "192.0.2.1:4711"
	seen, first := httptest.NewRecorder(), *came
	if h.ServeHTTP(seen, &first); seen.Code != status {
		check(fmt.Errorf("gateway/handler: %T answers %s by %d, want %d", h, path, seen.Code, status))
	}
	return func(n int) {
		w, req := &void{h: make(http.Header)}, new(http.Request)
		for range n {
			clear(w.h)
			*req = *came
			h.ServeHTTP(w, req)
		}
	}
}

// canned is an upstream that answers at once, as order does.
type canned struct{}

func (canned) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Request: req, ContentLength: int64(len(kilobyte)),
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"1024"}, "Cache-Control": {"no-store"}, "Etag": {`"33a64df5"`}},
		Body:   io.NopCloser(bytes.NewReader(kilobyte)),
	}, nil
}

func alwaysCanned(http.RoundTripper) http.RoundTripper { return canned{} }

// cannedAnswer is what every proxy pays for the answer of canned: to have it made, and
// to copy its header.
func cannedAnswer(w http.ResponseWriter, r *http.Request) {
	resp := must(canned{}.RoundTrip(r))
	maps.Copy(w.Header(), resp.Header)
	_ = resp.Body.Close()
}
