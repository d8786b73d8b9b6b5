package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Route sends the requests that match a pattern to an upstream.
type Route struct {
	// Pattern says which requests the route is for, in the syntax of
	// [http.ServeMux]: [METHOD ][HOST]/PATH, with {name} for one segment of the
	// path, {name...} for the rest of it, and {$} for the end. The more specific
	// of two patterns wins; two that overlap without one being more specific are
	// a fault. Hosts are compared without case, port and final dot. Required.
	Pattern string

	// Upstream is the Name of the upstream that answers. Required.
	Upstream string

	// Rewrite is the path that the upstream sees, in which {name} and {name...}
	// stand for what the pattern matched: "/{rest...}" strips the prefix of
	// "/api/{rest...}". Default: the client's path.
	Rewrite string

	// Timeout bounds the time until the upstream's headers have come: all
	// attempts, the waits between them, and the sending of the request body as
	// far as the upstream waits for it. Streams and WebSockets may last longer.
	// Default 30 seconds. Negative is a fault.
	Timeout time.Duration

	// MaxBody bounds the request body, in bytes. A larger one is answered by 413.
	// Default 10 MiB. Negative is a fault.
	MaxBody int64

	// Fallback answers where the gateway would have answered by 502, 503 or 504
	// itself: the upstream's breakers are open, its targets cannot be reached, or
	// Timeout has passed. An answer of the upstream, whatever its status, is no
	// such case. Fallback gets the request with its path values and without its
	// body. Default: an answer of type application/problem+json.
	Fallback http.Handler

	// Use is middleware for this route, the first outermost. It sees the cleaned
	// request, with Pattern and path values set, before it is forwarded; headers
	// that it sets reach the upstream. Default: none.
	Use []func(http.Handler) http.Handler
}

const (
	defaultTimeout = 30 * time.Second
	defaultMaxBody = 10 << 20
)

// route is a Route that has been checked.
type route struct {
	Route
	pattern  pattern
	rewrite  []segment // nil where the path stays
	upstream *pool
	handler  http.Handler // Use around forward
}

// compile checks a Route and returns its faults.
func (rt *route) compile(upstreams map[string]*pool) (faults []string) {
	var err error
	if rt.pattern, err = parsePattern(rt.Pattern); err != nil {
		faults = append(faults, fmt.Sprintf("Pattern: %v", err))
	} else if rt.Rewrite != "" {
		if rt.rewrite, err = parseRewrite(rt.Rewrite, rt.pattern); err != nil {
			faults = append(faults, fmt.Sprintf("Rewrite: %v", err))
		}
	}
	if rt.upstream = upstreams[rt.Upstream]; rt.upstream == nil {
		faults = append(faults, fmt.Sprintf("there is no Upstream %q", rt.Upstream))
	}
	if rt.Timeout < 0 {
		faults = append(faults, fmt.Sprintf("Timeout %v is negative", rt.Timeout))
	}
	if rt.MaxBody < 0 {
		faults = append(faults, fmt.Sprintf("MaxBody %d is negative", rt.MaxBody))
	}
	if rt.Timeout == 0 {
		rt.Timeout = defaultTimeout
	}
	if rt.MaxBody == 0 {
		rt.MaxBody = defaultMaxBody
	}
	rt.handler = http.HandlerFunc(rt.forward)
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

// target returns the path that the upstream sees, decoded and escaped. It is
// checked as the client's path was: middleware may have changed it.
func (rt *route) target(r *http.Request) (path, escaped string, ok bool) {
	u := r.URL
	if rt.rewrite != nil {
		u = new(url.URL)
		for _, s := range rt.rewrite {
			text := s.text
			if s.kind == wildcard || s.kind == rest && s.text != "" {
				text = r.PathValue(s.text)
			} else if s.kind == end {
				text = ""
			}
			u.Path += "/" + text
		}
	}
	escaped, ok = canonicalPath(u)
	return u.Path, escaped, ok
}

// forward is the innermost handler of the route.
func (rt *route) forward(w http.ResponseWriter, r *http.Request) {
	path, escaped, ok := rt.target(r)
	if !ok {
		failure{status: http.StatusBadRequest, detail: "the path became ambiguous when it was rewritten; send a plainer one"}.write(w)
		return
	}
	x := exchangeOf(w, r)
	if r.Header["Upgrade"] != nil && x.tunnels.refuse() {
		failure{status: http.StatusServiceUnavailable, detail: "the gateway is about to end; try again at another one", retryAfter: time.Second}.write(w)
		return
	}
	t := begin(w, r, x, rt)
	defer t.finish()
	t.path, t.rawPath = path, escaped
	err := rt.upstream.proxy.forward(r, t)
	if err == nil {
		return
	}
	x.err = err
	if x.hijacked {
		return // there is no answer to give any more
	}
	f := diagnose(r, t, err)
	if rt.Fallback == nil || f.status < http.StatusBadGateway {
		f.write(w)
		return
	}
	t.finish() // what comes now is not bounded by Timeout
	x.fallback = true
	r = r.WithContext(r.Context())
	r.Body, r.ContentLength = http.NoBody, 0
	rt.Fallback.ServeHTTP(w, r)
}
