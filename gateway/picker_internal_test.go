package gateway

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// poolOf makes a pool that is never dialled, with weights in turn.
func poolOf(t *testing.T, u Upstream, weights ...int) (*pool, []*Instance) {
	t.Helper()
	u.Name = "svc"
	for n := range weights {
		u.Targets = append(u.Targets, fmt.Sprintf("http://10.0.0.%d:8080", n+1))
	}
	u.Weights = weights
	p, faults := newPool(&u, slog.New(slog.DiscardHandler))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return p, *p.set.Load()
}

var plainRequest = &http.Request{Header: http.Header{}}

// randomWeights returns up to n weights.
func randomWeights(rnd *rand.Rand, n int) []int {
	w := make([]int, 1+rnd.IntN(n))
	for i := range w {
		w[i] = 1 + rnd.IntN(maxTargetWeight)
	}
	return w
}

// In each round, and in any window of it, a target has the share of its weight,
// to within one turn: that is what smooth means.
func TestRoundRobinGivesEachTargetItsWeightEvenly(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		weights := randomWeights(rnd, 8)
		_, set := poolOf(t, Upstream{}, weights...)
		pick := RoundRobin{}.Over(set)
		total, divisor := 0, 0
		for _, w := range weights {
			total += w
			divisor = gcd(divisor, w)
		}
		got := make([]int, len(set))
		for n := 1; n <= 3*total/divisor; n++ {
			got[pick(plainRequest)]++
			for i, w := range weights {
				if want := float64(n*w) / float64(total); math.Abs(float64(got[i])-want) > 2 {
					t.Fatalf("weights %v: after %d turns target %d had %d, want %.1f", weights, n, i, got[i], want)
				}
			}
		}
		for i, w := range weights {
			if got[i] != 3*w/divisor {
				t.Fatalf("weights %v: target %d had %d turns in 3 rounds, want %d", weights, i, got[i], 3*w/divisor)
			}
		}
	}
}

func TestRoundRobinOfEqualTargetsTakesThemInTurn(t *testing.T) {
	_, set := poolOf(t, Upstream{}, 7, 7, 7)
	pick := RoundRobin{}.Over(set)
	for n := range 9 {
		if got := pick(plainRequest); got != n%3 {
			t.Fatalf("turn %d = target %d, want %d", n, got, n%3)
		}
	}
}

// Against the naive search through all targets.
func TestLeastLoadedOfAllTakesTheOneWithTheFewestRequestsForItsWeight(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		_, set := poolOf(t, Upstream{}, randomWeights(rnd, 10)...)
		pick := LeastLoaded{Choices: 1000}.Over(set)
		for range 20 {
			least := math.Inf(1)
			for _, i := range set {
				i.inFlight.Store(int64(rnd.IntN(50)))
				least = min(least, float64(i.InFlight()+1)/float64(i.Weight()))
			}
			i := set[pick(plainRequest)]
			if got := float64(i.InFlight()+1) / float64(i.Weight()); got != least {
				t.Fatalf("picked one of load %v, want %v", got, least)
			}
		}
	}
}

func TestTwoChoicesNeverTakeTheMostLoadedTargetAndKeepTheLoadEven(t *testing.T) {
	_, set := poolOf(t, Upstream{}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
	pick := LeastLoaded{}.Over(set)
	set[3].inFlight.Store(1)
	for range 1000 {
		if pick(plainRequest) == 3 {
			t.Fatal("the only busy target was taken, want the other choice")
		}
	}
	set[3].inFlight.Store(0)
	// Balls that stay in their bins: with one choice the fullest of 10 bins has
	// about 1000+80 of 10000; with two the excess does not grow with their number.
	for range 10_000 {
		set[pick(plainRequest)].inFlight.Add(1)
	}
	for n, i := range set {
		if got := i.InFlight(); got < 990 || got > 1010 {
			t.Errorf("target %d has %d requests, want 1000 give or take 10", n, got)
		}
	}
}

func TestPeakEWMALeavesASlowOrFailingTargetAloneUntilTheNewsIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, set := poolOf(t, Upstream{}, 1, 1, 1)
		pick := PeakEWMA{}.Over(set)
		share := func() (got [3]int) {
			for range 3000 {
				got[pick(plainRequest)]++
			}
			return got
		}
		time.Sleep(time.Second)
		for _, i := range set {
			i.latency.add(p.now(), 10*time.Millisecond)
		}
		for n, got := range share() {
			if got < 800 || got > 1200 { // 7 standard deviations
				t.Errorf("of equal targets, %d had %d of 3000 requests, want 1000", n, got)
			}
		}
		set[0].latency.add(p.now(), 500*time.Millisecond)
		if got := share(); got[0] != 0 {
			t.Errorf("a target with one peak had %d requests, want none", got[0])
		}
		for range 60 { // the others go on to answer
			time.Sleep(time.Second)
			set[1].latency.add(p.now(), 10*time.Millisecond)
			set[2].latency.add(p.now(), 10*time.Millisecond)
		}
		if got := share(); got[0] < 800 {
			t.Errorf("a minute after its peak it had %d of 3000 requests, want as many as others or more", got[0])
		}
	})
}

