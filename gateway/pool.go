package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
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
	name      string
	base      time.Time // of the clock by which everything here is timed
	eject     *Eject    // nil where there is none
	slowStart time.Duration
	picker    Picker
	logger    *slog.Logger
	proxy     *proxy
	transport *http.Transport
	wrapped   http.RoundTripper // Wrap → transport

	inFlight atomic.Int64 // requests
	retired  atomic.Bool  // a Reload has taken it out

	mu      sync.Mutex // of ejections; never held in the user's code
	set     atomic.Pointer[[]*Instance]
	version atomic.Uint64 // of what view is made of
	view    atomic.Pointer[view]
	regroup chan struct{} // wakes run: the set has changed
}

// view is who may be picked, as of one moment. It is replaced as a whole.
type view struct {
	version uint64
	usable  []*Instance
	pick    func(*http.Request) int // an index of usable
	tags    map[string]int          // an index of usable by the value of a sticky cookie
	until   int64                   // when an ejection ends, on the pool's clock; 0 if there is none
}

// newPool makes the pool of u, or says what is wrong with u.
func newPool(config *Upstream, logger *slog.Logger) (*pool, []string) {
	faults := config.faults()
	u := config.withDefaults()
	p := &pool{
		config: config, Upstream: u, name: u.Name, base: time.Now(), slowStart: u.SlowStart, picker: u.Picker, logger: logger,
		transport: u.transport(), regroup: make(chan struct{}, 1),
	}
	if u.Eject != nil {
		e := u.Eject.withDefaults()
		p.eject = &e
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
		i.tags = s.tags(p.name, i.name)
	}
	if p.Breaker != nil {
		c := *p.Breaker
		if c.Classify == nil {
			c.Classify = classify
		}
		if c.Name == "" {
			c.Name = p.name + " " + at.Host
		}
		if i.breaker, err = breaker.New(c); err == nil {
			i.next = i.breaker.Transport(i.next)
		} // else it is a fault of the upstream, not of the target
	}
	return i, nil
}

// now is the time since the pool was made, in nanoseconds, and never 0.
func (p *pool) now() int64 { return int64(time.Since(p.base)) + 1 }

// look makes a view of what is known now.
func (p *pool) look(version uint64) *view {
	set, now := *p.set.Load(), p.now()
	v := &view{version: version}
	for _, i := range set {
		ejected := i.ejected.Load()
		if ejected > now && (v.until == 0 || ejected < v.until) {
			v.until = ejected
		}
		if i.healthy(now) {
			v.usable = append(v.usable, i)
		}
	}
	if len(v.usable) == 0 {
		if p.RefuseUnhealthy || len(set) == 0 {
			return v
		}
		v.usable = set
	}
	v.pick = p.picker.Over(v.usable)
	if p.Sticky != nil {
		v.tags = make(map[string]int)
		for n, i := range v.usable {
			for _, tag := range i.tags {
				v.tags[tag] = n
			}
		}
	}
	return v
}

// changed makes a new view after a change of what it is made of. No lock is held:
// the Picker is the user's. Of several who do it at once, the latest wins.
func (p *pool) changed() {
	p.version.Add(1)
	p.refresh()
}

func (p *pool) refresh() {
	for {
		wanted, old := p.version.Load(), p.view.Load()
		if old.version >= wanted {
			return
		}
		p.view.CompareAndSwap(old, p.look(wanted))
	}
}

// current returns the view to pick by. Ejections end by the clock alone, so that
// nobody has to run for it.
func (p *pool) current() *view {
	v := p.view.Load()
	if v.until != 0 && p.now() >= v.until {
		p.version.CompareAndSwap(v.version, v.version+1) // by the first who comes
		p.refresh()
		v = p.view.Load()
	}
	return v
}

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
		return nil, &unavailableError{p.name, "no target is healthy", after, nil}
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

// first returns the index in v of the instance to begin with.
func (p *pool) first(v *view, t *trip, req *http.Request) int {
	if p.Sticky != nil {
		if i := p.Sticky.wish(v, req); i >= 0 {
			return i
		}
	}
	n := len(v.usable)
	pick := func() int {
		if v.pick == nil { // nothing came of Over
			return 0
		}
		if i := v.pick(req); i >= 0 && i < n {
			return i
		}
		return 0
	}
	no := pick()
	if !t.tries.have(v.usable[no]) && v.usable[no].warm() {
		return no
	}
	// Another word of the Picker spreads what the one would have got; a Picker
	// that says the same again, as a Hash does, has a neighbour.
	for range 2 {
		if i := pick(); i != no && !t.tries.have(v.usable[i]) {
			return i
		}
	}
	return (no + 1) % n
}

// send makes one attempt at an instance.
func (p *pool) send(i *Instance, t *trip, req *http.Request) (*http.Response, error) {
	i.inFlight.Add(1)
	held := false
	defer func() { // also where a hook of the user's panics
		if !held {
			i.inFlight.Add(-1)
		}
	}()
	start := p.now()
	resp, err := i.next.RoundTrip(i.address(req, p.Host))
	if err != nil && errors.Is(err, breaker.ErrOpen) {
		return nil, err
	}
	now := p.now()
	o := outcome(req.Context(), resp, err)
	i.requests.Add(1)
	switch took := time.Duration(now - start); o {
	case breaker.Success:
		i.latency.add(now, took)
	case breaker.Failure:
		i.failures.Add(1)
		i.latency.add(now, max(took, latencyOfFailure))
	case breaker.Ignored: // says nothing about the target
	}
	p.judge(i, o)
	t.tries.add(i, resp)
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
	return &unavailableError{p.name, "every breaker is open", soonest, breaker.ErrOpen}
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

// addressed is a request and its URL, in one piece.
type addressed struct {
	http.Request
	url url.URL
}

// address returns a copy of req that goes to the target, under the name of host
// if that is not empty.
func (i *Instance) address(req *http.Request, host string) *http.Request {
	out := &addressed{*req, *req.URL}
	u := &out.url
	u.Scheme, u.Host = i.url.Scheme, i.url.Host
	if i.url.Path != "" {
		// Both are escaped if one is, so that the two forms go on to agree.
		if u.RawPath != "" || i.url.RawPath != "" {
			u.RawPath = i.url.EscapedPath() + u.EscapedPath()
		}
		u.Path = i.url.Path + u.Path
	}
	out.URL, out.Host = u, host
	return &out.Request
}

// classify is the default of a gateway's breakers. A 429 is an answer to one
// client about its own requests, and must not close the way for the others.
func classify(ctx context.Context, err error) breaker.Outcome {
	s, ok := errors.AsType[*breaker.StatusError](err)
	if ok && s.Response != nil && s.Response.StatusCode == http.StatusTooManyRequests {
		return breaker.Success
	}
	return breaker.DefaultClassify(ctx, err)
}

var errNothing = errors.New("gateway: what Wrap returned gave neither a response nor an error")

// innermost stands right before what Wrap made of the transport. It notes what
// is really sent, tells the breaker when it was the client who failed, and makes
// up for what Wrap owes by the contract of a RoundTripper.
type innermost struct {
	target string
	next   http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (i *innermost) RoundTrip(req *http.Request) (*http.Response, error) {
	t := tripOf(req.Context())
	t.tries.mu.Lock()
	t.exchange.attempts++
	t.exchange.target = i.target
	t.tries.mu.Unlock()
	resp, err := t.send(req, i.next)
	if err != nil && t.blameless() {
		return nil, &clientFailure{err}
	}
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errNothing
	case resp.Body == nil: // which those above would trip over
		resp.Body = http.NoBody
	}
	return resp, nil
}
