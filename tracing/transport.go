package tracing

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/parley-go/parley/internal/attempt"
)

// clientKey finds the sending that a context is part of.
type clientKey struct{}

// A sending is the context of a request that a [Tracer.Transport] is sending.
// Other requests are made with its context too, such as for a token.
type sending struct {
	context.Context //nolint:containedctx // it is a context
	method          string
	url             *url.URL
	parents         []string // the traceparent that was sent
}

// Value implements [context.Context].
func (s *sending) Value(key any) any {
	if key == (clientKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// isSending reports whether req is the request that a Transport further out sees
// to. It is known by the traceparent that was written into it, which copies of
// the request keep, or, in no trace, by what it asks for.
func isSending(ctx context.Context, req *http.Request) bool {
	s, ok := ctx.Value(clientKey{}).(*sending)
	if !ok || !slices.Equal(req.Header[headerParent], s.parents) {
		return false
	}
	return len(s.parents) > 0 || req.Method == s.method && (req.URL == s.url || req.URL.String() == s.url.String())
}

// Transport sends each request with the trace context of its context, within a
// span of kind client. Put it innermost, below retries: then each attempt has a
// span of its own, and a retry tells its number. Next does the sending; nil
// means [http.DefaultTransport].
//
// The headers traceparent, tracestate and baggage belong to the Transport. It
// replaces those that a proxy copied from its own caller, and it removes baggage
// from requests to hosts that [Config].BaggageHosts does not list, and the other two
// where [Config].TraceHosts lists hosts, but not this one. Only a
// request whose context knows of no trace keeps a traceparent that somebody set
// by hand, if no provider is installed.
//
// The span ends when the body of the response has been read or closed, or the
// context ends. An error and a status of 400 or more make it an error; that the
// caller gave up does not.
func (t *Tracer) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{tracer: t, next: next}
}

// A transport is what [Tracer.Transport] returns.
type transport struct {
	tracer *Tracer
	next   http.RoundTripper
}

// CloseIdleConnections is for [http.Client.CloseIdleConnections].
func (tr *transport) CloseIdleConnections() {
	if c, ok := tr.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements [http.RoundTripper].
func (tr *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, t := req.Context(), tr.tracer
	if req.URL == nil {
		return tr.next.RoundTrip(req)
	}
	if isSending(ctx, req) {
		return tr.next.RoundTrip(t.outgoing(ctx, req))
	}
	tracer := t.tracer()
	if tracer == nil && t.durations == nil {
		return tr.next.RoundTrip(t.outgoing(t.minted(ctx), req))
	}
	c := call{req: req, durations: t.durations, began: t.durations.now(), span: noop.Span{}}
	if tracer == nil {
		ctx = t.minted(ctx)
	} else {
		var attrs []attribute.KeyValue
		attrs, c.port = t.clientAttributes(req)
		_, name := knownMethod(req.Method)
		ctx, c.span = tracer.Start(ctx, name, t.client, trace.WithAttributes(attrs...))
	}
	c.ctx, c.recording = ctx, c.span.IsRecording()
	s := &sending{Context: ctx, method: req.Method, url: req.URL}
	out := t.outgoing(s, req)
	s.parents = out.Header[headerParent]
	completed := false
	defer func() {
		if !completed {
			recordPanic(c.span)
			c.finish(faultPanic)
		}
	}()
	resp, err := tr.next.RoundTrip(out)
	completed = true
	// What nobody records need not wait for the body. That next returned neither a
	// response nor an error is for the http.Client to report.
	if err != nil || resp == nil || !c.recording && c.durations == nil {
		c.end(err)
		return resp, err
	}
	c.answered(resp)
	return resp, nil
}

// A call is a request that is on its way, until its response has been read.
type call struct {
	ctx       context.Context //nolint:containedctx // of the span, for its end
	req       *http.Request
	span      trace.Span
	recording bool
	port      int // still to be noted on span, or 0
	durations *durations
	began     time.Time
	status    int
	version   string // of HTTP, in the response
	fault     string
}

// answered notes the response, with whose body c ends.
func (c *call) answered(resp *http.Response) {
	c.status, c.version = resp.StatusCode, protocolVersion(resp.ProtoMajor, resp.ProtoMinor)
	if c.status >= 400 {
		c.fault = strconv.Itoa(c.status)
	}
	if c.recording {
		attrs := append(make([]attribute.KeyValue, 0, 3), keyStatusCode.Int(c.status), keyProtocolVersion.String(c.version))
		if c.port > 0 {
			attrs = append(attrs, keyServerPort.Int(c.port))
		}
		if c.fault != "" {
			c.span.SetStatus(codes.Error, "") // the type says all
			attrs = append(attrs, keyErrorType.String(c.fault))
		}
		c.span.SetAttributes(attrs...)
	}
	// The body of a 101 is the connection; it may be written to and live for days.
	if resp.Body == nil || resp.Body == http.NoBody || c.status == http.StatusSwitchingProtocols {
		c.end(nil)
		return
	}
	b := &body{ReadCloser: resp.Body, call: *c}
	if ctx := c.req.Context(); ctx.Done() != nil {
		b.stop = context.AfterFunc(ctx, b.abandon)
	}
	resp.Body = b
}

// end ends c, perhaps with an error.
func (c *call) end(err error) {
	fault := c.fault
	if err != nil {
		recordError(c.ctx, c.span, err)
		fault = cmp.Or(faultOf(c.ctx, err), fault)
	}
	c.finish(fault)
}

func (c *call) finish(fault string) {
	if c.status == 0 && c.port > 0 && c.recording {
		c.span.SetAttributes(keyServerPort.Int(c.port))
	}
	c.span.End()
	c.durations.sent(c.ctx, c.began, c.req.Method, c.req.URL, series{version: c.version, fault: fault, status: c.status})
}

// A body ends the call that it answers when it ends itself.
type body struct {
	io.ReadCloser
	call  call
	stop  func() bool // takes abandon back; nil if the context never ends
	ended atomic.Bool
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.finish(err)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.finish(err)
	return err
}

func (b *body) finish(err error) {
	if b.stop != nil {
		b.stop()
	}
	b.end(err)
}

// abandon ends the call of a body that nobody reads to its end or closes. It
// runs on a goroutine of its own, perhaps before stop is set.
func (b *body) abandon() { b.end(b.call.ctx.Err()) }

func (b *body) end(err error) {
	if !b.ended.CompareAndSwap(false, true) {
		return
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	b.call.end(err)
}

// outgoing returns the request to send for req: with ctx and the headers that
// ctx asks for. It changes nothing of req, which it returns if nothing differs.
func (t *Tracer) outgoing(ctx context.Context, req *http.Request) *http.Request {
	parent, state := traceHeaders(ctx)
	withheld := len(t.cfg.TraceHosts) > 0 && !lists(t.cfg.TraceHosts, req.URL)
	if withheld {
		parent = ""
	}
	// Where this package has seen the inbound request, it also knows that there
	// is no trace to name; anything else stands there by somebody's intention.
	owns := parent != "" || withheld || hasTrace(req.Header) && ctx.Value(serverKey{}) != nil
	allowed, bag := lists(t.cfg.BaggageHosts, req.URL), ""
	if allowed {
		bag = formatBaggage(ctx)
	}
	keeps := allowed && !owns // baggage that stands there
	if ctx == req.Context() && !owns && bag == "" && (keeps || !hasBaggage(req.Header)) {
		return req
	}
	out := req.WithContext(ctx)
	if len(req.Header) == 0 { // nothing to copy and nothing to remove
		out.Header = make(http.Header, 3)
	} else {
		out.Header = req.Header.Clone()
		remove(out.Header, owns, !keeps || bag != "")
	}
	if bag != "" {
		out.Header[headerBaggage] = []string{bag}
	}
	if parent != "" {
		setTrace(out.Header, parent, state)
	}
	return out
}

// hasBaggage reports whether h holds baggage under a name in any case: what a
// program puts into the map by hand is sent as it stands there.
func hasBaggage(h http.Header) bool {
	for name := range h {
		if strings.EqualFold(name, headerBaggage) {
			return true
		}
	}
	return false
}

// remove deletes the headers of the trace context from h, or baggage, or both,
// under names in any case.
func remove(h http.Header, trace, baggage bool) {
	for name := range h {
		switch {
		case baggage && strings.EqualFold(name, headerBaggage),
			trace && (strings.EqualFold(name, headerParent) || strings.EqualFold(name, headerState)):
			delete(h, name)
		}
	}
}

// clientAttributes returns what is known before the answer, and the port to add
// with it: one that the URL leaves to its scheme tells a sampler nothing.
func (t *Tracer) clientAttributes(req *http.Request) (attrs []attribute.KeyValue, port int) {
	resends, n := attempt.From(req.Context())-1, 3 // counted, because an attribute takes 64 bytes
	host, digits := splitHostPort(req.URL.Host)
	if port = portOf(digits, defaultPort(req.URL)); digits != "" {
		n++
	}
	if resends > 0 {
		n++
	}
	attrs = methodAttributes(make([]attribute.KeyValue, 0, n), req.Method)
	attrs = append(attrs, keyURLFull.String(fullURL(req.URL, t.redact)))
	if host == "" {
		port = 0
	} else {
		attrs = append(attrs, keyServerAddress.String(text(host, maxText)))
	}
	if digits != "" && port > 0 {
		attrs, port = append(attrs, keyServerPort.Int(port)), 0
	}
	if resends > 0 {
		attrs = append(attrs, keyResendCount.Int(resends))
	}
	return attrs, port
}
