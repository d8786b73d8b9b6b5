package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/breaker"
)

// oracle is the state machine of the package doc, written to be obvious: it keeps
// every outcome and every permit, and computes all else from them.
type oracle struct {
	config     breaker.Config // with defaults
	width      time.Duration  // of a bucket
	now        time.Duration
	state      breaker.State
	generation int
	until      time.Duration // end of the open time
	reopens    int
	outcomes   []outcomeAt
	running    []*permitOf // probes, in order of admission
	succeeded  int
	stats      breaker.Stats // totals only
	changes    []breaker.Change
}

type outcomeAt struct {
	at           time.Duration
	failed, slow bool
}

// permitOf is a permit of the oracle and the one of the breaker beside it.
type permitOf struct {
	generation int
	probe      bool
	start      time.Duration
	done       bool
	real       *breaker.Permit
}

func newOracle(c breaker.Config) *oracle {
	o := &oracle{config: c}
	for o.width = 1; 2*o.width <= c.Window/8; o.width *= 2 {
	}
	return o
}

func (o *oracle) change(to breaker.State, why breaker.Reason, openFor time.Duration) {
	c := breaker.Change{From: o.state, To: to, Reason: why, OpenFor: openFor}
	if o.state == breaker.Closed {
		c.Counts = o.counts()
	}
	if o.state != to {
		o.changes = append(o.changes, c)
	}
	o.state = to
	o.generation++
	o.outcomes, o.running, o.succeeded = nil, nil, 0
	if to == breaker.Closed {
		o.reopens = 0
	}
}

func (o *oracle) open(at time.Duration, why breaker.Reason) {
	d := o.config.OpenFor
	for range o.reopens {
		d = min(2*d, o.config.MaxOpenFor)
	}
	o.change(breaker.Open, why, d)
	o.until = at + d
	o.reopens++
	o.stats.Opened++
}

func (o *oracle) counts() breaker.Counts {
	var c breaker.Counts
	if o.state != breaker.Closed {
		return c
	}
	for i, x := range o.outcomes {
		switch {
		case o.config.Consecutive > 0:
			if x.failed {
				c.Failures++
			} else {
				c.Failures = 0
			}
			continue
		case o.config.WindowCalls > 0:
			if i < len(o.outcomes)-o.config.WindowCalls {
				continue
			}
		case int64(o.now/o.width)-int64(x.at/o.width) >= int64((o.config.Window+o.width-1)/o.width):
			continue
		}
		if x.failed {
			c.Failures++
		} else {
			c.Successes++
		}
		if x.slow {
			c.Slow++
		}
	}
	return c
}

func (o *oracle) expire() {
	if o.state == breaker.HalfOpen && len(o.running) > 0 {
		if end := o.running[0].start + o.config.ProbeTimeout; end <= o.now {
			o.open(end, breaker.ProbeTimedOut)
		}
	}
}

func (o *oracle) allow() *permitOf {
	o.expire()
	if o.state == breaker.Open && o.now >= o.until {
		o.change(breaker.HalfOpen, breaker.OpenTimeOver, 0)
	}
	p := &permitOf{generation: o.generation, start: o.now, probe: o.state == breaker.HalfOpen}
	switch {
	case o.state == breaker.Open, o.state == breaker.ForcedOpen, p.probe && len(o.running) == o.config.Probes:
		o.stats.Rejected++
		return nil
	case p.probe:
		o.running = append(o.running, p)
	}
	return p
}

