package gateway

import (
	"math"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/breaker"
)

// Instance is a target at work, as a [Picker] sees it. All of its methods are
// quick, take no lock, and are safe for concurrent use.
type Instance struct {
	pool    *pool
	name    string // scheme, host and path, as the target was given
	url     *url.URL
	next    http.RoundTripper // breaker → Wrap → transport
	breaker *breaker.Breaker  // nil where there is none
	tags    []string          // by which cookies name it, one for each key of Sticky

	weight   atomic.Int64
	inFlight atomic.Int64
	latency  latency
	requests atomic.Uint64
	failures atomic.Uint64

	sick     atomic.Bool  // by the checks
	fails    atomic.Int64 // in a row, by the requests
	ejected  atomic.Int64 // until when, on the pool's clock; 0 if never
	warming  atomic.Int64 // since when, on the pool's clock; 0 once it is warm
	ejection int          // how often in short order; guarded by pool.mu
}

func (i *Instance) same(other *Instance) bool { return i.name == other.name }

// URL returns the target's URL.
func (i *Instance) URL() string { return i.name }

// Weight returns the target's share of the requests, relative to the others,
// from 1 to 100.
func (i *Instance) Weight() int { return int(i.weight.Load()) }

// InFlight returns how many requests of this gateway the target works on now,
// those with a body that is still being copied and tunnels included.
func (i *Instance) InFlight() int { return int(i.inFlight.Load()) }

// Latency returns how long the target takes until its headers come, from the end
// of the request's body where that comes first: the moving average of the last
// seconds that [PeakEWMA] describes, 0 where none is known.
func (i *Instance) Latency() time.Duration {
	return time.Duration(i.latency.at(i.pool.now()))
}

// healthy reports whether neither the checks nor the requests speak against it.
func (i *Instance) healthy(now int64) bool {
	return !i.sick.Load() && i.ejected.Load() <= now
}

// latency is a moving average in two words, which a lost update cannot spoil for
// longer than the average remembers.
type latency struct {
	value atomic.Uint64 // nanoseconds, as the bits of a float64
	stamp atomic.Int64  // of the value, on the pool's clock
}

const (
	// latencyMemory is the time constant of the average: what is older than a few
	// of it counts for nothing.
	latencyMemory = 10 * time.Second
	// latencyOfFailure is the least that a failure is booked as: who refuses at
	// once would otherwise look like the quickest of all.
	latencyOfFailure = time.Second
)

// add books how long an attempt took that ended now. What is above the average
// replaces it: a target that becomes slow is left alone at once, and one that
// becomes quick is believed by and by.
func (l *latency) add(now int64, took time.Duration) {
	v, was := float64(took), l.at(now)
	if v < was {
		// was has decayed already, by the time without news; the news has a share
		// of what was lost.
		old := math.Float64frombits(l.value.Load())
		if old > 0 {
			v = was + v*(1-was/old)
		}
	}
	l.value.Store(math.Float64bits(v))
	l.stamp.Store(now)
}

// at returns the average as it is now. Without news it falls, so that a target
// that was slow is asked again.
func (l *latency) at(now int64) float64 {
	v := math.Float64frombits(l.value.Load())
	if v == 0 {
		return 0
	}
	return v * math.Exp(-float64(max(0, now-l.stamp.Load()))/float64(latencyMemory))
}
