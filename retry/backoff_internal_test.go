package retry

import (
	"fmt"
	"math"
	"testing"
	"time"
)

var sources = []float64{0, 0.25, 0.5, 0.999999999999, math.Nextafter(1, 0)}

func TestDelaysOfEveryJitter(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		e    Exponential
		u    float64
		want []time.Duration // of retries 1, 2, 3, ...
	}{
		{"none", Exponential{Jitter: NoJitter}, 0.5, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 10000 * ms, 10000 * ms}},
		{"none, factor 1", Exponential{Factor: 1, Jitter: NoJitter}, 0.5, []time.Duration{100 * ms, 100 * ms, 100 * ms}},
		{"none, factor 1.5", Exponential{Base: 4 * ms, Factor: 1.5, Jitter: NoJitter}, 0.5, []time.Duration{4 * ms, 6 * ms, 9 * ms}},
		{"none, base above the cap", Exponential{Base: time.Minute, Jitter: NoJitter}, 0.5, []time.Duration{10000 * ms, 10000 * ms}},
		{"full, low", Exponential{}, 0, []time.Duration{0, 0, 0}},
		{"full, middle", Exponential{}, 0.5, []time.Duration{50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms}},
		{"equal, low", Exponential{Jitter: EqualJitter}, 0, []time.Duration{50 * ms, 100 * ms, 200 * ms}},
		{"equal, middle", Exponential{Jitter: EqualJitter}, 0.5, []time.Duration{75 * ms, 150 * ms, 300 * ms}},
		{"proportional, low", Exponential{Jitter: ProportionalJitter}, 0, []time.Duration{80 * ms, 160 * ms, 320 * ms}},
		{"proportional, middle", Exponential{Jitter: ProportionalJitter}, 0.5, []time.Duration{100 * ms, 200 * ms, 400 * ms}},
		{"proportional, own rate", Exponential{Jitter: ProportionalJitter, JitterRate: 1}, 0.75, []time.Duration{150 * ms, 300 * ms}},
		{"proportional at the cap stays spread", Exponential{Base: time.Minute, Jitter: ProportionalJitter}, 0.5, []time.Duration{9000 * ms}},
		{"decorrelated, low", Exponential{Jitter: DecorrelatedJitter}, 0, []time.Duration{100 * ms, 100 * ms, 100 * ms}},
		{"decorrelated, middle", Exponential{Jitter: DecorrelatedJitter}, 0.5, []time.Duration{100 * ms, 200 * ms, 350 * ms, 575 * ms}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var previous time.Duration
			for i, want := range c.want {
				got := c.e.delay(i+1, previous, c.u)
				if got != want {
					t.Errorf("delay(%d, %v, %v) = %v, want %v", i+1, previous, c.u, got, want)
				}
				previous = got
			}
		})
	}
}

func TestNoWaitIsNegativeOrLongerThanCap(t *testing.T) {
	for _, e := range []Exponential{
		{},
		{Base: 1, Cap: 1},
		{Base: 1, Cap: math.MaxInt64},
		{Base: math.MaxInt64, Cap: math.MaxInt64},
		{Base: math.MaxInt64, Cap: 1},
		{Base: time.Hour, Factor: math.MaxFloat64, Cap: math.MaxInt64},
		{Factor: 1.0000001},
		{Cap: time.Nanosecond},
		{JitterRate: 1},
		{JitterRate: math.SmallestNonzeroFloat64, Cap: math.MaxInt64},
	} {
		limit := or(e.Cap, defaultCap)
		for e.Jitter = FullJitter; e.Jitter <= NoJitter; e.Jitter++ {
			t.Run(fmt.Sprintf("%+v", e), func(t *testing.T) {
				for _, u := range sources {
					var d time.Duration
					for n := range 10_001 {
						if d = e.delay(n, d, u); d < 0 || d > limit {
							t.Fatalf("delay of retry %d with u %v = %v, want within [0, %v]", n, u, d, limit)
						}
					}
				}
			})
		}
	}
}

func FuzzExponential(f *testing.F) {
	f.Add(int64(1), int64(time.Second), 2.0, 0, 0.2, 62, int64(5), 0.5)
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), 1e300, 3, 1.0, math.MaxInt, int64(math.MaxInt64), 0.99)
	f.Fuzz(func(t *testing.T, base, limit int64, factor float64, jitter int, rate float64, n int, previous int64, u float64) {
		e := Exponential{Base: time.Duration(base), Cap: time.Duration(limit), Factor: factor, Jitter: Jitter(jitter), JitterRate: rate}
		if len(backoffFaults(e)) > 0 || !(u >= 0 && u < 1) || previous < 0 {
			return
		}
		if d := e.delay(n, time.Duration(previous), u); d < 0 || d > or(e.Cap, defaultCap) {
			t.Errorf("%+v.delay(%d, %d, %v) = %v, want within [0, Cap]", e, n, previous, u, d)
		}
	})
}
