package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/parley-go/parley/breaker"
)

// Eject takes a target out of the choice for a while when the requests to it
// fail one after the other: the passive half of health. What counts as a failure
// is what a breaker counts as one, an error that is not the client's, or status
// 500, 502, 503 or 504, the last save where the client gave less time than its
// route does. An ejected target comes back by itself.
//
// A breaker and ejection answer different questions. The breaker rejects at a
// rate of failures and lets a probe try; ejection is quicker to act, and never
// takes more of the upstream away than MaxRate.
type Eject struct {
	// Consecutive is how many failures in a row eject a target. Default 5.
	// Negative is a fault.
	Consecutive int

	// For is how long the first ejection lasts. Each that follows within MaxFor
	// of the last one's end lasts twice as long, up to MaxFor. Default 30 seconds.
	// Negative is a fault.
	For time.Duration

	// MaxFor is how long an ejection lasts at most. Default 5 minutes, or For where
	// that is longer. Below For is a fault.
	MaxFor time.Duration

	// MaxRate is the share of the targets that may be ejected at the same time,
	// rounded down: of a single target, none. Default 0.5. Outside of 0 to 1 is a
	// fault.
	MaxRate float64
}

const (
	defaultConsecutive = 5
	defaultEjectFor    = 30 * time.Second
	defaultEjectMaxFor = 5 * time.Minute
	defaultEjectRate   = 0.5
	maxDoublings       = 16
)

func (e Eject) withDefaults() Eject {
	e.Consecutive = cmp.Or(e.Consecutive, defaultConsecutive)
	e.For = cmp.Or(e.For, defaultEjectFor)
	e.MaxFor = cmp.Or(e.MaxFor, max(e.For, defaultEjectMaxFor))
	e.MaxRate = cmp.Or(e.MaxRate, defaultEjectRate)
	return e
}

func (e Eject) faults() (faults []string) {
	if e.Consecutive < 0 {
		faults = append(faults, fmt.Sprintf("Eject.Consecutive %d is negative", e.Consecutive))
	}
	if e.For < 0 {
		faults = append(faults, fmt.Sprintf("Eject.For %v is negative", e.For))
	}
	if e.MaxFor < 0 || e.MaxFor > 0 && e.MaxFor < e.For {
		faults = append(faults, fmt.Sprintf("Eject.MaxFor %v is below For", e.MaxFor))
	}
	if !(e.MaxRate >= 0 && e.MaxRate <= 1) {
		faults = append(faults, fmt.Sprintf("Eject.MaxRate %v is outside of 0 to 1", e.MaxRate))
	}
	return faults
}

// lasts is how long the n-th ejection in short order lasts, from 1 on.
func (e Eject) lasts(n int) time.Duration {
	for range min(n-1, maxDoublings) {
		if e.For >= e.MaxFor/2 {
			return e.MaxFor
		}
		e.For *= 2
	}
	return e.For
}

// outcome says what an attempt tells about the target.
func outcome(ctx context.Context, resp *http.Response, err error) breaker.Outcome {
	if err != nil {
		return classify(ctx, err)
	}
	return outcomeOf(ctx, resp.StatusCode)
}

// judge books the outcome of an attempt, and ejects the target when that was one
// failure too many.
func (p *pool) judge(i *Instance, o breaker.Outcome) {
	switch {
	case o == breaker.Success:
		if i.fails.Load() != 0 {
			i.fails.Store(0)
		}
	case o == breaker.Failure && p.Eject != nil && i.fails.Add(1) >= int64(p.Eject.Consecutive):
		if d := p.ejectNow(i, p.now()); d > 0 {
			p.changed()
			p.logger.Warn("gateway: target ejected", slog.String("upstream", p.Name), slog.String("target", i.name), slog.Duration("for", d))
		}
	}
}

// ejectNow ejects the instance, and returns for how long: 0 where it is ejected
// already or too many are.
func (p *pool) ejectNow(i *Instance, now int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := i.ejected.Load()
	if last > now {
		return 0
	}
	set, out := *p.set.Load(), 1
	for _, other := range set {
		if other.ejected.Load() > now {
			out++
		}
	}
	if float64(out) > p.Eject.MaxRate*float64(len(set)) {
		return 0
	}
	if last == 0 || now-last > int64(p.Eject.MaxFor) {
		i.ejection = 0
	}
	i.ejection++
	d := p.Eject.lasts(i.ejection)
	i.fails.Store(0)
	i.ejected.Store(now + int64(d))
	i.rewarm(now + int64(d))
	return d
}

// minWarmth is the share that a target gets when its slow start begins: without
// any, it would never become warm.
const minWarmth = 0.1

// rewarm begins a slow start at an instant of the pool's clock, where the
// upstream has one.
func (i *Instance) rewarm(at int64) {
	if i.pool.SlowStart > 0 {
		i.warming.Store(max(at, 1))
	}
}

// warm says, at random while its slow start lasts, whether the instance takes the
// request that it was picked for.
func (i *Instance) warm() bool {
	since := i.warming.Load()
	if since == 0 {
		return true
	}
	warmth := float64(i.pool.now()-since) / float64(i.pool.SlowStart)
	if warmth >= 1 {
		i.warming.CompareAndSwap(since, 0)
		return true
	}
	return rand.Float64() < max(minWarmth, warmth)
}
