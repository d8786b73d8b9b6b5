package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Builder collects what a gateway is made of. The zero Builder is ready to use.
// It is not safe for concurrent use. A copy of one goes its own way, which helps to
// describe what a Reload changes.
type Builder struct {
	// TrustedProxies are the addresses of the proxies in front of the gateway whose
	// word about a client is taken: X-Forwarded-For as far as [ClientIP] says,
	// X-Forwarded-Host and -Proto where they are one plain word, and X-Request-Id.
	// What all others say of that is dropped. Routes go by the request's own host
	// in any case. Default: none.
	TrustedProxies []netip.Prefix

	// IdentityHeaders name the fields by which the services learn who the client
	// is, a * at the end standing for whatever follows. They are removed from each
	// request, so that only Use can set them. Default: X-User, X-User-*, X-Auth-*,
	// X-Authenticated-*, X-Remote-User and Remote-User. Empty, but not nil: none.
	// Fields that name the certificate of a client are always removed.
	IdentityHeaders []string

	// MergeSlashes makes one slash of several, for routes and upstreams alike.
	// Default: such paths are answered by 400.
	MergeSlashes bool

	// AllowEncodedSlash lets %2F pass, as a character within one segment of the
	// path: {name} matches it, and the upstream gets it as %2F. Dot segments on
	// either side of it are refused all the same. Make sure that no upstream takes
	// it for a slash. Default: such paths are answered by 400.
	AllowEncodedSlash bool

	// RawQuery lets the query pass as it is, with semicolons and broken escapes,
	// and no route may have conditions on it. Default: such queries are answered
	// by 400.
	RawQuery bool

	upstreams []*Upstream
	routes    []Route
	log       *AccessLog
	logger    *slog.Logger
	self      *Builder // whose arrays those of the slices above are
}

// own makes a copy of a Builder independent of the one that it was copied from.
func (b *Builder) own() {
	if b.self != b {
		b.self, b.upstreams, b.routes = b, slices.Clone(b.upstreams), slices.Clone(b.routes)
	}
}

// Upstream adds a service that routes can name.
func (b *Builder) Upstream(u *Upstream) {
	b.own()
	b.upstreams = append(b.upstreams, u)
}

// Route adds a route.
func (b *Builder) Route(r Route) {
	b.own()
	b.routes = append(b.routes, r)
}

// AccessLog turns the access log on. The last call counts.
func (b *Builder) AccessLog(l AccessLog) { b.log = &l }

// Logger sets where the gateway tells of what happens beside the requests: of
// targets that fall ill, recover or are ejected, and of resolutions that fail.
// Default: [slog.Default] at the time of Build.
func (b *Builder) Logger(l *slog.Logger) { b.logger = l }

// Build checks everything that was added and returns the gateway, or an error
// that names every fault on one line. It dials nothing and starts no goroutine.
func (b *Builder) Build() (*Gateway, error) {
	p, err := b.plan(nil)
	if err != nil {
		return nil, fmt.Errorf("gateway: build: %w", err)
	}
	g := new(Gateway)
	g.plan.Store(p)
	return g, nil
}

// plan is what a Builder describes, checked. It is replaced as a whole.
type plan struct {
	edge  edge
	table *table
	pools []*pool
	log   *AccessLog // nil where it is off
}

// plan makes the plan, in which a pool of old stays where its Upstream does.
func (b *Builder) plan(old *plan) (*plan, error) {
	e, faults := b.edge()
	g := &plan{edge: e, log: b.log.withDefaults()}
	logger := b.logger
	if logger == nil {
		logger = slog.Default()
	}
	pools := make(map[string]*pool)
	for i, u := range b.upstreams {
		if u == nil {
			faults = append(faults, fmt.Sprintf("Upstream %d is nil", i+1))
			continue
		}
		p, wrong := old.pool(u), []string(nil)
		if p == nil {
			p, wrong = newPool(u, logger)
		}
		for _, f := range wrong {
			faults = append(faults, fmt.Sprintf("Upstream %q: %s", u.Name, f))
		}
		if _, twice := pools[u.Name]; twice {
			faults = append(faults, fmt.Sprintf("Upstream %q: the name is taken", u.Name))
		}
		if p == nil {
			p = new(pool) // its routes have no fault of their own
		}
		pools[u.Name] = p
		g.pools = append(g.pools, p)
	}
	routes := make([]*route, 0, len(b.routes))
	for _, r := range b.routes {
		rt := &route{Route: r}
		for _, f := range rt.compile(&e, pools) {
			faults = append(faults, fmt.Sprintf("Route %q: %s", r.Pattern, f))
		}
		for _, other := range routes {
			if rt.conflicts(other) {
				faults = append(faults, fmt.Sprintf("Route %q: conflicts with %q: some requests match both, and neither is more specific", r.Pattern, other.Pattern))
			}
		}
		rt.log = g.log.of(rt)
		if rt.pattern.segments != nil {
			routes = append(routes, rt)
		}
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "; "))
	}
	g.table = newTable(routes)
	return g, nil
}