func (o *oracle) done(p *permitOf, outcome breaker.Outcome) {
	if p.done {
		return
	}
	p.done = true
	if p.generation != o.generation {
		o.stats.Stale++
		return
	}
	if o.state == breaker.Disabled {
		return
	}
	switch outcome {
	case breaker.Failure:
		o.stats.Failures++
	case breaker.Ignored:
		o.stats.Ignored++
	case breaker.Success: // has no total
	}
	x := outcomeAt{o.now, outcome == breaker.Failure, o.config.SlowCall > 0 && o.now-p.start >= o.config.SlowCall}
	if p.probe {
		o.probed(p, outcome, x)
		return
	}
	if outcome == breaker.Ignored {
		return
	}
	o.outcomes = append(o.outcomes, x)
	if !x.failed && !x.slow {
		return
	}
	c := o.counts()
	rate := func(n uint64, rate float64) bool {
		return c.Calls() >= uint64(o.config.MinCalls) && float64(n)/float64(c.Calls()) >= rate
	}
	switch {
	case o.config.Consecutive > 0:
		if c.Failures >= uint64(o.config.Consecutive) {
			o.open(o.now, breaker.ConsecutiveReached)
		}
	case rate(c.Failures, o.config.FailureRate):
		o.open(o.now, breaker.FailureRateReached)
	case o.config.SlowCall > 0 && rate(c.Slow, o.config.SlowCallRate):
		o.open(o.now, breaker.SlowCallRateReached)
	}
}

func (o *oracle) probed(p *permitOf, outcome breaker.Outcome, x outcomeAt) {
	o.expire()
	if p.generation != o.generation {
		o.stats.Stale++
		return
	}
	for i := range o.running {
		if o.running[i] == p {
			o.running = append(o.running[:i:i], o.running[i+1:]...)
			break
		}
	}
	switch {
	case outcome == breaker.Ignored:
	case x.failed || x.slow:
		o.open(o.now, breaker.ProbeFailed)
	default:
		if o.succeeded++; o.succeeded == o.config.ProbeSuccesses {
			o.change(breaker.Closed, breaker.ProbesSucceeded, 0)
		}
	}
}

// snapshot is what Stats must say.
func (o *oracle) snapshot() breaker.Stats {
	s := o.stats
	s.State, s.Counts, s.Probes = o.state, o.counts(), len(o.running)
	switch {
	case o.state == breaker.Open && o.now >= o.until:
		s.State = breaker.HalfOpen
	case o.state == breaker.Open:
		s.RetryAfter = o.until - o.now
	case o.state == breaker.HalfOpen && len(o.running) == o.config.Probes:
		s.RetryAfter = max(o.running[0].start+o.config.ProbeTimeout-o.now, 0)
	}
	return s
}

// anyConfig returns a Config with small figures, so that short sequences reach
// every state.
func anyConfig(r *rand.Rand) breaker.Config {
	c := breaker.Config{
		OpenFor: time.Second, MaxOpenFor: time.Second << r.IntN(4), DisableJitter: true,
		Probes: 1 + r.IntN(3), ProbeSuccesses: 1 + r.IntN(4), ProbeTimeout: 3 * time.Second,
	}
	switch r.IntN(3) {
	case 0:
		c.Consecutive = 1 + r.IntN(4)
		return c
	case 1:
		c.WindowCalls = 1 + r.IntN(80)
		c.MinCalls = 1 + r.IntN(min(c.WindowCalls, 8))
	default:
		c.Window = time.Duration(1+r.IntN(100)) * 100 * time.Millisecond
		c.MinCalls = 1 + r.IntN(8)
	}
	c.FailureRate = []float64{.25, .5, .57, .9, 1}[r.IntN(5)]
	if r.IntN(2) == 0 {
		c.SlowCall, c.SlowCallRate = 500*time.Millisecond, []float64{.25, .5, 1}[r.IntN(3)]
	}
	return c
}

func anyStep(r *rand.Rand) time.Duration {
	switch r.IntN(4) {
	case 0:
		return 500 * time.Millisecond
	case 1:
		return time.Duration(r.IntN(int(200 * time.Millisecond)))
	case 2:
		return time.Second
	default:
		return time.Duration(r.IntN(int(12 * time.Second)))
	}
}

