package faults

import (
	"testing"
	"time"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/internal/services"
)

const (
	up   = netfault.Up
	down = netfault.Down
	both = netfault.Both
)

// inFlight is how much is on its way at least when a fault comes.
const inFlight = 50

// network runs a flow through a proxy that has a fault.
func network(fault func(*flow, *netfault.Proxy)) func(*testing.T, *services.Node) {
	return func(t *testing.T, node *services.Node) {
		p, via := proxied(t, node.URL())
		broken(t, p, fault, size(1000, 10_000), flowConfig{url: node.URL(), via: via, heartbeat: time.Second})
	}
}

// broken runs a flow of n messages, whose way to its server has a fault in the middle
// of it.
func broken(t *testing.T, p *netfault.Proxy, fault func(*flow, *netfault.Proxy), n int, cfg flowConfig) {
	f := newFlow(t, cfg)
	g := f.group("g")
	stop := g.start(groupConfig{})
	healed := make(chan struct{})
	wait := f.publish(load{n: n, publishers: 8, pace: 40 * time.Millisecond, until: healed})
	f.reach(200)
	fault(f, p)
	close(healed)
	wait()
	g.verify()
	must(t, stop())
}

func cuts(f *flow, p *netfault.Proxy) {
	for range size(3, 15) {
		f.amid(inFlight)
		p.Cut()
		pause(f.t.Context(), 2*time.Second)
	}
}

// holds lets nothing pass for longer than heartbeats take to find that out.
func holds(way netfault.Way) func(*flow, *netfault.Proxy) {
	return func(f *flow, p *netfault.Proxy) {
		f.amid(inFlight)
		p.Hold(way)
		pause(f.t.Context(), size(5*time.Second, time.Minute))
		p.Heal()
	}
}
