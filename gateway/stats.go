package gateway

import (
	"time"

	"github.com/parley-go/parley/breaker"
)

// Stats describe a Gateway at one moment, for operators. Totals never decrease
// while their target stays.
type Stats struct {
	Upstreams []UpstreamStats // in the order in which the Builder got them
	Tunnels   int             // open now
}

// UpstreamStats describe an upstream.
type UpstreamStats struct {
	Name      string
	InFlight  int  // requests and tunnels
	Unhealthy bool // no target is healthy: all are used, or with RefuseUnhealthy none
	Targets   []TargetStats
}

// TargetStats describe a target.
type TargetStats struct {
	URL      string
	Weight   int
	Healthy  bool          // as the checks say; true where there are none
	Ejected  time.Duration // how long it stays ejected; 0 where it is not
	Warming  bool          // its slow start is not over
	InFlight int
	Latency  time.Duration // see Instance.Latency
	Breaker  breaker.State // Closed where there is none

	Requests uint64 // total of attempts that came back
	Failures uint64 // total of those that count against the target
}

// Stats returns the present figures. It only reads.
func (g *Gateway) Stats() Stats {
	s := Stats{Tunnels: g.tunnels.count()}
	for _, p := range g.present().pools {
		s.Upstreams = append(s.Upstreams, p.stats())
	}
	return s
}

func (p *pool) stats() UpstreamStats {
	u := UpstreamStats{Name: p.Name, InFlight: int(p.inFlight.Load()), Unhealthy: true}
	now := p.now()
	for _, i := range p.view.Load().all { // so that who sees a target here can be sure that requests do
		t := TargetStats{
			URL: i.name, Weight: i.Weight(), Healthy: !i.sick.Load(), Ejected: max(0, time.Duration(i.ejected.Load()-now)),
			InFlight: i.InFlight(), Latency: i.Latency(), Requests: i.requests.Load(), Failures: i.failures.Load(),
		}
		since := i.warming.Load()
		t.Warming = since != 0 && now-since < int64(p.SlowStart)
		if i.breaker != nil {
			t.Breaker = i.breaker.State()
		}
		u.Unhealthy = u.Unhealthy && !i.healthy(now)
		u.Targets = append(u.Targets, t)
	}
	return u
}
