package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Redirect is where a route sends its clients. The zero Redirect is none.
type Redirect struct {
	// To is a path on the same host, or an http or https URL up to and including
	// its path, in which {name} and {name...} stand for what the pattern matched:
	// "https://www.example/{rest...}". The client's query is put behind it.
	To string

	// Status is 301, 302, 303, 307 or 308. Default 307: the client keeps method and
	// body, and does not keep the answer.
	Status int
}

// redirect is a Redirect that has been checked.
type redirect struct {
	origin string // scheme and host, empty for the client's own
	path   []segment
	status int
}

func newRedirect(to Redirect, p pattern) (rd redirect, err error) {
	rd.status = to.Status
	if rd.status == 0 {
		rd.status = http.StatusTemporaryRedirect
	}
	if !slices.Contains([]int{301, 302, 303, 307, 308}, rd.status) {
		return rd, fmt.Errorf("status %d is none of 301, 302, 303, 307 and 308", rd.status)
	}
	path := to.To
	if scheme, after, ok := strings.Cut(path, "://"); ok {
		host, _, _ := strings.Cut(after, "/")
		if scheme != "http" && scheme != "https" || !validHost(host) {
			return rd, errors.New("it leads neither to a path nor to an http or https URL with host and path")
		}
		rd.origin = scheme + "://" + host
		path = after[len(host):]
	}
	if rd.path, err = parseRewrite(path, p); err != nil {
		return rd, fmt.Errorf("path %q: %w", path, err)
	}
	return rd, nil
}

// serve answers by the redirect, if the path that comes out is one that a request
// may have.
func (rd redirect) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	at, ok := rt.expand(rd.path, r)
	if !ok {
		failure{status: http.StatusBadRequest, detail: "the path became ambiguous when it was rewritten; send a plainer one"}.write(w, r)
		return
	}
	u := url.URL{Path: at.decoded, RawPath: at.escaped, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	w.Header().Set("Location", rd.origin+u.RequestURI())
	w.WriteHeader(rd.status)
}
