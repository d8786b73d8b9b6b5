package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/breaker"
)

// pool is an Upstream at work: its targets, what is known about them, and the
// chain by which a request reaches them.
type pool struct {
	config    *Upstream // as it was given: who it is
	Upstream            // with its defaults
	base      time.Time // of the clock by which everything here is timed
	logger    *slog.Logger
	proxy     *proxy
	transport *plain
	wrapped   http.RoundTripper // Wrap → transport

	inFlight atomic.Int64 // requests
	retired  atomic.Bool  // a Reload has taken it out

	mu      sync.Mutex // of ejections; never held in the user's code
	set     atomic.Pointer[[]*Instance]
	version atomic.Uint64 // of what view is made of
	view    atomic.Pointer[view]
	regroup chan struct{} // wakes run: the set has changed
}

// newPool makes the pool of u, or says what is wrong with u.
func newPool(config *Upstream, logger *slog.Logger) (*pool, []string) {
	faults := config.faults()
	u := config.withDefaults()
	p := &pool{
		config: config, Upstream: u, base: time.Now(), logger: logger,
		transport: newPlain(u.transport()), regroup: make(chan struct{}, 1),
	}
	p.wrapped = p.transport
	if u.Wrap != nil {
		if p.wrapped = u.Wrap(p.wrapped); p.wrapped == nil {
			faults = append(faults, "Wrap returned nil")
		}
	}
	set := make([]*Instance, 0, len(u.Targets))
	for n, s := range u.Targets {
		weight := 1
		if n < len(u.Weights) {
			weight = u.Weights[n]
		}
		i, err := p.instance(Target{URL: s, Weight: weight})
		if err != nil {
			faults = append(faults, fmt.Sprintf("Targets[%d]: %v", n, err))
			continue
		}
		if slices.ContainsFunc(set, i.same) {
			faults = append(faults, fmt.Sprintf("Targets[%d]: it stands twice; to send it more, give it a weight", n))
		}
		set = append(set, i)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	p.set.Store(&set)
	p.view.Store(p.look(0))
	if len(set) > 0 && p.view.Load().pick == nil {
		return nil, []string{"Picker returned nil"}
	}
	var chain http.RoundTripper = p
	if u.Hedge != nil {
		chain = &hedge{*u.Hedge, chain}
	}
	if u.Retry != nil {
		chain = u.Retry.Transport(&deadlines{next: chain, patience: u.Retry.AttemptTimeout})
	} else {
		chain = &deadlines{next: chain}
	}
	p.proxy = newProxy(chain)
	return p, nil
}

// instance makes an instance of a target.
func (p *pool) instance(t Target) (*Instance, error) {
	at, err := parseTarget(t.URL)
	if err != nil {
		return nil, err
	}
	if t.Weight < 0 || t.Weight > maxTargetWeight {
		return nil, fmt.Errorf("its weight %d is outside of 1 to %d", t.Weight, maxTargetWeight)
	}
	i := &Instance{pool: p, name: at.String(), url: at}
	i.next = &innermost{at.Host, p.wrapped}
	i.weight.Store(int64(max(1, t.Weight)))
	if s := p.Sticky; s != nil {
		i.tags = s.tags(p.Name, i.name)
	}
	if p.Breaker != nil {
		c := *p.Breaker
		if c.Classify == nil {
			c.Classify = classify
		}
		if c.Name == "" {
			c.Name = p.Name + " " + at.Host
		}
		if i.breaker, err = breaker.New(c); err == nil {
			i.next = i.breaker.Transport(i.next)
		} // else it is a fault of the upstream, not of the target
	}
	return i, nil
}

// now is the time since the pool was made, in nanoseconds, and never 0.
func (p *pool) now() int64 { return int64(time.Since(p.base)) + 1 }

// enter and leave are called around each trip.
func (p *pool) enter() { p.inFlight.Add(1) }

func (p *pool) leave() {
	if p.inFlight.Add(-1) == 0 {
		p.tidy()
	}
}

// tidy closes what a pool has left that is retired and idle.
func (p *pool) tidy() {
	if p.retired.Load() {
		p.transport.CloseIdleConnections()
	}
}

// retire lets the pool end with its last request. Connections that are in use go
// when they fall idle: that is what CloseIdleConnections leaves behind.
func (p *pool) retire() {
	p.retired.Store(true)
	p.transport.CloseIdleConnections()
}

// RoundTrip sends one attempt to the target that the Picker chooses, or to the
// next one that is better: one that this request has not been to, whose breaker
// is not open, and which is warm.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	t := tripOf(req.Context())
	v := p.current()
	if len(v.usable) == 0 {
		closeBody(req)
		after := time.Second // until the next check or resolution, for all we know
		if v.until != 0 {
			after = max(after, time.Duration(v.until-p.now()))
		}
		return nil, &unavailableError{p.Name, "no target is healthy", after, nil}
	}
	if p.Hedge == nil { // or another attempt may be under way
		t.tries.release()
	}
	first := p.first(v, t, req)
	var open error
	sent := false
	for pass := range 2 { // first those that the request has not been to
		for k := range v.usable {
			i := v.usable[(first+k)%len(v.usable)]
			if t.tries.have(i) != (pass == 1) || i.open() {
				continue
			}
			out := req
			if sent && req.GetBody != nil {
				body, err := req.GetBody()
				if err != nil {
					return nil, open
				}
				out = req.WithContext(req.Context())
				out.Body = body
			}
			sent = true
			resp, err := p.send(i, t, out)
			if err == nil || !errors.Is(err, breaker.ErrOpen) {
				return resp, err
			}
			if open == nil || retryAfter(err) < retryAfter(open) {
				open = err
			}
		}
	}
	if !sent {
		closeBody(req)
	}
	if open == nil {
		open = p.allOpen(v)
	}
	return nil, open
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // what a RoundTripper owes; nobody wants to know
	}
}

