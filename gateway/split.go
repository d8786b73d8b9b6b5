package gateway

import (
	"fmt"
	"net/http"
	"sync/atomic"
)

// Share is one upstream's part of a route that is split.
type Share struct {
	// Upstream is the Name of the upstream. Required.
	Upstream string

	// Weight is its part of the whole, which all weights add up to. Zero sends it
	// nothing, negative is a fault, and so is a whole of 0 or above 1000.
	Weight int
}

const maxWeight = 1000

// split divides requests among upstreams.
type split struct {
	key    func(*http.Request) string
	bounds []int    // the weights up to and including each share's
	pools  []*pool  // by share
	turns  []uint16 // whose turn it is, for requests without a key
	turn   atomic.Uint64
}

func newSplit(shares []Share, key func(*http.Request) string, upstreams map[string]*pool) (s *split, faults []string) {
	s = &split{key: key}
	total, weights := 0, make([]int, len(shares))
	for i, share := range shares {
		p := upstreams[share.Upstream]
		if p == nil {
			faults = append(faults, fmt.Sprintf("Split[%d]: there is no Upstream %q", i, share.Upstream))
		}
		if share.Weight < 0 {
			faults = append(faults, fmt.Sprintf("Split[%d]: Weight %d is negative", i, share.Weight))
		}
		weights[i] = min(max(share.Weight, 0), maxWeight+1)
		total += weights[i]
		s.pools, s.bounds = append(s.pools, p), append(s.bounds, total)
	}
	if total < 1 || total > maxWeight {
		faults = append(faults, fmt.Sprintf("Split: the weights add up to %d, not to 1 to %d", total, maxWeight))
	}
	if len(faults) > 0 {
		return nil, faults
	}
	s.turns = spread(weights)
	return s, nil
}

// of returns the upstream for a request. A key leads to the same one in every
// process, and to another only as far as the bounds between the shares move.
func (s *split) of(r *http.Request) *pool {
	if s.key != nil {
		if k := s.key(r); k != "" {
			at := int(hash(k) % uint64(s.bounds[len(s.bounds)-1]))
			for i, bound := range s.bounds {
				if at < bound {
					return s.pools[i]
				}
			}
		}
	}
	return s.pools[s.turns[(s.turn.Add(1)-1)%uint64(len(s.turns))]]
}

// hash is FNV-1a, finished by the mixer of SplitMix64, since keys that count up
// would else stay together.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
