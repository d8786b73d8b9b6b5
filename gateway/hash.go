package gateway

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sort"
)

// Hash sends requests with the same key to the same target, and when targets come
// and go, it moves about as many keys as it must: consistent hashing (Karger and
// others, 1997), with a bound on the load of each target (Mirrokni, Thorup and
// Zadimoghaddam, 2016), so that one popular key cannot overwhelm one target.
// Several gateways with the same targets agree with each other.
type Hash struct {
	// By returns the key of a request: [ByHeader], [ByCookie], [ByClientIP], or a
	// function of your own, which must be quick. Requests with an empty key go to
	// targets at random. Required.
	By func(*http.Request) string

	// MaxLoadRate bounds the requests in flight at each target, as a multiple of
	// the average for its weight; above that, a request goes to the next target on
	// the ring. Fewer than 8 are never too many. Default 1.25. Below 1 is a fault.
	MaxLoadRate float64
}

const (
	defaultMaxLoadRate = 1.25
	pointsPerInstance  = 128 // on average: keeps the shares within about a tenth of each other
	neverTooMany       = 8   // or two requests of one client would be told apart where there is little load
)

// point is where an instance stands on the ring; it gets the keys up to there.
type point struct {
	at uint64
	of int
}

func (h *Hash) faults() (faults []string) {
	if h == nil {
		return []string{"Picker is nil"}
	}
	if h.By == nil {
		faults = append(faults, "Picker: By is nil")
	}
	if h.MaxLoadRate != 0 && !(h.MaxLoadRate >= 1) {
		faults = append(faults, fmt.Sprintf("Picker: MaxLoadRate %v is below 1", h.MaxLoadRate))
	}
	return faults
}

// Over implements [Picker].
func (h Hash) Over(instances []*Instance) func(*http.Request) int {
	ring := ringOf(instances)
	rate := cmp.Or(h.MaxLoadRate, defaultMaxLoadRate)
	total := 0
	for _, i := range instances {
		total += i.Weight()
	}
	pool := instances[0].pool
	return func(r *http.Request) int {
		key := ""
		if h.By != nil {
			key = h.By(r)
		}
		if key == "" {
			return rand.IntN(len(instances))
		}
		at := hash(key)
		start := sort.Search(len(ring), func(i int) bool { return ring[i].at >= at })
		load := float64(pool.inFlight.Load()) * rate / float64(total)
		for k := range ring {
			of := ring[(start+k)%len(ring)].of
			if i := instances[of]; float64(i.InFlight()) < max(neverTooMany, load*float64(i.Weight())) {
				return of
			}
		}
		return ring[start%len(ring)].of // hedged attempts made more than there are requests
	}
}

// ringOf places the instances on a ring, each by its name alone, as often as its
// weight says.
func ringOf(instances []*Instance) []point {
	total := 0
	for _, i := range instances {
		total += i.Weight()
	}
	ring := make([]point, 0, len(instances)*(pointsPerInstance+1))
	for n, i := range instances {
		for k := range max(1, pointsPerInstance*len(instances)*i.Weight()/total) {
			var number [4]byte
			binary.LittleEndian.PutUint32(number[:], uint32(k))
			ring = append(ring, point{hash(i.name + string(number[:])), n})
		}
	}
	slices.SortFunc(ring, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	return ring
}

// ByHeader takes the value of a header field for the key of a [Hash].
func ByHeader(name string) func(*http.Request) string {
	return func(r *http.Request) string { return r.Header.Get(name) }
}

// ByCookie takes the value of a cookie for the key of a [Hash].
func ByCookie(name string) func(*http.Request) string {
	return func(r *http.Request) string {
		c, err := r.Cookie(name)
		if err != nil {
			return ""
		}
		return c.Value
	}
}

// ByClientIP takes what [ClientIP] returns for the key of a [Hash].
func ByClientIP(r *http.Request) string {
	if addr := ClientIP(r); addr.IsValid() {
		return addr.String()
	}
	return ""
}
