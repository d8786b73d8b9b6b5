package idempotency

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/parley-go/parley/internal/uuid"
)

// Minter gives outgoing requests their Idempotency-Key. It is a plain value
// without state: the zero Minter mints a random key for each POST and PATCH.
type Minter struct {
	// Methods are those whose requests get a key. Default POST and PATCH.
	Methods []string

	// Quoted sends keys as quoted Strings, as the draft asks for. Default: bare,
	// as most services expect.
	Quoted bool
}

// Transport returns a RoundTripper that sends requests through next, each with a
// key; nil next is [http.DefaultTransport]. It stands outside of retries:
//
//	http.Client{Transport: key.Transport(policy.Transport(breaker.Transport(nil)))}
//
// so that one logical call has one key however often it is sent. A redirect that
// repeats the request (307, 308) to the same host carries the same key; one to
// another host, or from https to http, carries none, because the key belongs to
// the first one.
//
// The key is that of [WithKey], else a UUID of version 4, which nobody can
// guess. A request that has the header already keeps it. Other methods pass
// untouched, and no request is modified. It is safe for concurrent use if next
// is.
func (m Minter) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	if len(m.Methods) == 0 {
		m.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	return &keyTransport{minter: m, next: next}
}

type pinKey struct{}

// WithKey returns a context whose requests a [Minter] gives this key, instead of
// one that it mints. It serves calls that outlive the process: keep the key with
// the intent, and repeat both after a restart. Use the context for one logical
// call only.
//
// The key is 1 to 255 ASCII characters without control characters, for a Minter
// that is not Quoted also without space, quote and comma. Another one is
// [ErrKey] when a request is sent.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, pinKey{}, key)
}

type keyTransport struct {
	minter Minter
	next   http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *keyTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	key, err := t.key(req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper always does
		}
		return nil, err
	}
	out := req
	if !slices.Equal(key, req.Header[header]) {
		out = req.WithContext(req.Context()) // a shallow copy
		if out.Header = maps.Clone(req.Header); out.Header == nil {
			out.Header = make(http.Header)
		}
		if out.Header[header] = key; key == nil {
			delete(out.Header, header)
		}
	}
	resp, err := t.next.RoundTrip(out)
	if resp != nil && resp.Request == nil {
		resp.Request = out // where a redirect finds the key
	}
	return resp, err
}

// key returns the lines of the header with which req is to be sent.
func (t *keyTransport) key(req *http.Request) ([]string, error) {
	own := req.Header[header]
	switch first := origin(req); {
	case first != req && sameHost(first, req) && first.Method == req.Method:
		return first.Header[header], nil
	case first != req:
		return nil, nil
	case len(own) > 0 || !slices.Contains(t.minter.Methods, req.Method):
		return own, nil
	}
	line, err := t.mint(req.Context())
	return []string{line}, err
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] reach the
// transport below.
func (t *keyTransport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// mint returns the line for a new logical call.
func (t *keyTransport) mint(ctx context.Context) (string, error) {
	key, pinned := ctx.Value(pinKey{}).(string)
	switch {
	case !pinned:
		key = uuid.V4()
	case !validKey(key), !t.minter.Quoted && !isBare(key):
		return "", fmt.Errorf("%w: that of WithKey must be 1 to %d ASCII characters; spaces, quotes and commas need Quoted", ErrKey, maxKey)
	}
	if t.minter.Quoted {
		return quoteKey(key), nil
	}
	return key, nil
}

// origin returns the request that began the chain of redirects which led to req,
// as it was sent: http.Client copies only what the caller had set.
func origin(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req
}

// sameHost reports whether what first may know, next may know too.
func sameHost(first, next *http.Request) bool {
	return strings.EqualFold(first.URL.Host, next.URL.Host) &&
		(first.URL.Scheme == next.URL.Scheme || next.URL.Scheme == "https")
}
