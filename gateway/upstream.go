package gateway

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
)

// Upstream is a service that requests are forwarded to. It is configuration
// only, which [Builder.Build] reads; change nothing in it afterwards.
type Upstream struct {
	// Name is what routes and the access log call the upstream. Required, and
	// unique within a gateway.
	Name string

	// Targets are the absolute http or https URLs of the service's instances,
	// without query; a path is put before that of each request. At most 1000, and
	// none twice. Required, unless there is a Resolver.
	Targets []string

	// Weights are the shares of the Targets, in the same order, from 1 to 100; a
	// target of weight 2 gets twice as many requests as one of weight 1. Default:
	// all the same. Others than as many as Targets are a fault.
	Weights []int

	// Resolver names the targets where they change, such as [DNS]. It is asked by
	// [Gateway.Run], at its beginning and then each Refresh; until it has answered
	// once, requests get 503. When it fails, the last targets it named stay. With
	// Targets it is a fault. Default: none.
	Resolver Resolver

	// Refresh is how long the answer of the Resolver is good for. Each wait
	// differs by up to a tenth, so that gateways do not ask together. Default 30
	// seconds. Negative is a fault.
	Refresh time.Duration

	// Picker says how requests are spread over the targets. A retry goes to one
	// that the request has not been to. Default [RoundRobin].
	Picker Picker

	// Sticky keeps a client on one target. Default: it may get any.
	Sticky *Sticky

	// Health asks each target whether it is well. Default: nobody asks.
	Health *Health

	// Eject takes a target away for a while when requests to it fail. Default:
	// nothing does.
	Eject *Eject

	// SlowStart is how long a target that was ejected, unhealthy, or is new, gets
	// less than its share: from a tenth at first, to all of it at the end.
	// Default: it gets its share at once. Negative is a fault.
	SlowStart time.Duration

	// RefuseUnhealthy answers 503 where no target is healthy. Default: then
	// requests go to all of them, since checks that fail everywhere say more about
	// the checks than about the targets.
	RefuseUnhealthy bool

	// Host is the name by which targets know themselves: what they see as Host
	// and, over TLS, what their certificates must bear. Default: for each target
	// the host of its URL, which for a Resolver is often an address.
	Host string

	// TLS configures connections to https targets: RootCAs to trust a private
	// authority, Certificates for mutual TLS. Versions below TLS 1.2 are a fault,
	// and so is InsecureSkipVerify without a VerifyConnection that checks
	// instead. Default: the system's authorities.
	TLS *tls.Config

	// Retry repeats what has failed, as [retry.Policy.Transport] describes. Its
	// AttemptTimeout includes the sending of the body; a client that is too slow
	// for it is answered by 408.
	// A request body is sent again if its first 64 KiB are all of it and the
	// method or an Idempotency-Key allows it, or if nothing of it was read.
	// Default: each request is tried once.
	Retry *retry.Policy

	// Hedge asks a second target where the first is slow, and takes what answers
	// first, of whatever status; see [retry.Hedge]. It is for GET, HEAD and OPTIONS
	// without a body, and not for WebSocket. Give it a Budget: without one, an
	// upstream that has become slow gets twice the load. It stands inside of
	// Retry. Default: one attempt at a time.
	Hedge *retry.Hedging

	// Breaker is the template of one breaker for each target. A target whose
	// breaker is open is passed over, and the request fails where all are.
	// A Name that is empty becomes that of the upstream and the target's host.
	// Default: no breakers.
	//
	// Without Classify, status 429 counts as a success: it tells one client of its
	// own quota. Status 504 counts as nothing where a client gave less time than
	// its route does, since targets that are told may keep to it. Leave SlowCall and WholeBody unset where strangers send large
	// bodies: who is slow at that counts against the target.
	Breaker *breaker.Config

	// Wrap puts a RoundTripper around the transport, such as that of a tracer or
	// of a bulkhead, which then bounds the requests to the whole upstream: it sees
	// each attempt and each check of Health, with the target's URL. It is called
	// once, when the upstream is new to the gateway. Default: none.
	Wrap func(http.RoundTripper) http.RoundTripper

	// HTTP2 speaks nothing but HTTP/2 to the targets, and to http targets without
	// asking first, as gRPC servers expect. Who asks for WebSocket gets a plain
	// answer then. Set it where targets speak nothing else, or such a request would
	// fail in their name. Default: HTTP/1.1 to http targets, and
	// to https targets what the handshake agrees on.
	HTTP2 bool

	// DialTimeout bounds each connection attempt, and each TLS handshake, anew.
	// Default 5 seconds. Negative is a fault.
	DialTimeout time.Duration

	// KeepAlive is the interval of TCP's probes on connections, by which those to
	// a target that vanished without a word are found. Default 30 seconds.
	// Negative is a fault.
	KeepAlive time.Duration

	// HeaderTimeout bounds the wait of one attempt for the headers of its answer,
	// once the request was sent whole. Default: the Timeout of the route alone
	// does. Negative is a fault.
	HeaderTimeout time.Duration

	// ContinueTimeout is how long a body whose sender expects 100 Continue is kept
	// back for the target to say so. Default 1 second. Negative is a fault.
	ContinueTimeout time.Duration

	// IdleTimeout is how long an unused connection is kept. Let it be shorter
	// than that of the targets, so that none is closed under a request.
	// Default 30 seconds. Negative is a fault.
	IdleTimeout time.Duration

	// MaxIdle bounds the unused connections kept for each target, where those of
	// plain requests are counted by themselves: on Unix, GET, HEAD and OPTIONS without
	// a body, with a header of up to 16 KiB, by HTTP/1.1 without TLS, have connections
	// of their own, which cost less (docs/design/0003). Default 256. Negative is a
	// fault.
	MaxIdle int

	// MaxConns bounds the connections to each target; requests wait for one.
	// Tunnels count. A wait that lasts for the route's Timeout counts against the
	// target. With a bound, plain requests have no connections of their own. Default:
	// no bound. Negative is a fault.
	MaxConns int
}

