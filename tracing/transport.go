package tracing

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/internal/attempt"
)

// clientKey holds the span of the request that a [Tracer.Transport] is sending.
// Other requests are made with its context too, such as for a token.
type clientKey struct{}

// hasClientSpan reports whether req is the request that a Transport further out
// makes a span for, which is known by the traceparent that it wrote: copies of
// the request keep that.
func hasClientSpan(ctx context.Context, req *http.Request) bool {
	span, ok := ctx.Value(clientKey{}).(trace.Span)
	if !ok {
		return false
	}
	parent, _ := traceHeaders(trace.ContextWithSpan(ctx, span))
	return parent != "" && slices.Equal(req.Header[headerParent], []string{parent})
}

// Transport sends each request with the trace context of its context, within a
// span of kind client. Put it innermost, below retries: then each attempt has a
// span of its own, and a retry tells its number. Next does the sending; nil
// means [http.DefaultTransport].
//
// The headers traceparent, tracestate and baggage belong to the Transport. It
// replaces those that a proxy copied from its own caller, and it removes baggage
// from requests to hosts that [Config].BaggageHosts does not list. Only a
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
	if hasClientSpan(ctx, req) {
		return tr.next.RoundTrip(t.outgoing(ctx, req))
	}
	tracer := t.tracer()
	if tracer == nil {
		return tr.next.RoundTrip(t.outgoing(t.minted(ctx), req))
	}
	_, name := knownMethod(req.Method)
	ctx, span := tracer.Start(ctx, name, t.client, trace.WithAttributes(t.clientAttributes(req)...))
	ended := false
	defer func() {
		if !ended {
			recordPanic(ctx, span)
			span.End()
		}
	}()
	resp, err := tr.next.RoundTrip(t.outgoing(context.WithValue(ctx, clientKey{}, span), req))
	ended = true
	// A span that nobody records need not wait for the body.
	if !span.IsRecording() || err != nil {
		recordError(ctx, span, err)
		span.End()
		return resp, err
	}
	finishClient(req, span, resp)
	return resp, nil
}

// finishClient notes the answer and ends span, now or with the body.
func finishClient(req *http.Request, span trace.Span, resp *http.Response) {
	attrs := append(make([]attribute.KeyValue, 0, 3),
		keyStatusCode.Int(resp.StatusCode), keyProtocolVersion.String(protocolVersion(resp.ProtoMajor, resp.ProtoMinor)))
	if resp.StatusCode >= 400 {
		attrs = append(attrs, recordStatus(span, resp.StatusCode))
	}
	span.SetAttributes(attrs...)
	// The body of a 101 is the connection; it may be written to and live for days.
	if resp.Body == nil || resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		span.End()
		return
	}
	b := &body{ReadCloser: resp.Body, req: req, span: span}
	if ctx := req.Context(); ctx.Done() != nil {
		b.stop = context.AfterFunc(ctx, b.abandon)
	}
	resp.Body = b
}

// A body ends the span of its request when it ends itself.
type body struct {
	io.ReadCloser
	req   *http.Request
	span  trace.Span
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

// abandon ends the span of a body that nobody reads to its end or closes. It
// runs on a goroutine of its own, perhaps before stop is set.
func (b *body) abandon() { b.end(b.req.Context().Err()) }

func (b *body) end(err error) {
	if !b.ended.CompareAndSwap(false, true) {
		return
	}
	if !errors.Is(err, io.EOF) {
		recordError(b.req.Context(), b.span, err)
	}
	b.span.End()
}

// outgoing returns the request to send for req: with ctx and the headers that
// ctx asks for. It changes nothing of req, which it returns if nothing differs.
func (t *Tracer) outgoing(ctx context.Context, req *http.Request) *http.Request {
	parent, state := traceHeaders(ctx)
	// Where this package has seen the inbound request, it also knows that there
	// is no trace to name; anything else stands there by somebody's intention.
	owns := parent != "" || hasTrace(req.Header) && ctx.Value(serverKey{}) != nil
	allowed, bag := t.sendsBaggageTo(req.URL.Hostname()), ""
	if allowed {
		bag = formatBaggage(ctx)
	}
	_, carries := req.Header[headerBaggage]
	dropsBaggage := carries && (!allowed || owns)
	if ctx == req.Context() && !owns && bag == "" && !dropsBaggage {
		return req
	}
	out := req.WithContext(ctx)
	if out.Header = req.Header.Clone(); out.Header == nil {
		out.Header = make(http.Header, 3)
	}
	if dropsBaggage {
		delete(out.Header, headerBaggage)
	}
	if bag != "" {
		out.Header[headerBaggage] = []string{bag}
	}
	switch {
	case parent != "":
		setTrace(out.Header, parent, state)
	case owns:
		delete(out.Header, headerParent)
		delete(out.Header, headerState)
	}
	return out
}

// clientAttributes returns what is known before the answer.
func (t *Tracer) clientAttributes(req *http.Request) []attribute.KeyValue {
	attrs := methodAttributes(make([]attribute.KeyValue, 0, 8), req.Method)
	attrs = append(attrs, keyURLFull.String(fullURL(req.URL, t.redact)))
	attrs = appendAddress(attrs, keyServerAddress, keyServerPort, req.URL.Host, defaultPort(req.URL))
	if n := attempt.From(req.Context()); n > 1 {
		attrs = append(attrs, keyResendCount.Int(n-1))
	}
	return attrs
}

// defaultPort returns the port of a URL that names none: server.port is required
// on client spans.
func defaultPort(u *url.URL) int {
	switch strings.ToLower(u.Scheme) {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}
