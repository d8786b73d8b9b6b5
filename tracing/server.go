package tracing

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// serverKey holds the span of the request that a [Tracer.Middleware] has seen,
// one that does nothing where it made none.
type serverKey struct{}

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
// in an event, and the panic goes on.
//
// Next sees a [http.ResponseWriter] that can flush, hijack, push and take a file
// as well as the server's. Without a provider it gets the server's own.
func (t *Tracer) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A request that a Transport sends to a handler in this process is another
		// one than that in whose context it is sent.
		if ctx := r.Context(); ctx.Value(clientKey{}) != nil {
			r = r.WithContext(context.WithValue(context.WithValue(ctx, clientKey{}, nil), serverKey{}, nil))
		}
		if span, ok := r.Context().Value(serverKey{}).(trace.Span); ok {
			span.SetAttributes(setRoute(nil, span, r)...)
			next.ServeHTTP(w, r)
			return
		}
		tracer := t.tracer()
		if tracer != nil && (t.cfg.Skip == nil || !t.cfg.Skip(r)) {
			t.serve(tracer, next, w, r)
			return
		}
		if mints := tracer == nil && t.cfg.MintIDs; mints || hasTrace(r.Header) {
			ctx, _ := t.accept(r)
			if mints {
				ctx = t.minted(ctx)
			}
			r = r.WithContext(context.WithValue(ctx, serverKey{}, trace.SpanFromContext(ctx)))
		}
		next.ServeHTTP(w, r)
	})
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
		return ctx, restart
	}
	if ok {
		ctx = in.context(ctx)
	}
	return withBaggage(ctx, r.Header[headerBaggage]), nil
}

// serve answers r within a span.
func (t *Tracer) serve(tracer trace.Tracer, next http.Handler, w http.ResponseWriter, r *http.Request) {
	ctx, opts := t.accept(r)
	opts = append(opts, t.server, trace.WithAttributes(t.serverAttributes(r)...))
	// The name is preliminary where a mux behind this has yet to find the route.
	ctx, span := tracer.Start(ctx, serverName(r), opts...)
	r = r.WithContext(context.WithValue(ctx, serverKey{}, span))
	known, completed := r.Pattern, false
	// A span that nobody records needs no status, so the handler gets the
	// server's own writer.
	var noted *writer
	if span.IsRecording() {
		noted, w = newWriter(w)
	}
	defer func() {
		if noted != nil {
			finishServer(r, span, noted, known, completed)
		}
		span.End()
	}()
	next.ServeHTTP(w, r)
	completed = true
}

// finishServer notes on span what is known after the handler; its route was
// known already if r still has the pattern known.
func finishServer(r *http.Request, span trace.Span, w *writer, known string, completed bool) {
	attrs := make([]attribute.KeyValue, 0, 3)
	if r.Pattern != known {
		attrs = setRoute(attrs, span, r)
	}
	if !completed {
		recordPanic(r.Context(), span)
	} else if !w.hijacked {
		w.begin() // net/http answers 200 when the handler did not answer
	}
	if w.status != 0 {
		attrs = append(attrs, keyStatusCode.Int(w.status))
	}
	if completed && w.status >= 500 {
		attrs = append(attrs, recordStatus(span, w.status))
	}
	span.SetAttributes(attrs...)
}

// setRoute names span after the route of r and adds it to attrs, if it is known.
func setRoute(attrs []attribute.KeyValue, span trace.Span, r *http.Request) []attribute.KeyValue {
	if route := routeOf(r.Pattern); route != "" {
		span.SetName(serverName(r))
		attrs = append(attrs, keyRoute.String(route))
	}
	return attrs
}

// serverName never holds the path: strangers choose it.
func serverName(r *http.Request) string {
	_, name := knownMethod(r.Method)
	if route := routeOf(r.Pattern); route != "" {
		return name + " " + route
	}
	return name
}

// routeOf returns the path of a pattern of [http.ServeMux]: "/users/{id}" of
// "GET example.com/users/{id}".
func routeOf(pattern string) string {
	if i := strings.IndexByte(pattern, '/'); i >= 0 {
		return pattern[i:]
	}
	return ""
}

// serverAttributes returns what is known before the answer, which a sampler may
// look at.
func (t *Tracer) serverAttributes(r *http.Request) []attribute.KeyValue {
	attrs := methodAttributes(make([]attribute.KeyValue, 0, 12), r.Method)
	scheme, port := "http", 80
	if r.TLS != nil {
		scheme, port = "https", 443
	}
	attrs = append(attrs, keyURLScheme.String(scheme), keyURLPath.String(text(r.URL.EscapedPath(), maxText)))
	if r.URL.RawQuery != "" {
		attrs = append(attrs, keyURLQuery.String(text(redactQuery(r.URL.RawQuery, t.redact), maxText)))
	}
	attrs = appendAddress(attrs, keyServerAddress, keyServerPort, r.Host, port)
	attrs = appendAddress(attrs, keyPeerAddress, keyPeerPort, r.RemoteAddr, 0)
	attrs = append(attrs, keyProtocolVersion.String(protocolVersion(r.ProtoMajor, r.ProtoMinor)))
	if agent := r.UserAgent(); agent != "" {
		attrs = append(attrs, keyUserAgent.String(text(agent, maxText)))
	}
	if route := routeOf(r.Pattern); route != "" {
		attrs = append(attrs, keyRoute.String(route))
	}
	return attrs
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

// appendAddress appends host and port of hostport; a port that is missing is
// port, or left out if that is 0.
func appendAddress(attrs []attribute.KeyValue, address, portKey attribute.Key, hostport string, port int) []attribute.KeyValue {
	host, digits := splitHostPort(hostport)
	if n, err := strconv.ParseUint(digits, 10, 16); digits != "" && err == nil {
		port = int(n)
	}
	if host == "" {
		return attrs
	}
	attrs = append(attrs, address.String(text(host, maxText)))
	if port > 0 {
		attrs = append(attrs, portKey.Int(port))
	}
	return attrs
}

// splitHostPort is like [net.SplitHostPort] for addresses whose port may be
// missing, where that one allocates an error.
func splitHostPort(hostport string) (host, port string) {
	colon, bracket := strings.LastIndexByte(hostport, ':'), strings.LastIndexByte(hostport, ']')
	// Without brackets, several colons are an IPv6 address.
	if colon > bracket && (bracket >= 0 || strings.IndexByte(hostport, ':') == colon) {
		hostport, port = hostport[:colon], hostport[colon+1:]
	}
	return strings.Trim(hostport, "[]"), port
}

// protocolVersion returns network.protocol.version: "1.1", and "2" without a
// minor number, as the protocols call themselves.
func protocolVersion(major, minor int) string {
	switch {
	case major == 1 && minor == 1:
		return "1.1"
	case major == 1:
		return "1.0"
	}
	return strconv.Itoa(major)
}