// pool returns the pool that was made of this very Upstream, nil if none was.
func (p *plan) pool(u *Upstream) *pool {
	if p != nil {
		for _, has := range p.pools {
			if has.config == u {
				return has
			}
		}
	}
	return nil
}

// Gateway forwards each request to the upstream of its route. It is safe for
// concurrent use; [Builder.Build] makes it.
type Gateway struct {
	plan    atomic.Pointer[plan] // nil in the zero Gateway
	tunnels tunnels
	reloads sync.Mutex // held by Reload
	running atomic.Bool
	wake    atomic.Pointer[chan struct{}] // Run waits for it; nil while Run does not run
}

// present returns the plan of the moment.
func (g *Gateway) present() *plan {
	if p := g.plan.Load(); p != nil {
		return p
	}
	return new(plan)
}

// What the Server of a gateway grants its clients.
const (
	serverReadHeaderTimeout = 5 * time.Second
	serverIdleTimeout       = 2 * time.Minute
	lingerTimeout           = 2 * time.Second // for the rest of a body that nobody reads
)

// Server returns an HTTP server for the gateway, with the limits that a handler
// cannot set: 5 seconds to send a header, of 64 KiB at most, and 2 minutes
// between requests on one connection. It speaks HTTP/1.1, and HTTP/2 both over
// TLS and, to clients that know beforehand, without. To serve TLS, from version
// 1.2 on, add Certificates to TLSConfig, and ClientAuth with ClientCAs to demand
// certificates of the clients. OPTIONS * is answered by the gateway, by 204. An addr
// without a host listens on every interface.
//
// Shutdown of the server waits for requests but for no tunnels: call
// [Gateway.Close] after it.
func (g *Gateway) Server(addr string) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Addr: addr, Handler: g, Protocols: protocols,
		TLSConfig:                    &tls.Config{MinVersion: tls.VersionTLS12},
		DisableGeneralOptionsHandler: true, // or OPTIONS * would pass by the log
		ReadHeaderTimeout:            serverReadHeaderTimeout,
		IdleTimeout:                  serverIdleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
	}
}

// CloseIdleConnections closes the connections to upstreams that no request uses.
// Those in use stay.
func (g *Gateway) CloseIdleConnections() {
	for _, p := range g.present().pools {
		p.transport.CloseIdleConnections()
	}
}

// ServeHTTP answers the request by its route. Of the request itself it sets
// Pattern and the path values, so that middleware around the gateway can read
// them afterwards, and changes nothing else.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := g.present() // a reload meanwhile is for the requests to come
	x := newExchange(w, r, &p.edge)
	x.tunnels = &g.tunnels
	whole := false
	defer func() { // also where the answer breaks off by a panic
		x.end()
		x.linger(r)
		x.close()
		p.log.write(r, x, whole)
	}()
	w.Header()[requestIDHeader] = x.id[:]
	p.route(x, r)
	whole = true
}

func (p *plan) route(x *exchange, r *http.Request) {
	if r.Method == http.MethodOptions && r.RequestURI == "*" {
		x.WriteHeader(http.StatusNoContent) // asks for nothing but whether there is a server
		return
	}
	at, no := p.edge.inspect(r)
	if no != nil {
		no.write(x, r)
		return
	}
	header := p.edge.inbound(r)
	rt, no := p.table.find(r.Method, canonicalHost(r.Host), at.key, header, r.URL.RawQuery)
	if no != nil {
		no.write(x, r)
		return
	}
	r.Pattern = rt.Pattern
	rt.pattern.setValues(r, at.key)
	x.log, x.split = rt.log, rt.split != nil

	r = r.WithContext(x)
	r.Header = header
	r.Header[requestIDHeader] = x.id[:]
	x.announce(r.Header)
	x.url = url.URL{Path: at.decoded, RawPath: at.escaped, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	r.URL = &x.url
	if x.body != nil {
		if r.ContentLength > rt.MaxBody {
			blameClient(&http.MaxBytesError{Limit: rt.MaxBody}).write(x, r)
			return
		}
		// Without the writer: at the limit it would set headers on it, from the
		// goroutine that sends the body upstream, while ours sets them too.
		x.body.ReadCloser = http.MaxBytesReader(nil, r.Body, rt.MaxBody)
		x.body.patience = rt.IdleTimeout
		r.Body = x.body
	}
	rt.handler.ServeHTTP(x, r)
}

// linger bounds how long an HTTP/1 server waits for the rest of a body that
// nobody has read, which it does before it answers.
func (x *exchange) linger(r *http.Request) {
	if r.ProtoMajor == 1 && x.tunnel.Load() == nil && x.body.unfinished() {
		_ = http.NewResponseController(x.ResponseWriter).SetReadDeadline(time.Now().Add(lingerTimeout))
	}
}
