package gateway

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
)

// Picker says how the requests to an upstream are spread over its targets:
// [RoundRobin], [LeastLoaded], [PeakEWMA], [Hash], or a type of your own.
type Picker interface {
	// Over prepares to pick among instances, and returns what picks: a function
	// from a request, as it will be sent, to an index of instances; anything else
	// counts as 0. Over is called whenever there are other targets to pick among,
	// such as after an ejection, and keeps nothing of the call before unless the
	// Picker does. instances has at least one element and must not be changed.
	//
	// The function is called for each attempt. It is not bound by what it says: a
	// target that the request has been to, or whose breaker is open, is passed
	// over in favour of the next one. Both are called by several goroutines at
	// once. The function must be quick and must not change the request.
	Over(instances []*Instance) func(*http.Request) int
}

// RoundRobin takes the targets in turn, each as often as its weight says and as
// evenly as that goes: of weights 3 and 1, the second is every fourth.
type RoundRobin struct{}

// Over implements [Picker].
func (RoundRobin) Over(instances []*Instance) func(*http.Request) int {
	weights := make([]int, len(instances))
	for n, i := range instances {
		weights[n] = i.Weight()
	}
	turns := spread(weights)
	n := uint64(len(turns))
	turn := new(atomic.Uint64)
	return func(*http.Request) int { return int(turns[(turn.Add(1)-1)%n]) }
}

// spread returns one round of turns, in which each index of weights, not all of
// which are 0, has as many as its weight says, evenly spread: the k-th of w turns
// lies at (k+½)/w of the round.
func spread(weights []int) []uint16 {
	divisor := 0
	for _, w := range weights {
		divisor = gcd(divisor, w)
	}
	type turn struct {
		at float64
		of uint16
	}
	var turns []turn
	for n, w := range weights {
		w /= divisor
		for k := range w {
			turns = append(turns, turn{(float64(k) + 0.5) / float64(w), uint16(n)})
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.at, b.at) })
	order := make([]uint16, len(turns))
	for i, t := range turns {
		order[i] = t.of
	}
	return order
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// LeastLoaded draws some targets at random and takes the one with the fewest
// requests in flight for its weight. Two are enough to keep the load even
// (Michael Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
// 1996), without the herd that follows the one best target.
type LeastLoaded struct {
	// Choices is how many targets are compared. With as many as there are, it is
	// the least loaded of all. Default 2. Negative is a fault.
	Choices int
}

func (l *LeastLoaded) faults() []string {
	switch {
	case l == nil:
		return []string{"Picker is nil"}
	case l.Choices < 0:
		return []string{fmt.Sprintf("Picker: Choices %d is negative", l.Choices)}
	}
	return nil
}

// Over implements [Picker].
func (l LeastLoaded) Over(instances []*Instance) func(*http.Request) int {
	n := len(instances)
	choices := min(cmp.Or(l.Choices, 2), n)
	// The fewest per weight: of a/x and b/y without a division.
	less := func(a, b *Instance) bool {
		return (a.InFlight()+1)*b.Weight() < (b.InFlight()+1)*a.Weight()
	}
	return func(*http.Request) int {
		start := rand.IntN(n)
		best := start
		if choices == 2 && n > 2 {
			if other := another(start, n); less(instances[other], instances[best]) {
				best = other
			}
			return best
		}
		for k := 1; k < choices; k++ {
			if i := (start + k) % n; less(instances[i], instances[best]) {
				best = i
			}
		}
		return best
	}
}

// another returns one of n at random that is not i.
func another(i, n int) int {
	return (i + 1 + rand.IntN(n-1)) % n
}

// PeakEWMA draws two targets at random and takes the one that promises to answer
// sooner: its latency, times the requests in flight, for its weight. The latency
// is an exponentially weighted moving average over 10 seconds that jumps up to
// each peak at once, as that of Twitter's Finagle; a failure counts as a second
// at least, and without news the average falls. A target about which nothing is
// known gets one request.
type PeakEWMA struct{}

// Over implements [Picker].
func (PeakEWMA) Over(instances []*Instance) func(*http.Request) int {
	n := len(instances)
	return func(*http.Request) int {
		if n == 1 {
			return 0
		}
		a := rand.IntN(n)
		b := another(a, n)
		now := instances[a].pool.now()
		if instances[b].cost(now) < instances[a].cost(now) {
			return b
		}
		return a
	}
}

// cost is what one more request to i would wait, by all that is known.
func (i *Instance) cost(now int64) float64 {
	took, n := i.latency.at(now), float64(i.InFlight())
	if took == 0 && n > 0 {
		took = float64(latencyOfFailure) // until the first answer says better
	}
	return took * (n + 1) / float64(i.Weight())
}
