package gateway_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// once picks by itself from the first view, and then does what it must not.
type once struct {
	views *atomic.Int64
	then  func() func(*http.Request) int
}

func (o once) Over([]*gateway.Instance) func(*http.Request) int {
	if o.views.Add(1) > 1 {
		return o.then()
	}
	return func(*http.Request) int { return 0 }
}

func TestPickerThatBreaksItsContractLaterHarmsNoRequest(t *testing.T) {
	for name, then := range map[string]func() func(*http.Request) int{
		"nil":   func() func(*http.Request) int { return nil },
		"panic": func() func(*http.Request) int { panic("in Over") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, a := newFleet(), &answers{say: targets("http://a", "http://b")}
				gw := resolved(t, a, f, gateway.Upstream{Picker: once{new(atomic.Int64), then}})
				running(t, gw)
				a.set(targets("http://a", "http://c"))
				time.Sleep(time.Minute) // into the second view
				if got := times(gw, 4); got[200] != 4 {
					t.Errorf("statuses = %v, want 4 of 200", got)
				}
			})
		})
	}
}
