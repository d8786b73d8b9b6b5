package gateway

import (
	"fmt"
	"net/http"
	"testing"
)

// hundred is a table of a hundred routes, as in the comparison of routers that
// docs name: static ones, such with one and with two wildcards, and hosts.
func hundred(t testing.TB) *table {
	t.Helper()
	var b Builder
	answer := http.NotFoundHandler()
	for i := range 30 {
		b.Route(Route{Pattern: fmt.Sprintf("GET /static%d/list", i), Handler: answer})
		b.Route(Route{Pattern: fmt.Sprintf("GET /one%d/{id}", i), Handler: answer})
		b.Route(Route{Pattern: fmt.Sprintf("GET /two%d/{a}/items/{b}", i), Handler: answer})
	}
	for i := range 5 {
		b.Route(Route{Pattern: fmt.Sprintf("*.tenant%d.example/{rest...}", i), Handler: answer})
		b.Route(Route{Pattern: "GET /canary/{id}", Header: map[string]string{"X-Canary": fmt.Sprint(i)}, Handler: answer})
	}
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return gw.plan.Load().table
}

var finds = []struct {
	name, host, path string
	header           http.Header
	pattern          string
}{
	{"static", "svc", "/static17/list", nil, "GET /static17/list"},
	{"one wildcard", "svc", "/one17/4711", nil, "GET /one17/{id}"},
	{"two wildcards", "svc", "/two17/4711/items/12", nil, "GET /two17/{a}/items/{b}"},
	{"wildcard host", "a-name-that-fills-a-buffer-and-more.b.tenant3.example", "/x/y/z", nil, "*.tenant3.example/{rest...}"},
	{"condition", "svc", "/canary/1", http.Header{"X-Canary": {"3"}}, "GET /canary/{id}"},
}

func TestAllocsOfFindingARouteAreNone(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	table := hundred(t)
	for _, c := range finds {
		rt, no := table.find(http.MethodGet, c.host, c.path, c.header, "")
		if no != nil || rt.Pattern != c.pattern {
			t.Fatalf("%s: found %v, %v, want %s", c.name, rt, no, c.pattern)
		}
		if got := testing.AllocsPerRun(1000, func() { table.find(http.MethodGet, c.host, c.path, c.header, "") }); got > 0 {
			t.Errorf("%s: %v allocations, want none", c.name, got)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	table := hundred(b)
	for _, c := range finds {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.find(http.MethodGet, c.host, c.path, c.header, "")
			}
		})
	}
	mux := http.NewServeMux()
	for i := range 30 {
		mux.Handle(fmt.Sprintf("GET /static%d/list", i), http.NotFoundHandler())
		mux.Handle(fmt.Sprintf("GET /one%d/{id}", i), http.NotFoundHandler())
		mux.Handle(fmt.Sprintf("GET /two%d/{a}/items/{b}", i), http.NotFoundHandler())
	}
	for _, c := range finds[:3] {
		b.Run("ServeMux "+c.name, func(b *testing.B) {
			r, err := http.NewRequest(http.MethodGet, "http://svc"+c.path, http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				mux.Handler(r)
			}
		})
	}
}
