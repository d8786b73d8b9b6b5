package bulkhead_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

// request is one Acquire, on both sides of the comparison: permit, err and back
// are what happened, fate is what the oracle expects.
type request struct {
	cancel context.CancelFunc
	permit *bulkhead.Permit
	err    error
	back   bool

	fate     fate
	start    time.Duration // when it got its slot
	lowered  uint64        // how often the limit had been lowered then
	deadline time.Duration // of its context
	patience time.Duration // when its Wait is over
}

type fate string

const (
	waiting  fate = "waiting"
	running  fate = "running"
	done     fate = "done"
	full     fate = "full"
	canceled fate = "canceled"
)

// oracle is a bulkhead as one would write it without any thought of speed.
type oracle struct {
	config   bulkhead.Config
	limit    int
	good     int
	requests []*request
	stats    bulkhead.Stats
}

func (o *oracle) all(f fate) []*request {
	return slices.DeleteFunc(slices.Clone(o.requests), func(r *request) bool { return r.fate != f })
}

// admit gives out slots in the order of arrival.
func (o *oracle) admit(now time.Duration) {
	for _, r := range o.all(waiting) {
		if len(o.all(running)) < o.limit {
			r.fate, r.start, r.lowered = running, now, o.stats.Lowered
			o.stats.Admitted++
		}
	}
}

func (o *oracle) acquire(now time.Duration, r *request, dead bool) {
	r.fate, r.patience = waiting, now+o.config.Wait
	switch {
	case dead:
		r.fate = canceled
		o.stats.Canceled++
	case len(o.all(running)) >= o.limit && len(o.all(waiting)) >= o.config.Queue:
		r.fate = full
		o.stats.Rejected++
	}
	o.requests = append(o.requests, r)
	o.admit(now)
}

func (o *oracle) done(now time.Duration, r *request, err error) {
	if r.fate != running {
		return
	}
	slow := now-r.start >= o.config.SlowCall || errors.Is(err, shedding{})
	switch {
	case o.config.SlowCall == 0 || r.lowered != o.stats.Lowered:
	case slow:
		o.good = 0
		if less := max(o.config.Min, o.limit-max(1, o.limit/4)); less < o.limit {
			o.limit = less
			o.stats.Lowered++
		}
	case err == nil && o.limit < o.config.Max && 2*len(o.all(running)) >= o.limit:
		if o.good++; o.good == o.limit {
			o.good = 0
			o.limit++
		}
	}
	r.fate = done
	o.admit(now)
}

// pass ends the waits that end until now.
func (o *oracle) pass(now time.Duration) {
	for _, r := range o.all(waiting) {
		switch {
		case r.deadline <= now && r.deadline < r.patience:
			r.fate = canceled
			o.stats.Canceled++
		case r.patience <= now:
			r.fate = full
			o.stats.Rejected++
		}
	}
}

func (o *oracle) snapshot() bulkhead.Stats {
	s := o.stats
	s.Limit, s.Running, s.Waiting = o.limit, len(o.all(running)), len(o.all(waiting))
	return s
}

// matches reports whether r met its fate.
func (r *request) matches() bool {
	switch r.fate {
	case waiting:
		return !r.back
	case running, done:
		return r.back && r.err == nil
	case full:
		return r.back && errors.Is(r.err, bulkhead.ErrFull)
	default:
		return r.back && (errors.Is(r.err, context.Canceled) || errors.Is(r.err, context.DeadlineExceeded))
	}
}

func TestRandomOperationsAgreeWithANaiveOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	sequences := 2000
	if testing.Short() {
		sequences = 200
	}
	for i := range sequences {
		synctest.Test(t, func(t *testing.T) { sequence(t, rand.New(rand.NewPCG(seed, uint64(i)))) })
		if t.Failed() {
			t.Fatalf("seed %d, sequence %d", seed, i)
		}
	}
}

// Odd fractions of a millisecond keep any two timers, and the steps of time, from
// coming together.
func sequence(t *testing.T, rnd *rand.Rand) {
	const ms, never = time.Millisecond, time.Duration(1 << 62)
	c := bulkhead.Config{Limit: 1 + rnd.IntN(5), Queue: rnd.IntN(5)}
	if c.Queue > 0 {
		c.Wait = time.Duration(1+rnd.IntN(30))*ms + 500*time.Microsecond
	}
	if rnd.IntN(2) == 0 {
		c.SlowCall = time.Duration(1+rnd.IntN(20)) * ms
		c.Min, c.Max = 1+rnd.IntN(c.Limit), c.Limit+rnd.IntN(5)
	}
	b := mustNew(t, c)
	o := &oracle{config: c, limit: c.Limit}
	base := time.Now()
	now := func() time.Duration { return time.Since(base) }
	pick := func(rs []*request) *request {
		if len(rs) == 0 {
			return nil
		}
		return rs[rnd.IntN(len(rs))]
	}
	errs := []error{nil, nil, nil, errDown, shedding{}, shedding{rejected: true}}

	for step := range 80 {
		switch op := rnd.IntN(12); op {
		case 0, 1, 2, 3:
			r, dead := &request{deadline: never}, rnd.IntN(10) == 0
			ctx := t.Context()
			if rnd.IntN(3) == 0 {
				d := time.Duration(1+rnd.IntN(30))*ms + 250*time.Microsecond
				r.deadline = now() + d
				ctx, r.cancel = context.WithTimeout(ctx, d)
			} else {
				ctx, r.cancel = context.WithCancel(ctx)
			}
			defer r.cancel()
			if dead {
				r.cancel()
			}
			o.acquire(now(), r, dead)
			go func() {
				p, err := b.Acquire(ctx)
				r.permit, r.err, r.back = &p, err, true
			}()
		case 4, 5, 6, 7:
			if r := pick(o.all(running)); r != nil {
				err := errs[rnd.IntN(len(errs))]
				o.done(now(), r, err)
				if rnd.IntN(2) == 0 {
					copyOf(r.permit).Done(err) // and the permit itself can still try
				} else {
					r.permit.Done(err)
				}
			}
		case 8: // again: must change nothing
			if r := pick(o.all(done)); r != nil {
				copyOf(r.permit).Done(shedding{})
				r.permit.Done(nil)
			}
		case 9:
			if r := pick(o.all(waiting)); r != nil {
				r.fate = canceled
				o.stats.Canceled++
				r.cancel()
			}
		default:
			time.Sleep(time.Duration(rnd.IntN(15)) * ms)
			o.pass(now())
		}
		synctest.Wait()
		for i, r := range o.requests {
			if !r.matches() {
				t.Errorf("step %d: request %d: back %t with %v, want %s", step, i, r.back, r.err, r.fate)
			}
		}
		if got, want := b.Stats(), o.snapshot(); got != want {
			t.Errorf("step %d: Stats() = %+v, want %+v of %+v", step, got, want, c)
		}
		if t.Failed() {
			break
		}
	}
	for _, r := range o.requests { // lets the bubble end
		r.cancel()
		synctest.Wait()
		if r.permit != nil {
			r.permit.Done(nil)
		}
	}
	synctest.Wait()
	wantRunning(t, b, 0)
}
