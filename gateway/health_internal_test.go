package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

// Random checks against a model that remembers all of them and looks back.
func TestTargetChangesItsHealthAfterSoManyChecksInARow(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	changes := 0
	for range 500 {
		h := Health{Fall: 1 + rnd.IntN(4), Rise: 1 + rnd.IntN(4)}
		var v verdict
		var history []bool // since the last change
		sick := false
		for range 100 {
			passed := rnd.IntN(2) == 0
			history = append(history, passed)
			need := h.Fall
			if sick {
				need = h.Rise
			}
			want := len(history) >= need && !slices.Contains(history[len(history)-need:], !sick)
			if want {
				sick, history = !sick, nil
				changes++
			}
			if got := v.note(passed, &h); got != want || v.sick != sick {
				t.Fatalf("Fall %d, Rise %d: note(%v) = %v, sick %v, want %v, %v", h.Fall, h.Rise, passed, got, v.sick, want, sick)
			}
		}
	}
	if changes < 1000 {
		t.Errorf("%d changes, want 1000 or the test shows little", changes)
	}
}

// ejectionModel says in the plainest way who is ejected.
type ejectionModel struct {
	cfg   Eject
	fails []int
	until []time.Duration
	times []int
}

func (m *ejectionModel) out(now time.Duration) (n int) {
	for _, u := range m.until {
		if u > now {
			n++
		}
	}
	return n
}

func (m *ejectionModel) outcome(i int, failed bool, now time.Duration) {
	if !failed {
		m.fails[i] = 0
		return
	}
	m.fails[i]++
	if m.fails[i] < m.cfg.Consecutive || m.until[i] > now {
		return
	}
	if float64(m.out(now)+1) > m.cfg.MaxRate*float64(len(m.until)) {
		return
	}
	if m.times[i] == 0 || now-m.until[i] > m.cfg.MaxFor {
		m.times[i] = 0
	}
	m.times[i]++
	d := m.cfg.For
	for range m.times[i] - 1 {
		d = min(2*d, m.cfg.MaxFor)
	}
	m.until[i], m.fails[i] = now+d, 0
}

// P35.
func TestEjectionFollowsItsModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		ejections, refused := 0, 0
		for range 60 {
			n := 1 + rnd.IntN(6)
			cfg := Eject{Consecutive: 1 + rnd.IntN(4), For: 10 * time.Second, MaxFor: time.Minute, MaxRate: float64(1+rnd.IntN(4)) / 4}
			p, set := poolOf(t, Upstream{Eject: &cfg}, slices.Repeat([]int{1}, n)...)
			start := time.Now()
			m := &ejectionModel{cfg: cfg, fails: make([]int, n), until: make([]time.Duration, n), times: make([]int, n)}
			for range 300 {
				if rnd.IntN(10) == 0 {
					time.Sleep(time.Duration(rnd.IntN(40))*time.Second + time.Millisecond) // never upon the instant
				}
				now := time.Since(start)
				i, failed := rnd.IntN(n), rnd.IntN(4) > 0
				before := m.out(now)
				m.outcome(i, failed, now)
				o := breaker.Success
				if failed {
					o = breaker.Failure
				}
				p.judge(set[i], o)
				if m.out(now) > before {
					ejections++
				}
				if float64(m.out(now)) > cfg.MaxRate*float64(n) {
					t.Fatalf("%d of %d are ejected, more than %v", m.out(now), n, cfg.MaxRate)
				}
				if failed && m.out(now) == before && m.fails[i] >= cfg.Consecutive {
					refused++
				}
				v := p.current()
				for k, inst := range set {
					ejected := m.until[k] > now
					// Where all are ejected, all are used.
					if got := !slices.Contains(v.usable, inst); got != (ejected && m.out(now) < n) {
						t.Fatalf("target %d out = %v after %v, want %v; %+v", k, got, now, ejected, m)
					}
				}
			}
		}
		if ejections < 300 || refused < 100 {
			t.Errorf("%d ejections and %d refused, want 300 and 100 or the test shows little", ejections, refused)
		}
	})
}

func TestEjectionsLastTwiceAsLongEachUpToMaxFor(t *testing.T) {
	e := Eject{For: 30 * time.Second}.withDefaults()
	for n, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		if got := e.lasts(n + 1); got != want {
			t.Errorf("ejection %d lasts %v, want %v", n+1, got, want)
		}
	}
	if got := (Eject{For: time.Hour}).withDefaults().lasts(1000); got != time.Hour {
		t.Errorf("with For above the default MaxFor it lasts %v, want For", got)
	}
}

// What is and what is not the target's failure.
func TestOutcomeOfAnAttempt(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	leave()
	for name, c := range map[string]struct {
		ctx    context.Context
		status int
		err    error
		want   breaker.Outcome
	}{
		"200":             {t.Context(), 200, nil, breaker.Success},
		"404":             {t.Context(), 404, nil, breaker.Success},
		"429":             {t.Context(), 429, nil, breaker.Success},
		"503":             {t.Context(), 503, nil, breaker.Failure},
		"501":             {t.Context(), 501, nil, breaker.Success},
		"error":           {t.Context(), 0, errors.New("refused"), breaker.Failure},
		"the client left": {gone, 0, context.Canceled, breaker.Ignored},
		"its body failed": {t.Context(), 0, &clientFailure{errors.New("broken")}, breaker.Ignored},
	} {
		if got := outcome(c.ctx, &http.Response{StatusCode: c.status}, c.err); got != c.want {
			t.Errorf("%s: outcome = %v, want %v", name, got, c.want)
		}
	}
}

// P35.
func TestTargetThatIsBackWarmsUpSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, set := poolOf(t, Upstream{SlowStart: 10 * time.Second, Picker: RoundRobin{}}, 1, 1, 1, 1)
		share := func() int {
			got := 0
			for range 4000 {
				trip := new(trip)
				if p.first(p.current(), trip, plainRequest) == 0 {
					got++
				}
			}
			return got
		}
		if got := share(); got != 1000 {
			t.Errorf("a warm target had %d of 4000 requests, want 1000", got)
		}
		set[0].rewarm(p.now())
		// Its warmth w of each of its turns; the others' turns come round sooner by
		// what it leaves: 4000·w/(4-(1-w)).
		for _, c := range []struct {
			passed time.Duration // since the step before
			want   int
		}{{0, 129}, {5 * time.Second, 571}, {4 * time.Second, 923}} {
			time.Sleep(c.passed)
			if got := share(); got < c.want-95 || got > c.want+95 { // 6 standard deviations
				t.Errorf("%v later it had %d of 4000 requests, want %d", c.passed, got, c.want)
			}
		}
		time.Sleep(time.Minute)
		if got := share(); got != 1000 {
			t.Errorf("in the end it had %d of 4000 requests, want 1000", got)
		}
	})
}
