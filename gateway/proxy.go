package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
)

// proxy is the core that forwards requests to one upstream: httputil's
// ReverseProxy, with guards for what it leaves open. Everything else reaches it
// through forward alone, so that it can be exchanged.
type proxy struct {
	core *httputil.ReverseProxy
}

func newProxy(upstream http.RoundTripper) *proxy {
	return &proxy{&httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      &outermost{upstream},
		ModifyResponse: admit,
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			tripOf(r.Context()).err = err
		},
		BufferPool: new(buffers),
		ErrorLog:   slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // what matters comes as an error
	}}
}

// forward sends r on its trip and copies the answer to the client. It returns an
// error only where the client has no answer yet. Where the answer breaks off, it
// panics with [http.ErrAbortHandler], by which the server tells the client.
func (p *proxy) forward(r *http.Request, t *trip) error {
	// The core gets a request without header and path values, so that it need not
	// copy them and clean the copy: rewrite puts the cleaned header in its place.
	// Nor does it get trailers: what comes after the body has passed no check.
	in := new(http.Request).WithContext(t)
	in.Method, in.URL, in.Proto, in.ProtoMajor, in.ProtoMinor = r.Method, r.URL, r.Proto, r.ProtoMajor, r.ProtoMinor
	in.Pattern, in.Body, in.ContentLength, in.TransferEncoding, in.RemoteAddr = r.Pattern, r.Body, r.ContentLength, r.TransferEncoding, r.RemoteAddr
	t.header = r.Header
	if len(t.route.Use) > 0 { // which may look at its request afterwards, or forward it again
		t.header = outbound(r.Header)
	}
	if t.upstream.HTTP2 { // has no upgrades, and its transport would fail in the target's name
		delete(t.header, "Connection")
		delete(t.header, "Upgrade")
	}
	t.tries.begin(t.upstream)
	p.core.ServeHTTP(&t.answer, in)
	if t.err != nil && t.tunnel != nil {
		_ = t.tunnel.Close() // the core does not where the client's writer cannot be hijacked
	}
	return t.err
}

// rewrite makes the request to the upstream. Its header has been cleaned before;
// what the gateway says of itself is set now, when nobody can take it away.
func rewrite(pr *httputil.ProxyRequest) {
	t := tripOf(pr.In.Context())
	out := pr.Out
	*out.URL = url.URL{
		// A stand-in for the target that each attempt puts here: its host is what
		// a retry budget counts by.
		Scheme: "http", Host: t.upstream.Name,
		Path: t.at.decoded, RawPath: t.at.escaped, RawQuery: pr.In.URL.RawQuery, ForceQuery: pr.In.URL.ForceQuery,
	}
	out.Header = t.header
	out.Header[requestIDHeader] = t.exchange.id[:]
	t.exchange.announce(out.Header)
	if out.Body != nil {
		t.body = &replay{src: out.Body, max: replayable(out)}
		out.GetBody = t.body.open
		out.Body, _ = t.body.open() // the first time it cannot fail
	}
}

// outermost makes a response lead back to its trip, whatever a Wrap made of it.
type outermost struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (o *outermost) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	t := tripOf(req.Context())
	if at := t.tries.of(resp); at != nil {
		t.exchange.tell(func(s *story) { s.target = at.url.Host }) // a hedged attempt may have left after this one
		if s := t.upstream.Sticky; s != nil && resp.StatusCode < http.StatusInternalServerError {
			s.renew(resp, req, at)
		}
	}
	return resp, nil
}

// upstreamBody is the body of an answer on its way to the client.
type upstreamBody struct {
	io.ReadCloser
	trip *trip
	resp *http.Response
}

// Read implements [io.Reader]. At the end, the trailers have come.
func (b *upstreamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		removeFraming(b.resp.Trailer)
	case err != nil:
		why := err
		if cause := context.Cause(b.trip); cause != nil {
			why = cause
		}
		b.trip.exchange.tell(func(s *story) { s.err = why })
	}
	return n, err
}

// buffers is the [httputil.BufferPool] of a proxy.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

// Put implements [httputil.BufferPool].
func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferSize]byte)(p)) }
