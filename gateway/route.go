package gateway

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Route says who answers the requests that match it: exactly one of Upstream,
// Split, Redirect and Handler.
type Route struct {
	// Pattern says which requests the route is for, in the syntax of
	// [http.ServeMux]: [METHOD ][HOST]/PATH, with {name} for one segment of the
	// path, {name...} for the rest of it, and {$} for the end. A host *.NAME
	// stands for all that end in .NAME. Hosts are compared without case, port and
	// final dot. Required.
	//
	// The more specific of two routes wins. The longer host is more specific, and
	// one without * than any with it; for one host, the pattern that matches part
	// of what the other does; for equal patterns, the conditions of Header and
	// Query that imply the other's. Two that some request matches without one
	// being more specific are a fault.
	Pattern string

	// Header names fields that a request must have, with the value that each must
	// have, by case, or "*" for any. Those that the gateway drops are a fault.
	// What any route asks for in this way may stand in a request once only: all
	// requests that repeat it are answered by 400, since the upstream may go by
	// another one than the gateway. Default: none.
	Header map[string]string

	// Query does for the parameters of the query what Header does for fields.
	// Default: none.
	Query map[string]string

	// Upstream is the Name of the upstream that answers.
	Upstream string

	// Split divides the requests among upstreams by weight, in turn: of as many
	// requests as the weights add up to, each upstream gets its Weight. All
	// attempts for one request go to the same upstream.
	Split []Share

	// SplitBy returns what keeps a client at one upstream of Split, such as the
	// value of a cookie: equal keys go to the same one, in every process. Without
	// a key requests are divided in turn. A share that grows at its neighbour's
	// cost keeps the keys that it has. SplitBy must be safe for concurrent use.
	// Default: no keys.
	SplitBy func(*http.Request) string

	// Redirect answers by telling the client where to go instead.
	Redirect Redirect

	// Handler answers in the gateway itself. It sees the cleaned request, as Use
	// does.
	Handler http.Handler

	// Rewrite is the path that the upstream sees, in which {name} and {name...}
	// stand for what the pattern matched: "/{rest...}" strips the prefix of
	// "/api/{rest...}". What comes out is checked as the client's path was.
	// Default: the client's path.
	Rewrite string

	// Timeout bounds the time until the upstream's headers have come: all
	// attempts, the waits between them, and the sending of the request body as
	// far as the upstream waits for it. Streams and WebSockets may last longer.
	// Clients may ask for less by X-Request-Timeout, in milliseconds, or by
	// Grpc-Timeout; no breaker counts what ends by that. Default 30 seconds.
	// Negative is a fault.
	Timeout time.Duration

	// IdleTimeout bounds silence: of a client that owes the rest of its body until
	// the answer begins, and then of both sides of a stream or WebSocket together.
	// Default 5 minutes. Negative is a fault.
	IdleTimeout time.Duration

	// MaxTunnel bounds how long a WebSocket may last. Default: no bound. Negative
	// is a fault.
	MaxTunnel time.Duration

	// MaxBody bounds the request body, in bytes. A larger one is answered by 413.
	// Default 10 MiB. Negative is a fault.
	MaxBody int64

	// Fallback answers where the gateway would have answered by 502, 503 or 504
	// itself: the upstream's breakers are open, none of its targets is known or
	// healthy, they cannot be reached, or Timeout has passed. An answer of the
	// upstream, whatever its status, is no such case. Fallback gets the request
	// with its path values and without its body. Default: an answer of type
	// application/problem+json.
	Fallback http.Handler

	// Use is middleware for this route, the first outermost. It sees the cleaned
	// request, with Pattern and path values set, before it is forwarded; headers
	// that it sets reach the upstream. Default: none.
	Use []func(http.Handler) http.Handler
}

const (
	defaultTimeout   = 30 * time.Second
	defaultRouteIdle = 5 * time.Minute
	defaultMaxBody   = 10 << 20
)