func TestPeakEWMAGivesATargetOfWhichNothingIsKnownOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, set := poolOf(t, Upstream{}, 1, 1)
		pick := PeakEWMA{}.Over(set)
		set[0].latency.add(p.now(), 10*time.Millisecond)
		if got := pick(plainRequest); got != 1 {
			t.Errorf("picked %d, want the unknown one", got)
		}
		set[1].inFlight.Add(1)
		for range 100 {
			if got := pick(plainRequest); got != 0 {
				t.Fatal("the unknown one got a second request before it answered the first")
			}
		}
	})
}

func TestLatencyJumpsUpAtOnceAndFallsByTheTimeThatPasses(t *testing.T) {
	var l latency
	l.add(1, 100*time.Millisecond)
	for _, c := range []struct {
		after, took, want time.Duration
	}{
		{0, 300 * time.Millisecond, 300 * time.Millisecond},                       // a peak
		{0, 100 * time.Millisecond, 300 * time.Millisecond},                       // no time has passed: no news
		{latencyMemory, 0, 110363832 * time.Nanosecond},                           // 300 ms / e
		{latencyMemory, 110363832 * time.Nanosecond, 110363832 * time.Nanosecond}, // stays where it was
		{100 * latencyMemory, 20 * time.Millisecond, 20 * time.Millisecond},       // what is old counts for nothing
	} {
		now := l.stamp.Load() + int64(c.after)
		l.add(now, c.took)
		if got := time.Duration(l.at(now)); (got - c.want).Abs() > time.Microsecond {
			t.Errorf("after %v, add(%v): average %v, want %v", c.after, c.took, got, c.want)
		}
	}
}

func TestPickersOfOneTargetTakeIt(t *testing.T) {
	for _, picker := range []Picker{RoundRobin{}, LeastLoaded{}, PeakEWMA{}, Hash{By: ByHeader("K")}} {
		_, set := poolOf(t, Upstream{}, 5)
		if got := picker.Over(set)(plainRequest); got != 0 {
			t.Errorf("%T picks %d of one target, want 0", picker, got)
		}
	}
}

// keyed is a request with the key k.
func keyed(k string) *http.Request { return &http.Request{Header: http.Header{"K": {k}}} }

func TestHashMovesNoKeysButThoseOfATargetThatIsGone(t *testing.T) {
	const keys = 10_000
	_, set := poolOf(t, Upstream{}, 1, 1, 1, 1, 1)
	all := Hash{By: ByHeader("K")}.Over(set)
	without := append(append([]*Instance(nil), set[:2]...), set[3:]...)
	fewer := Hash{By: ByHeader("K")}.Over(without)
	var got [5]int
	for k := range keys {
		r := keyed(fmt.Sprint(k))
		i := set[all(r)]
		if set[all(r)] != i {
			t.Fatal("the same key went to two targets")
		}
		got[all(r)]++
		if after := without[fewer(r)]; i != set[2] && after != i {
			t.Fatalf("key %d moved from %s to %s, though its target is still there", k, i.name, after.name)
		}
	}
	for n, c := range got {
		if c < keys/5*7/10 || c > keys/5*13/10 { // 128 points: 9 % standard deviation
			t.Errorf("target %d had %d of %d keys, want a fifth", n, c, keys)
		}
	}
}

func TestHashGivesKeysByWeightAndInEveryProcessAlike(t *testing.T) {
	_, set := poolOf(t, Upstream{}, 1, 3)
	pick := Hash{By: ByHeader("K")}.Over(set)
	got := 0
	for k := range 10_000 {
		got += pick(keyed(fmt.Sprint(k)))
	}
	if got < 6500 || got > 8500 {
		t.Errorf("a target of weight 3 beside one of 1 had %d of 10000 keys, want three quarters", got)
	}
	if got := hash("parley"); got != wantHash {
		t.Errorf("hash(parley) = %#x, want %#x as in every process", got, uint64(wantHash))
	}
}

// wantHash was computed by another program.
const wantHash = 0xad9294fad9c4d385

func TestHashWithoutAKeyTakesTargetsAtRandom(t *testing.T) {
	_, set := poolOf(t, Upstream{}, 1, 1)
	for name, h := range map[string]Picker{"empty": Hash{By: ByHeader("K")}, "nobody asks": new(Hash)} {
		pick := h.Over(set)
		got := 0
		for range 1000 {
			got += pick(plainRequest)
		}
		if got < 400 || got > 600 {
			t.Errorf("%s: %d of 1000 requests without a key went to the second target, want half", name, got)
		}
	}
}

