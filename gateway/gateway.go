package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Builder collects what a gateway is made of. The zero Builder is ready to use.
// It is not safe for concurrent use.
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
}

// Upstream adds a service that routes can name.
func (b *Builder) Upstream(u *Upstream) { b.upstreams = append(b.upstreams, u) }

// Route adds a route.
func (b *Builder) Route(r Route) { b.routes = append(b.routes, r) }

// AccessLog turns the access log on. The last call counts.
func (b *Builder) AccessLog(l AccessLog) { b.log = &l }

// Build checks everything that was added and returns the gateway, or an error
// that names every fault on one line. It dials nothing and starts no goroutine.
func (b *Builder) Build() (*Gateway, error) {
	e, faults := b.edge()
	g := &Gateway{edge: e, log: b.log.withDefaults()}
	pools := make(map[string]*pool)
	for i, u := range b.upstreams {
		if u == nil {
			faults = append(faults, fmt.Sprintf("Upstream %d is nil", i+1))
			continue
		}
		p, wrong := newPool(u)
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
		if rt.pattern.segments != nil {
			routes = append(routes, rt)
		}
	}
	if len(faults) > 0 {
		return nil, errors.New("gateway: build: " + strings.Join(faults, "; "))
	}
	g.table = newTable(routes)
	return g, nil
}

// Gateway forwards each request to the upstream of its route. It is safe for
// concurrent use; [Builder.Build] makes it.
type Gateway struct {
	edge  edge
	table *table
	pools []*pool
	log   *AccessLog // nil where it is off
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
// TLS and, to clients that know beforehand, without. Set TLSConfig to serve TLS.
// An addr without a host listens on every interface.
func (g *Gateway) Server(addr string) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Addr: addr, Handler: g, Protocols: protocols,
		DisableGeneralOptionsHandler: true, // or OPTIONS * would pass by the log
		ReadHeaderTimeout:            serverReadHeaderTimeout,
		IdleTimeout:                  serverIdleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
	}
}

// CloseIdleConnections closes the connections to upstreams that no request uses.
// Those in use stay.
func (g *Gateway) CloseIdleConnections() {
	for _, p := range g.pools {
		p.transport.CloseIdleConnections()
	}
}

// ServeHTTP answers the request by its route. Of the request itself it sets
// Pattern and the path values, so that middleware around the gateway can read
// them afterwards, and changes nothing else.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := newExchange(w, r, &g.edge)
	whole := false
	defer func() { // also where the answer breaks off by a panic
		x.end()
		x.linger(r)
		g.log.write(r, x, whole)
	}()
	w.Header()[requestIDHeader] = x.id
	g.route(x, r)
	whole = true
}

func (g *Gateway) route(x *exchange, r *http.Request) {
	if r.Method == http.MethodOptions && r.RequestURI == "*" {
		x.WriteHeader(http.StatusNoContent) // asks for nothing but whether there is a server
		return
	}
	at, no := g.edge.inspect(r)
	if no != nil {
		no.write(x, r)
		return
	}
	header := g.edge.inbound(r)
	rt, no := g.table.find(r.Method, canonicalHost(r.Host), at.key, header, r.URL.RawQuery)
	if no != nil {
		no.write(x, r)
		return
	}
	r.Pattern = rt.Pattern
	rt.pattern.setValues(r, at.key)

	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	r.Header = header
	r.Header[requestIDHeader] = x.id
	r.URL = &url.URL{Path: at.decoded, RawPath: at.escaped, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
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