// route is a Route that has been checked.
type route struct {
	Route
	pattern    pattern
	conditions []condition
	paths      pathRules
	rewrite    []segment    // nil where the path stays
	upstream   *pool        // nil for the other kinds of route
	split      *split       // likewise
	handler    http.Handler // Use around what answers
	log        slog.Handler // of its lines; nil where there is none
}

// compile checks a Route and returns its faults.
func (rt *route) compile(e *edge, upstreams map[string]*pool) (faults []string) {
	var err error
	rt.paths = e.paths
	if rt.pattern, err = parsePattern(rt.Pattern); err != nil {
		faults = append(faults, fmt.Sprintf("Pattern: %v", err))
	} else if rt.Rewrite != "" {
		if rt.rewrite, err = parseRewrite(rt.Rewrite, rt.pattern); err != nil {
			faults = append(faults, fmt.Sprintf("Rewrite: %v", err))
		}
	}
	var wrong []string
	rt.conditions, wrong = e.conditions(&rt.Route)
	faults = append(faults, wrong...)
	innermost, wrong := rt.kind(upstreams)
	faults = append(faults, wrong...)
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{{"Timeout", &rt.Timeout, defaultTimeout}, {"IdleTimeout", &rt.IdleTimeout, defaultRouteIdle}, {"MaxTunnel", &rt.MaxTunnel, 0}} {
		if *d.value < 0 {
			faults = append(faults, fmt.Sprintf("%s %v is negative", d.name, *d.value))
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if rt.MaxBody < 0 {
		faults = append(faults, fmt.Sprintf("MaxBody %d is negative", rt.MaxBody))
	}
	if rt.MaxBody == 0 {
		rt.MaxBody = defaultMaxBody
	}
	rt.handler = innermost
	for i := len(rt.Use) - 1; i >= 0; i-- {
		if rt.Use[i] == nil {
			faults = append(faults, fmt.Sprintf("Use[%d] is nil", i))
			continue
		}
		h := rt.Use[i](rt.handler)
		if h == nil {
			faults = append(faults, fmt.Sprintf("Use[%d] returned nil", i))
			continue
		}
		rt.handler = h
	}
	return faults
}

// kind returns what answers the requests of the route, and is never nil.
func (rt *route) kind(upstreams map[string]*pool) (h http.Handler, faults []string) {
	h = http.HandlerFunc(rt.forward)
	kinds := 0
	if rt.Upstream != "" {
		kinds++
		if rt.upstream = upstreams[rt.Upstream]; rt.upstream == nil {
			faults = append(faults, fmt.Sprintf("there is no Upstream %q", rt.Upstream))
		}
	}
	if len(rt.Split) > 0 {
		kinds++
		var wrong []string
		rt.split, wrong = newSplit(rt.Split, rt.SplitBy, upstreams)
		faults = append(faults, wrong...)
	} else if rt.SplitBy != nil {
		faults = append(faults, "SplitBy has no Split")
	}
	forwards := kinds > 0
	if rt.Redirect != (Redirect{}) {
		kinds++
		rd, err := newRedirect(rt.Redirect, rt.pattern)
		if err != nil && rt.pattern.segments != nil { // or the pattern's fault is the one
			faults = append(faults, fmt.Sprintf("Redirect: %v", err))
		}
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { rd.serve(rt, w, r) })
	}
	if rt.Handler != nil {
		kinds++
		h = rt.Handler
	}
	if kinds != 1 {
		faults = append(faults, fmt.Sprintf("it has %d of Upstream, Split, Redirect and Handler, not one", kinds))
	}
	if !forwards && (rt.Rewrite != "" || rt.Timeout != 0 || rt.MaxTunnel != 0 || rt.Fallback != nil) {
		faults = append(faults, "Rewrite, Timeout, MaxTunnel and Fallback are for routes with an upstream")
	}
	return h, faults
}

// parseRewrite reads a Rewrite, whose names must be those of the pattern.
func parseRewrite(s string, p pattern) ([]segment, error) {
	r, err := parsePattern(s)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(s, "/") {
		return nil, fmt.Errorf("%q does not begin with a slash", s)
	}
	for _, seg := range r.segments {
		if seg.kind == literal || seg.kind == rest && seg.text == "" {
			continue
		}
		if !slices.Contains(p.segments, seg) {
			return nil, fmt.Errorf("the pattern has no such segment as %q means", s)
		}
	}
	return r.segments, nil
}

// target returns the path that the upstream sees. It is checked as the client's
// path was: middleware may have changed it. If it has changed Path alone, RawPath
// means nothing any more, as [url.URL.EscapedPath] has it, unless it says of a
// slash that it divides nothing.
func (rt *route) target(r *http.Request) (location, bool) {
	if rt.rewrite != nil {
		return rt.expand(rt.rewrite, r)
	}
	at, ok := rt.paths.canonical(r.URL)
	if !ok && !strings.Contains(strings.ToUpper(r.URL.RawPath), "%2F") {
		at, ok = rt.paths.canonical(&url.URL{Path: r.URL.Path})
	}
	return at, ok
}

// expand makes a path of segments, in which names stand for the path values of r.
func (rt *route) expand(segments []segment, r *http.Request) (location, bool) {
	var u url.URL
	for _, s := range segments {
		text := s.text
		switch {
		case s.kind == end:
			text = ""
		case s.kind != literal && s.text != "":
			text = r.PathValue(s.text)
		}
		u.Path += "/" + text
		if rt.paths.encodedSlash {
			u.RawPath += "/" + rt.escape(s, text, r)
		}
	}
	return rt.paths.canonical(&u)
}

// escape returns the text of a segment as it was sent, so that a slash that was
// encoded stays so.
func (rt *route) escape(s segment, text string, r *http.Request) string {
	if s.kind == wildcard || s.kind == rest && s.text != "" {
		for name, raw := range rt.pattern.values(r.URL.EscapedPath()) {
			if decoded, err := url.PathUnescape(raw); name == s.text && err == nil && decoded == text {
				return raw
			}
		}
	}
	if s.kind == rest {
		return (&url.URL{Path: text}).EscapedPath()
	}
	return url.PathEscape(text)
}

// forward is the innermost handler of a route with an upstream.
func (rt *route) forward(w http.ResponseWriter, r *http.Request) {
	at, ok := rt.target(r)
	if !ok {
		failure{status: http.StatusBadRequest, detail: "the path became ambiguous when it was rewritten; send a plainer one"}.write(w, r)
		return
	}
	to := rt.upstream
	if rt.split != nil {
		to = rt.split.of(r)
	}
	x := exchangeOf(w, r)
	if r.Header["Upgrade"] != nil && x.tunnels.refuse() {
		failure{status: http.StatusServiceUnavailable, detail: "the gateway is about to end; try again at another one", retryAfter: time.Second}.write(w, r)
		return
	}
	t := begin(w, r, x, rt)
	defer t.finish()
	x = t.exchange
	if rt.split != nil {
		x.tell(func(s *story) { s.upstream = to.Name })
	}
	t.upstream, t.at = to, at
	err := to.proxy.forward(r, t)
	if err == nil {
		return
	}
	x.tell(func(s *story) { s.err = err })
	if x.tunnel.Load() != nil {
		return // there is no answer to give any more
	}
	f := diagnose(r, t, err)
	if rt.Fallback == nil || f.status < http.StatusBadGateway {
		f.write(w, r)
		return
	}
	t.finish() // what comes now is not bounded by Timeout
	x.tell(func(s *story) { s.fallback = true })
	r = r.WithContext(r.Context())
	r.Header = maps.Clone(r.Header) // the transport may still read the other
	r.Body, r.ContentLength = http.NoBody, 0
	rt.Fallback.ServeHTTP(w, r)
}