// One key that everybody asks for, and a model of who has how many.
func TestHashKeepsEachTargetBelowItsBoundWhateverTheKeys(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		weights := randomWeights(rnd, 10)
		p, set := poolOf(t, Upstream{}, weights...)
		total := 0
		for _, w := range weights {
			total += w
		}
		pick := Hash{By: ByHeader("K")}.Over(set)
		var running []*Instance
		for range 2000 {
			if len(running) > 0 && rnd.IntN(3) == 0 {
				n := rnd.IntN(len(running))
				running[n].inFlight.Add(-1)
				p.inFlight.Add(-1)
				running = append(running[:n], running[n+1:]...)
				continue
			}
			p.inFlight.Add(1)
			i := set[pick(keyed(fmt.Sprint(rnd.IntN(2))))]
			bound := max(neverTooMany, defaultMaxLoadRate*float64(p.inFlight.Load())*float64(i.Weight())/float64(total))
			if float64(i.InFlight()) >= bound+1e-6 {
				t.Fatalf("weights %v: a target got a request on top of %d, want fewer than %.1f", weights, i.InFlight(), bound)
			}
			i.inFlight.Add(1)
			running = append(running, i)
		}
	}
}

func TestKeysComeFromAddressHeaderAndCookie(t *testing.T) {
	for in, want := range map[string]string{"10.0.0.1:80": "10.0.0.1", "[::1]:80": "::1", "pipe": ""} {
		if got := ByClientIP(&http.Request{RemoteAddr: in}); got != want {
			t.Errorf("ByClientIP(%q) = %q, want %q", in, got, want)
		}
	}
	r := &http.Request{Header: http.Header{"Cookie": {"sid=7"}}}
	if got := ByCookie("sid")(r); got != "7" {
		t.Errorf("ByCookie(sid) = %q, want 7", got)
	}
	if got := ByCookie("other")(r); got != "" {
		t.Errorf("ByCookie(other) = %q, want none", got)
	}
}

func BenchmarkPick(b *testing.B) {
	for name, picker := range map[string]Picker{
		"round robin": RoundRobin{}, "two choices": LeastLoaded{}, "peak EWMA": PeakEWMA{}, "hash": Hash{By: ByHeader("K")},
	} {
		for _, n := range []int{3, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				u := Upstream{Name: "svc"}
				for k := range n {
					u.Targets = append(u.Targets, fmt.Sprintf("http://10.0.%d.%d:8080", k/256, k%256))
				}
				p, _ := newPool(&u, slog.New(slog.DiscardHandler))
				pick := picker.Over(*p.set.Load())
				r := keyed("customer-7")
				b.ReportAllocs()
				for b.Loop() {
					pick(r)
				}
			})
		}
	}
}

func TestHashFindsATargetEvenWhereAllAreAboveTheirBound(t *testing.T) {
	_, set := poolOf(t, Upstream{}, 1, 1)
	pick := Hash{By: ByHeader("K")}.Over(set)
	want := pick(keyed("k"))
	for _, i := range set {
		i.inFlight.Store(100) // of hedged attempts, which are not counted as requests
	}
	if got := pick(keyed("k")); got != want {
		t.Errorf("picked %d, want %d, where the key belongs", got, want)
	}
}

func TestInstanceSaysWhatATargetIs(t *testing.T) {
	_, set := poolOf(t, Upstream{}, 7)
	set[0].inFlight.Store(3)
	set[0].latency.add(set[0].pool.now(), time.Second)
	if i := set[0]; i.URL() != "http://10.0.0.1:8080" || i.Weight() != 7 || i.InFlight() != 3 || i.Latency() > time.Second || i.Latency() < time.Second/2 {
		t.Errorf("instance = %s, %d, %d, %v", i.URL(), i.Weight(), i.InFlight(), i.Latency())
	}
}

func TestWaitsDifferByATenthAtMost(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := jittered(time.Minute)
		least, most = min(least, d), max(most, d)
	}
	if least < 54*time.Second || most > 66*time.Second || most-least < 10*time.Second {
		t.Errorf("waits from %v to %v, want from 54 to 66 seconds", least, most)
	}
	if got := jittered(3); got != 3 {
		t.Errorf("jittered(3ns) = %v, want 3ns", got)
	}
}

func TestNoTunnelBeginsOnceTheGatewayHasBegunToClose(t *testing.T) {
	var all tunnels
	one := new(tunnel)
	if !all.add(one) || all.count() != 1 {
		t.Fatal("the first tunnel was refused")
	}
	empty := all.wait()
	if again := all.wait(); all.add(new(tunnel)) || again != empty {
		t.Error("a tunnel began, or who waits twice does not wait for the same")
	}
	all.remove(one)
	<-empty
}
