package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// hundred returns 100 routes as an API has them, as a table and as a ServeMux.
func hundred(tb testing.TB) (*table, *http.ServeMux) {
	tb.Helper()
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	mux := http.NewServeMux()
	var b Builder
	for i := range 25 {
		for _, form := range []string{"GET /v1/things%d", "POST /v1/things%d", "GET /v1/things%d/{id}", "GET /v1/things%d/{id}/parts/{part}"} {
			pattern := fmt.Sprintf(form, i)
			b.Route(Route{Pattern: pattern, Handler: nothing})
			mux.Handle(pattern, nothing)
		}
	}
	p, err := b.plan(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return p.table, mux
}

// lookups are one path of each kind among a hundred routes.
var lookups = []struct{ name, path, want string }{
	{"static", "/v1/things12", "GET /v1/things12"},
	{"one parameter", "/v1/things12/4711", "GET /v1/things12/{id}"},
	{"two parameters", "/v1/things12/4711/parts/7", "GET /v1/things12/{id}/parts/{part}"},
	{"miss", "/v1/nothing/4711", ""},
}

func TestAHundredRoutesAreFoundAsServeMuxFindsThem(t *testing.T) {
	table, mux := hundred(t)
	for _, l := range lookups {
		got := ""
		if rt, _ := table.find(http.MethodGet, "shop.example", l.path, nil, ""); rt != nil {
			got = rt.Pattern
		}
		_, theirs := mux.Handler(httptest.NewRequest(http.MethodGet, l.path, nil))
		if got != l.want || theirs != l.want {
			t.Errorf("%s: found %q, ServeMux %q, want %q", l.path, got, theirs, l.want)
		}
	}
}

// Each time for a request that is new, which both note the pattern and its values
// in; the copy is one allocation. ServeMux answers a miss as well.
func BenchmarkFind(b *testing.B) {
	table, mux := hundred(b)
	for _, l := range lookups {
		r := httptest.NewRequest(http.MethodGet, l.path, nil)
		b.Run("table/"+l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := r.WithContext(r.Context())
				if rt, _ := table.find(r.Method, "shop.example", r.URL.Path, r.Header, ""); rt != nil {
					r.Pattern = rt.Pattern
					rt.pattern.setValues(r, r.URL.Path)
				}
			}
		})
		b.Run("ServeMux/"+l.name, func(b *testing.B) {
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				w.Body.Reset()
				mux.ServeHTTP(w, r.WithContext(r.Context()))
			}
		})
	}
}

// A path that leads somewhere is found without an allocation.
func TestAllocsOfFind(t *testing.T) {
	table, _ := hundred(t)
	for _, l := range lookups[:3] {
		if n := testing.AllocsPerRun(100, func() {
			if rt, _ := table.find(http.MethodGet, "shop.example", l.path, nil, ""); rt == nil {
				t.Fatal("not found")
			}
		}); n > 0 {
			t.Errorf("%s: find allocates %v times, want none", l.name, n)
		}
	}
}
