package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// proxy is the core that forwards requests to one upstream: it sends a request
// down the chain, and copies the answer to the client.
type proxy struct {
	next    http.RoundTripper
	buffers sync.Pool // of *[bufferSize]byte
}

const bufferSize = 32 << 10

func newProxy(next http.RoundTripper) *proxy {
	return &proxy{next: next, buffers: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// forward sends r on its trip and copies the answer to the client. It returns an
// error only where the client has no answer yet. Where the answer breaks off, it
// panics with [http.ErrAbortHandler], by which the server tells the client.
func (p *proxy) forward(r *http.Request, t *trip) error {
	out := t.outgoing(r)
	t.tries.begin(t.upstream)
	resp, err := p.send(t, out)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := t.admit(out, resp); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return p.bridge(t, out, resp)
	}
	t.head(out, resp)
	announced := len(resp.Trailer)
	if announced > 0 {
		t.client.Header().Add("Trailer", strings.Join(slices.Sorted(maps.Keys(resp.Trailer)), ", "))
	}
	t.client.WriteHeader(resp.StatusCode)
	if err := p.copy(t, resp); err != nil {
		if r.Context().Value(http.ServerContextKey) == nil {
			return nil // in a test: nobody would recover
		}
		panic(http.ErrAbortHandler) //nolint:forbidigo // the one way to tell a server to break an answer off
	}
	t.trail(resp.Trailer, announced)
	return nil
}

// send returns the final response. No hint comes after it, not even where a Wrap
// panics.
func (p *proxy) send(t *trip, out *http.Request) (*http.Response, error) {
	defer t.hinting.Lock() // for good
	return p.next.RoundTrip(out)
}

// hint passes an informational response on. Goroutines of the transport call it,
// of several attempts at once, and even after the final response: a hint that
// would have to wait is dropped.
func (t *trip) hint(status int, early textproto.MIMEHeader) error {
	if status == http.StatusContinue || !t.hinting.TryLock() { // the server says 100 itself, as soon as the body is read
		return nil
	}
	defer t.hinting.Unlock()
	t.telling.Store(true)
	defer t.telling.Store(false)
	if t.Err() != nil {
		return nil // abort did not see that this began
	}
	h := t.client.Header()
	kept := maps.Clone(h)
	clear(h)
	maps.Copy(h, early)
	removeHopByHop(h)
	t.client.WriteHeader(status)
	clear(h)
	maps.Copy(h, kept)
	return nil
}

// outgoing makes the request to the upstream, of those fields alone that concern
// it. Trailers do not: what comes after the body has passed no check.
func (t *trip) outgoing(r *http.Request) *http.Request {
	ctx := context.Context(t)
	if r.ProtoAtLeast(1, 1) { // others know no informational responses (RFC 9110 §15.2)
		t.trace.Got1xxResponse = t.hint
		ctx = httptrace.WithClientTrace(t, &t.trace)
	}
	t.url = url.URL{
		// A stand-in for the target that each attempt puts here: its host is what
		// a retry budget counts by.
		Scheme: "http", Host: t.upstream.Name,
		Path: t.at.decoded, RawPath: t.at.escaped, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery,
	}
	out := new(http.Request).WithContext(ctx)
	out.Method, out.URL, out.Proto, out.ProtoMajor, out.ProtoMinor = r.Method, &t.url, r.Proto, r.ProtoMajor, r.ProtoMinor
	out.Header, out.Pattern, out.RemoteAddr = r.Header, r.Pattern, r.RemoteAddr
	if len(t.route.Use) > 0 { // which may look at its request afterwards, or forward it again
		out.Header = outbound(r.Header)
		out.Header[requestIDHeader] = t.exchange.id[:] // it may have changed these
		t.exchange.announce(out.Header)
	}
	if t.upstream.HTTP2 { // has no upgrades, and its transport would fail in the target's name
		delete(out.Header, "Connection")
		delete(out.Header, "Upgrade")
	}
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = []string{""} // or the transport would name itself
	}
	if r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody { // else the transport could not try again
		t.body = &replay{src: r.Body, max: replayable(r)}
		out.ContentLength, out.TransferEncoding = r.ContentLength, r.TransferEncoding
		out.GetBody = t.body.open
		out.Body, _ = t.body.open() // the first time it cannot fail
	}
	return out
}

var errSwitch = errors.New("gateway: the upstream switched to a protocol that was not asked for")

// admit checks the final response and removes what is not for the client.
func (t *trip) admit(out *http.Request, resp *http.Response) error {
	upgrade := resp.Header.Get("Upgrade")
	removeHopByHop(resp.Header)
	removeFraming(resp.Trailer)
	if at := t.tries.of(resp); at != nil {
		t.exchange.tell(func(s *story) { s.target = at.url.Host }) // a hedged attempt may have left after this one
	}
	if !t.arrived() {
		return timeoutError{} // the headers have come, but too late
	}
	switch status := resp.StatusCode; {
	case status == http.StatusSwitchingProtocols:
		if !strings.EqualFold(upgrade, "websocket") || out.Header["Upgrade"] == nil {
			return errSwitch
		}
	case status < 200 || status > 599:
		return fmt.Errorf("gateway: the upstream answered with status %d, which HTTP does not have", status)
	}
	return nil
}

// head adds the upstream's header to what middleware has set.
func (t *trip) head(out *http.Request, resp *http.Response) {
	h := t.client.Header()
	for name, values := range resp.Header {
		if has := h[name]; len(has) > 0 {
			values = slices.Concat(has, values)
		}
		h[name] = values
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // or the server would guess one: of untyped data, it may make a page that runs
	}
	if out.Header["Te"] != nil && out.Method != http.MethodHead {
		delete(h, "Content-Length") // HTTP/1.1 has no trailers where there is a length
	}
	if s := t.upstream.Sticky; s != nil && resp.StatusCode < http.StatusInternalServerError {
		if at := t.tries.of(resp); at != nil {
			s.renew(h, out, at)
		}
	}
	t.exchange.body.stop(untimed)
	if t.http1 && t.exchange.body.unfinished() {
		// Or the server would wait for the rest of the body before it answers.
		h["Connection"] = []string{"close"}
	}
}

// trail passes the trailers on, of which so many were announced.
func (t *trip) trail(trailer http.Header, announced int) {
	removeFraming(trailer) // by now, those have come that nobody announced
	if len(trailer) == 0 {
		return
	}
	_ = http.NewResponseController(t.client).Flush() // a short body would get a length, and no chunks
	prefix := ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix
	}
	h := t.client.Header()
	for name, values := range trailer {
		h[prefix+name] = values
	}
}

// streams reports whether a client waits for the single pieces of an answer.
func streams(resp *http.Response) bool {
	kind := resp.Header.Get("Content-Type")
	return resp.ContentLength < 0 || strings.HasPrefix(kind, "text/event-stream") || strings.HasPrefix(kind, "application/grpc")
}

// copy copies the body of an answer.
func (p *proxy) copy(t *trip, resp *http.Response) error {
	client, at := http.NewResponseController(t.client), streams(resp)
	if at {
		_ = client.Flush() // the first piece may take long to come
	}
	buf := p.buffers.Get().(*[bufferSize]byte)
	defer p.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if _, err := t.client.Write(buf[:n]); err != nil {
				return err
			}
			if at {
				_ = client.Flush() // should it fail, so does the next Write
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			why := cmp.Or(context.Cause(t), err)
			t.exchange.tell(func(s *story) { s.err = why })
			return err
		}
	}
}
