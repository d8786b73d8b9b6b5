package gateway_test

import (
	"net/http"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// pickers of users' own.
type picker func(*http.Request) int

func (p picker) Over([]*gateway.Instance) func(*http.Request) int { return p }

func TestPickerOfOnesOwnIsAskedForEachAttemptAndCannotHarm(t *testing.T) {
	for name, c := range map[string]struct {
		pick picker
		want string
	}{
		"by header": {func(r *http.Request) int { return len(r.Header.Get("X-Shard")) }, "b"},
		"negative":  {func(*http.Request) int { return -1 }, "a"},
		"too large": {func(*http.Request) int { return 2 }, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet()
			gw := build(t, gateway.Upstream{Targets: twoTargets, Wrap: f.wrap, Picker: c.pick}, everything)
			r, _ := http.NewRequest(http.MethodGet, "http://svc/", http.NoBody)
			r.Header.Set("X-Shard", "1")
			gw.ServeHTTP(&discard{make(http.Header)}, r)
			if got := f.take(); got[c.want] != 1 || len(got) != 1 {
				t.Errorf("requests = %v, want one to %s", got, c.want)
			}
		})
	}
}

func TestRetryGoesToAnotherTargetWhateverThePickerSays(t *testing.T) {
	for name, p := range map[string]gateway.Picker{
		"round robin": gateway.RoundRobin{}, "least loaded": gateway.LeastLoaded{Choices: 3}, "peak EWMA": gateway.PeakEWMA{},
		"hash": gateway.Hash{By: gateway.ByHeader("X-Key")}, "always the same": picker(func(*http.Request) int { return 0 }),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet()
			for _, host := range []string{"a", "b", "c"} {
				f.set(host, refuse)
			}
			gw := build(t, gateway.Upstream{Targets: []string{"http://a", "http://b", "http://c"}, Wrap: f.wrap, Picker: p, Retry: quickRetry()}, everything)
			for range 20 {
				r, _ := http.NewRequest(http.MethodGet, "http://svc/", http.NoBody)
				r.Header.Set("X-Key", "k")
				gw.ServeHTTP(&discard{make(http.Header)}, r)
				if got := f.take(); got["a"] != 1 || got["b"] != 1 || got["c"] != 1 {
					t.Fatalf("three attempts went to %v, want one to each", got)
				}
			}
		})
	}
}

func TestMoreAttemptsThanTargetsBeginAgain(t *testing.T) {
	f := newFleet()
	f.set("a", refuse)
	gw := build(t, gateway.Upstream{Targets: []string{"http://a"}, Wrap: f.wrap, Retry: quickRetry()}, everything)
	times(gw, 1)
	if got := f.take(); got["a"] != 3 {
		t.Errorf("requests = %v, want all 3 attempts to the only target", got)
	}
}