const (
	defaultDialTimeout     = 5 * time.Second
	defaultKeepAlive       = 30 * time.Second
	defaultContinueTimeout = time.Second // zero would send the body unasked
	defaultIdleTimeout     = 30 * time.Second
	defaultRefresh         = 30 * time.Second
	defaultMaxIdle         = 256

	maxTargets      = 1000
	maxTargetWeight = 100
)

func (u *Upstream) withDefaults() Upstream {
	c := *u
	c.DialTimeout = cmp.Or(c.DialTimeout, defaultDialTimeout)
	c.KeepAlive = cmp.Or(c.KeepAlive, defaultKeepAlive)
	c.ContinueTimeout = cmp.Or(c.ContinueTimeout, defaultContinueTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, defaultIdleTimeout)
	c.Refresh = cmp.Or(c.Refresh, defaultRefresh)
	c.MaxIdle = cmp.Or(c.MaxIdle, defaultMaxIdle)
	if c.Picker == nil {
		c.Picker = RoundRobin{}
	}
	if c.Sticky != nil {
		s := *c.Sticky
		s.Cookie = cmp.Or(s.Cookie, "gw-"+c.Name)
		s.SameSite = cmp.Or(s.SameSite, http.SameSiteLaxMode)
		c.Sticky = &s
	}
	if c.Health != nil {
		h := c.Health.withDefaults()
		c.Health = &h
	}
	if c.Eject != nil {
		e := c.Eject.withDefaults()
		c.Eject = &e
	}
	return c
}

func (u *Upstream) faults() (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if u.Name == "" {
		fault("Name is empty")
	} else if !safeID(u.Name) {
		fault("Name %q has more than 64 characters or others than letters, digits and - _ .", u.Name)
	}
	switch {
	case len(u.Targets) == 0 && u.Resolver == nil:
		fault("Targets is empty")
	case len(u.Targets) > 0 && u.Resolver != nil:
		fault("Targets and Resolver contradict each other")
	case len(u.Targets) > maxTargets:
		fault("Targets has %d elements, more than %d", len(u.Targets), maxTargets)
	}
	if len(u.Weights) > 0 && len(u.Weights) != len(u.Targets) {
		fault("Weights has %d elements, and Targets %d", len(u.Weights), len(u.Targets))
	}
	for i, w := range u.Weights {
		if w < 1 || w > maxTargetWeight {
			fault("Weights[%d] %d is outside of 1 to %d", i, w, maxTargetWeight)
		}
	}
	if u.Host != "" && !validHost(u.Host) {
		fault("Host %q is malformed", u.Host)
	}
	if t := u.TLS; t != nil {
		if t.MinVersion != 0 && t.MinVersion < tls.VersionTLS12 || t.MaxVersion != 0 && t.MaxVersion < tls.VersionTLS12 {
			fault("TLS allows or demands a version below 1.2")
		}
		if t.InsecureSkipVerify && t.VerifyConnection == nil {
			fault("TLS.InsecureSkipVerify trusts anybody; set RootCAs, or check in VerifyConnection")
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"Refresh", u.Refresh},
		{"SlowStart", u.SlowStart},
		{"DialTimeout", u.DialTimeout},
		{"KeepAlive", u.KeepAlive},
		{"HeaderTimeout", u.HeaderTimeout},
		{"ContinueTimeout", u.ContinueTimeout},
		{"IdleTimeout", u.IdleTimeout},
	} {
		if d.value < 0 {
			fault("%s %v is negative", d.name, d.value)
		}
	}
	if u.MaxIdle < 0 {
		fault("MaxIdle %d is negative", u.MaxIdle)
	}
	if u.MaxConns < 0 {
		fault("MaxConns %d is negative", u.MaxConns)
	}
	return append(faults, u.faultsOfParts()...)
}

// faultsOfParts returns what is wrong with the structs within.
func (u *Upstream) faultsOfParts() (faults []string) {
	if u.Retry != nil {
		if err := u.Retry.Validate(); err != nil {
			faults = append(faults, fmt.Sprintf("Retry: %v", err))
		}
	}
	if u.Hedge != nil {
		if err := u.Hedge.Validate(); err != nil {
			faults = append(faults, fmt.Sprintf("Hedge: %v", err))
		}
	}
	if u.Breaker != nil {
		// Its faults are those of every target's breaker, also where a Resolver
		// has yet to name the targets.
		if _, err := breaker.New(*u.Breaker); err != nil {
			faults = append(faults, fmt.Sprintf("Breaker: %v", err))
		}
	}
	if u.Sticky != nil {
		faults = append(faults, u.Sticky.faults()...)
	}
	if u.Health != nil {
		faults = append(faults, u.Health.faults()...)
	}
	if u.Eject != nil {
		faults = append(faults, u.Eject.faults()...)
	}
	// The methods of a struct are those of a pointer to it, too.
	switch p := u.Picker.(type) {
	case LeastLoaded:
		faults = append(faults, p.faults()...)
	case *LeastLoaded:
		faults = append(faults, p.faults()...)
	case Hash:
		faults = append(faults, p.faults()...)
	case *Hash:
		faults = append(faults, p.faults()...)
	}
	switch r := u.Resolver.(type) {
	case DNS:
		faults = append(faults, r.faults()...)
	case *DNS:
		faults = append(faults, r.faults()...)
	}
	return faults
}