func TestTheBreakerDoesWhatTheStateTableSays(t *testing.T) {
	const sequences, operations = 10_000, 60
	seed := rand.Uint64()
	synctest.Test(t, func(t *testing.T) {
		visited := map[breaker.Reason]int{}
		for n := range uint64(sequences) {
			why, trace := follow(t.Context(), seed, n, operations, visited)
			if why != "" {
				t.Fatalf("seed %d, sequence %d: %s\nafter %s", seed, n, why, strings.Join(trace, "\n      "))
			}
		}
		for _, why := range []breaker.Reason{
			breaker.FailureRateReached, breaker.SlowCallRateReached, breaker.ConsecutiveReached, breaker.OpenTimeOver,
			breaker.ProbesSucceeded, breaker.ProbeFailed, breaker.ProbeTimedOut, breaker.Operator,
		} {
			if visited[why] < sequences/100 {
				t.Errorf("seed %d: only %d changes by %s, want that the sequences reach every part of the table", seed, visited[why], why)
			}
		}
	})
}

// follow runs one random sequence on a breaker and an oracle. It returns where
// they differ first, if they do, and the operations up to there.
func follow(ctx context.Context, seed, n uint64, operations int, visited map[breaker.Reason]int) (string, []string) {
	r := rand.New(rand.NewPCG(seed, n))
	config := anyConfig(r)
	trace := []string{fmt.Sprintf("%+v", config)}
	var heard []breaker.Change
	o := newOracle(config)
	config.OnChange = func(c breaker.Change) { heard = append(heard, c) }
	b, err := breaker.New(config)
	if err != nil {
		return err.Error(), trace
	}
	base := time.Now()
	var permits []*permitOf
	for range operations {
		o.now = time.Since(base)
		var op string
		switch k := r.IntN(100); {
		case k < 30:
			op = "allow"
			p, err := b.Allow()
			want := o.allow()
			if (want == nil) != errors.Is(err, breaker.ErrOpen) {
				return fmt.Sprintf("Allow() = %v, want admitted: %v", err, want != nil), append(trace, op)
			}
			if want != nil {
				want.real = copyOf(&p)
				permits = append(permits, want)
			}
		case k < 65 && len(permits) > 0: // some are never picked: abandoned
			p, outcome := permits[r.IntN(len(permits))], breaker.Outcome(r.IntN(3))
			op = fmt.Sprintf("done %v", outcome)
			p.real.Done(outcome)
			o.done(p, outcome)
		case k < 80:
			outcome := breaker.Outcome(r.IntN(3))
			op = fmt.Sprintf("do %v", outcome)
			called := false
			_ = b.Do(ctx, func(context.Context) error {
				called = true
				return map[breaker.Outcome]error{breaker.Failure: errDown, breaker.Ignored: refusedError{}}[outcome]
			})
			want := o.allow()
			if called != (want != nil) {
				return fmt.Sprintf("Do() called the function: %v, want %v", called, want != nil), append(trace, op)
			}
			if want != nil {
				o.done(want, outcome)
			}
		case k < 98:
			d := anyStep(r)
			op = fmt.Sprintf("wait %v", d)
			time.Sleep(d)
			o.now += d
		default:
			to := []breaker.State{breaker.ForcedOpen, breaker.Disabled, breaker.Closed, breaker.Closed}[r.IntN(4)]
			op = fmt.Sprintf("force %v", to)
			map[breaker.State]func(){breaker.ForcedOpen: b.ForceOpen, breaker.Disabled: b.Disable, breaker.Closed: b.Reset}[to]()
			if to != o.state || to == breaker.Closed {
				o.change(to, breaker.Operator, 0)
			}
		}
		trace = append(trace, op)
		if got, want := b.Stats(), o.snapshot(); got != want {
			return "Stats() differs (-want +got):\n" + cmp.Diff(want, got), trace
		}
		if !equal(o.changes, heard) {
			return "OnChange differs (-want +got):\n" + cmp.Diff(o.changes, heard), trace
		}
	}
	for _, c := range heard {
		visited[c.Reason]++
	}
	return "", trace
}
