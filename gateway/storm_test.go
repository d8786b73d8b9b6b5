package gateway_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/gateway"
)

// Everything changes at once: targets come and go, fail, are ejected, checked and
// reloaded, while requests run with every picker. Run it with the race detector.
func TestAccountsAreEvenAfterAStormOfChanges(t *testing.T) {
	f := newFleet()
	var n atomic.Int64
	for _, host := range []string{"a", "b", "c", "d"} {
		f.set(host, func(r *http.Request) (*http.Response, error) {
			if n.Add(1)%7 == 0 {
				return refuse(r)
			}
			return status(http.StatusOK)(r)
		})
	}
	sets := [][]string{{"http://a", "http://b"}, {"http://c"}, {"http://a", "http://b", "http://c", "http://d"}, {"http://d", "http://a"}}
	var turn atomic.Int64
	resolver := gateway.ResolverFunc(func(context.Context) ([]gateway.Target, error) {
		return targets(sets[int(turn.Add(1))%len(sets)]...)()
	})
	var upstreams []*gateway.Upstream
	for name, picker := range map[string]gateway.Picker{
		"rr": gateway.RoundRobin{}, "p2c": gateway.LeastLoaded{}, "ewma": gateway.PeakEWMA{}, "hash": gateway.Hash{By: gateway.ByClientIP},
	} {
		upstreams = append(upstreams, &gateway.Upstream{
			Name: name, Resolver: resolver, Refresh: time.Millisecond, Picker: picker, Wrap: f.wrap, Retry: quickRetry(), Breaker: trippy(),
			SlowStart: time.Millisecond, Sticky: &gateway.Sticky{Keys: stickyKeys},
			Eject:  &gateway.Eject{Consecutive: 1, For: time.Millisecond, MaxFor: 2 * time.Millisecond},
			Health: &gateway.Health{Path: "/healthz", Interval: time.Millisecond, Fall: 1, Rise: 1},
		})
	}
	gw := mustBuild(t, planned(upstreams...))
	ctx, stop := context.WithCancel(t.Context())
	var all, load sync.WaitGroup
	all.Go(func() { _ = gw.Run(ctx) })
	all.Go(func() {
		for ctx.Err() == nil {
			_ = gw.Stats()
			if err := gw.Reload(planned(upstreams...)); err != nil {
				t.Error(err)
			}
		}
	})
	for w := range 4 {
		load.Go(func() {
			for range 300 {
				ask(gw, http.MethodGet, "svc", "/"+upstreams[w].Name+"/")
			}
		})
	}
	load.Wait()
	stop()
	all.Wait()
	for _, u := range gw.Stats().Upstreams {
		if u.InFlight != 0 {
			t.Errorf("%s has %d requests in flight after the last, want none", u.Name, u.InFlight)
		}
		for _, i := range u.Targets {
			if i.InFlight != 0 {
				t.Errorf("%s at %s has %d requests in flight after the last, want none", u.Name, i.URL, i.InFlight)
			}
		}
	}
}