// send makes one attempt at an instance.
func (p *pool) send(i *Instance, t *trip, req *http.Request) (*http.Response, error) {
	i.inFlight.Add(1)
	n := t.tries.add(i)
	held := false
	defer func() { // also where a hook of the user's panics
		if !held {
			i.inFlight.Add(-1)
		}
	}()
	start := p.now()
	resp, err := i.next.RoundTrip(i.address(t.sheet(), req, p.Host))
	if err != nil && errors.Is(err, breaker.ErrOpen) {
		t.tries.drop(n)
		return nil, err
	}
	now := p.now()
	took := time.Duration(now - start)
	if d, ok := t.exchange.body.since(); ok {
		took = max(1, min(took, d)) // or strangers who upload slowly could make the target look slow
	}
	o := outcome(req.Context(), resp, err)
	if err != nil && t.blameless() { // also where the time was over before a breaker was asked
		o = breaker.Ignored
	}
	i.requests.Add(1)
	switch o {
	case breaker.Success:
		i.latency.add(now, took)
	case breaker.Failure:
		i.failures.Add(1)
		i.latency.add(now, max(took, latencyOfFailure))
	case breaker.Ignored: // says nothing about the target
	}
	p.judge(i, o)
	t.tries.done(n, resp)
	held = resp != nil // the trip releases it
	return resp, err
}

// open reports whether the instance's breaker would reject, as far as one can say
// without asking it.
func (i *Instance) open() bool {
	if i.breaker == nil {
		return false
	}
	s := i.breaker.State()
	return s == breaker.Open || s == breaker.ForcedOpen
}

// allOpen is the error where every breaker is open: it names the time until the
// first lets a request try.
func (p *pool) allOpen(v *view) error {
	var soonest time.Duration
	for _, i := range v.usable {
		if d := i.breaker.Stats().RetryAfter; d > 0 && (soonest == 0 || d < soonest) {
			soonest = d
		}
	}
	return &unavailableError{p.Name, "every breaker is open", soonest, breaker.ErrOpen}
}

// unavailableError is what an attempt returns that had nowhere to go.
type unavailableError struct {
	upstream string
	why      string
	after    time.Duration
	cause    error // nil where there is none
}

func (e *unavailableError) Error() string {
	return fmt.Sprintf("gateway: upstream %q: %s; try again after %v", e.upstream, e.why, e.after)
}

func (e *unavailableError) Unwrap() error             { return e.cause }
func (e *unavailableError) Rejected() bool            { return true }
func (e *unavailableError) RetryAfter() time.Duration { return e.after }
