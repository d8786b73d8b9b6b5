package tracing

import (
	"context"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// serverKey finds the serving that a request's context is part of.
type serverKey struct{}

// A serving is the context of a request that [Tracer.Middleware] has seen. It is
// a context itself, so that finding the rest costs no allocation of its own.
type serving struct {
	context.Context                        //nolint:containedctx // it is a context
	route           atomic.Pointer[string] // what a Middleware further in has seen
}

// Value implements [context.Context].
func (s *serving) Value(key any) any {
	if key == (serverKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// routeOf returns the route by which r, which may be the request of s itself, was
// served.
func (s *serving) routeOf(r *http.Request) string {
	if route := routeOf(r); route != "" {
		return route
	}
	if seen := s.route.Load(); seen != nil {
		return *seen
	}
	return ""
}

// servingOf returns the serving that ctx is part of, or nil.
func servingOf(ctx context.Context) *serving {
	s, _ := ctx.Value(serverKey{}).(*serving)
	return s
}

// Middleware continues the trace that a request comes with, or starts one, and
// makes a span of kind server until next returns.
//
// The span is named after the method and the route, which it takes from
// [http.Request.Pattern] after next has returned. That works when next is an
// [http.ServeMux] or a gateway, or when Middleware is used on each route. Where
// something in between copies the request, use it in both places: the inner one
// makes no second span, it only names the outer one's.
//
// An answer of 500 or more makes the span an error; 4xx does not, nor does a
// client that goes away. When next panics, the span is an error with the stack
// in an event, and the panic goes on; http.ErrAbortHandler, by which a handler
// gives up on purpose, is no error.
//
// Next sees a [http.ResponseWriter] that can flush, hijack, push and take a file
// as well as the server's. Without a provider it gets the server's own.
func (t *Tracer) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A request that a Transport sends to a handler in this process is another
		// one than that in whose context it is sent.
		if ctx := r.Context(); ctx.Value(clientKey{}) != nil {
			r = r.WithContext(received(ctx))
		}
		if s := servingOf(r.Context()); s != nil {
			if route := routeOf(r); route != "" {
				s.route.Store(&route)
			}
			next.ServeHTTP(w, r)
			return
		}
		tracer := t.tracer()
		if (tracer != nil || t.durations != nil) && (t.cfg.Skip == nil || !t.cfg.Skip(r)) {
			t.serve(tracer, next, w, r)
			return
		}
		if mints := tracer == nil && t.cfg.MintIDs; mints || hasTrace(r.Header) {
			ctx, _ := t.accept(r)
			if mints {
				ctx = t.minted(ctx)
			}
			r = r.WithContext(&serving{Context: ctx})
		}
		next.ServeHTTP(w, r)
	})
}

// received returns ctx as that of a request which came over the wire: what its
// sender knows, and did not write into the request, stays with the sender.
func received(ctx context.Context) context.Context {
	return withoutTrace(context.WithValue(context.WithValue(ctx, clientKey{}, nil), serverKey{}, nil))
}

func withoutTrace(ctx context.Context) context.Context {
	return baggage.ContextWithoutBaggage(trace.ContextWithSpanContext(ctx, trace.SpanContext{}))
}

// hasTrace reports whether h has any of the three headers, legal or not. It is
// what an untraced request without a provider pays for.
func hasTrace(h http.Header) bool {
	return h[headerParent] != nil || h[headerState] != nil || h[headerBaggage] != nil
}

// accept returns the context of r with the trace and the baggage that r came
// with, or, for a public request, without them and with the options that make
// its span start a new trace.
func (t *Tracer) accept(r *http.Request) (ctx context.Context, restart []trace.SpanStartOption) {
	ctx = r.Context()
	in, ok := readTrace(r.Header[headerParent], r.Header[headerState])
	if t.cfg.Public != nil && t.cfg.Public(r) {
		restart = append(restart, trace.WithNewRoot())
		if ok {
			restart = append(restart, trace.WithLinks(trace.Link{SpanContext: in.span}))
		}
		return withoutTrace(ctx), restart
	}
	if ok {
		ctx = in.context(ctx)
	}
	return withBaggage(ctx, r.Header[headerBaggage]), nil
}

