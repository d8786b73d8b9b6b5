package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/parley-go/parley/breaker"
)

// pool is an Upstream at work: its targets, and the chain by which a request
// reaches them.
type pool struct {
	name      string
	targets   []*target
	turn      atomic.Uint64 // the target that the next request begins with
	proxy     *proxy
	transport *http.Transport
}

// target is one instance of an upstream.
type target struct {
	url  *url.URL
	next http.RoundTripper // breaker → Wrap → transport
}

// newPool makes the pool of u, or says what is wrong with u.
func newPool(config *Upstream) (*pool, []string) {
	faults := config.faults()
	u := config.withDefaults()
	p := &pool{name: u.Name, transport: u.transport()}
	var wrapped http.RoundTripper = p.transport
	if u.Wrap != nil {
		if wrapped = u.Wrap(wrapped); wrapped == nil {
			faults = append(faults, "Wrap returned nil")
		}
	}
	for i, s := range u.Targets {
		at, err := parseTarget(s)
		if err != nil {
			faults = append(faults, fmt.Sprintf("Targets[%d]: %v", i, err))
			continue
		}
		t := &target{url: at, next: &innermost{at.Host, wrapped}}
		if u.Breaker != nil {
			c := *u.Breaker
			if c.Classify == nil {
				c.Classify = classify
			}
			if c.Name == "" {
				c.Name = u.Name + " " + at.Host
			}
			b, err := breaker.New(c)
			if err != nil {
				return nil, append(faults, fmt.Sprintf("Breaker: %v", err)) // the others share the fault
			}
			t.next = b.Transport(t.next)
		}
		p.targets = append(p.targets, t)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	var chain http.RoundTripper = &deadlines{next: p}
	if u.Retry != nil {
		chain = u.Retry.Transport(&deadlines{next: p, patience: u.Retry.AttemptTimeout})
	}
	p.proxy = newProxy(chain)
	return p, nil
}

// RoundTrip sends one attempt to the next target in turn. Targets whose breaker
// is open are passed over; where all are, the error is that of the one that will
// be back soonest.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	t := tripOf(req.Context())
	if t.turn < 0 {
		t.turn = int((p.turn.Add(1) - 1) % uint64(len(p.targets)))
	}
	var open error
	for tries := range p.targets {
		at := p.targets[t.turn]
		t.turn = (t.turn + 1) % len(p.targets)
		out := at.address(req)
		if tries > 0 && req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, open
			}
			out.Body = body
		}
		resp, err := at.next.RoundTrip(out)
		if err == nil || !errors.Is(err, breaker.ErrOpen) {
			return resp, err
		}
		if open == nil || retryAfter(err) < retryAfter(open) {
			open = err
		}
	}
	return nil, open
}

// address returns a copy of req that goes to the target.
func (t *target) address(req *http.Request) *http.Request {
	out := req.WithContext(req.Context())
	u := *req.URL
	u.Scheme, u.Host = t.url.Scheme, t.url.Host
	if t.url.Path != "" {
		// Both are escaped if one is, so that the two forms go on to agree.
		if u.RawPath != "" || t.url.RawPath != "" {
			u.RawPath = t.url.EscapedPath() + u.EscapedPath()
		}
		u.Path = t.url.Path + u.Path
	}
	out.URL = &u
	return out
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

// innermost stands right before what Wrap made of the transport. It notes what
// is really sent, and tells the breaker when it was the client who failed.
type innermost struct {
	target string
	next   http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (i *innermost) RoundTrip(req *http.Request) (*http.Response, error) {
	t := tripOf(req.Context())
	t.exchange.attempts++
	t.exchange.target = i.target
	resp, err := t.send(req, i.next)
	if err != nil && (t.exchange.body.failure() != nil || t.starved.Load()) {
		return nil, &readFailure{err}
	}
	return resp, err
}