// serve answers r within a span, if tracer is not nil, and measures how long that
// takes, if durations are wanted.
func (t *Tracer) serve(tracer trace.Tracer, next http.Handler, w http.ResponseWriter, r *http.Request) {
	began, known := t.durations.now(), routeOf(r)
	ctx, opts := t.accept(r)
	var span trace.Span = noop.Span{}
	if tracer == nil {
		ctx = t.minted(ctx)
	} else {
		opts = append(opts, t.server, trace.WithAttributes(t.serverAttributes(r, known)...))
		// The name is preliminary where a mux behind this has yet to find the route.
		ctx, span = tracer.Start(ctx, serverName(r.Method, known), opts...)
	}
	s := &serving{Context: ctx}
	r = r.WithContext(s)
	if !span.IsRecording() && t.durations == nil {
		// Nobody asks for the status, so the handler gets the server's own writer.
		defer func() { span.End() }()
		next.ServeHTTP(w, r)
		return
	}
	noted, w := newWriter(w)
	completed := false
	defer func() {
		o := outcome{method: r.Method, route: s.routeOf(r)}
		if !completed {
			// Only the value tells a handler that gives up on purpose. The panic goes
			// on from here, on top of the stack that it came with.
			v := recover()
			if v != nil {
				defer panic(v) //nolint:forbidigo // it is the handler's own
			}
			o.panicked = v != http.ErrAbortHandler //nolint:errorlint // net/http compares so too
		}
		o.status = noted.final(completed)
		o.describe(span, r, known)
		span.End()
		t.durations.served(s, began, r, o)
	}()
	next.ServeHTTP(w, r)
	completed = true
}

// An outcome is how a request was answered.
type outcome struct {
	method, route string
	status        int // 0 if none was seen
	panicked      bool
}

// fault returns the error.type of o, or "".
func (o outcome) fault() string {
	switch {
	case o.panicked:
		return faultPanic
	case o.status >= 500:
		return strconv.Itoa(o.status)
	}
	return ""
}

// describe notes o on the span of r, where the route stands already if it was
// known.
func (o outcome) describe(span trace.Span, r *http.Request, known string) {
	if !span.IsRecording() {
		return
	}
	fault, n := o.fault(), 4
	if fault != "" || o.route != known {
		n = 6
	}
	attrs := appendAddress(make([]attribute.KeyValue, 0, n), keyPeerAddress, keyPeerPort, r.RemoteAddr, 0)
	attrs = append(attrs, keyProtocolVersion.String(protocolVersion(r.ProtoMajor, r.ProtoMinor)))
	if o.route != known {
		span.SetName(serverName(o.method, o.route))
		attrs = append(attrs, keyRoute.String(o.route))
	}
	if o.status != 0 {
		attrs = append(attrs, keyStatusCode.Int(o.status))
	}
	if o.panicked {
		recordException(span)
	}
	if fault != "" {
		span.SetStatus(codes.Error, "") // the type says all
		attrs = append(attrs, keyErrorType.String(fault))
	}
	span.SetAttributes(attrs...)
}

// serverName never holds the path: strangers choose it.
func serverName(method, route string) string {
	_, name := knownMethod(method)
	if route == "" {
		return name
	}
	return name + " " + route
}

// routeOf returns the path of the pattern by which an [http.ServeMux] found the
// handler of r: "/users/{id}" of "GET example.com/users/{id}".
func routeOf(r *http.Request) string {
	i := strings.IndexByte(r.Pattern, '/')
	// Where a mux redirects a CONNECT to the same path with a slash, what it calls
	// the pattern is that path, which a stranger chose.
	if i < 0 || r.Method == http.MethodConnect && r.Pattern == path.Clean("/"+r.URL.Path)+"/" {
		return ""
	}
	return r.Pattern[i:]
}

// serverAttributes returns what a sampler may look at, which is what the
// conventions want at the start. The rest waits for the end: an SDK copies the
// attributes of the start three times.
func (t *Tracer) serverAttributes(r *http.Request, route string) []attribute.KeyValue {
	n, agent := 5, r.UserAgent() // counted, because an attribute takes 64 bytes
	for _, there := range [...]bool{r.URL.RawQuery != "", agent != "", route != ""} {
		if there {
			n++
		}
	}
	attrs := methodAttributes(make([]attribute.KeyValue, 0, n), r.Method)
	port := 80
	if r.TLS != nil {
		port = 443
	}
	attrs = append(attrs, keyURLScheme.String(schemeOf(r)), keyURLPath.String(text(r.URL.EscapedPath(), maxText)))
	if r.URL.RawQuery != "" {
		attrs = append(attrs, keyURLQuery.String(text(redactQuery(r.URL.RawQuery, t.redact), maxText)))
	}
	attrs = appendAddress(attrs, keyServerAddress, keyServerPort, r.Host, port)
	if agent != "" {
		attrs = append(attrs, keyUserAgent.String(text(agent, maxText)))
	}
	if route != "" {
		attrs = append(attrs, keyRoute.String(route))
	}
	return attrs
}

// schemeOf returns how r came in, which is not what a proxy in front may have
// been asked for: its headers are the caller's to write.
func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// methodAttributes appends the method, and what was sent in its place if it is
// not known.
func methodAttributes(attrs []attribute.KeyValue, method string) []attribute.KeyValue {
	value, _ := knownMethod(method)
	attrs = append(attrs, keyMethod.String(value))
	if value == valueOther {
		attrs = append(attrs, keyMethodOriginal.String(text(method, maxText)))
	}
	return attrs
}
