package tracing

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Names of the headers as messages carry them.
const (
	nameParent  = "traceparent"
	nameState   = "tracestate"
	nameBaggage = "baggage"
)

// Names of the headers as an [http.Header] holds them.
const (
	headerParent  = "Traceparent"
	headerState   = "Tracestate"
	headerBaggage = "Baggage"
)

// A Propagator writes trace context and baggage into headers and reads them
// back: W3C Trace Context level 2 and W3C Baggage. The zero value is ready for
// use, and safe for concurrent use. [Tracer] has it built in; set it as the
// global one (otel.SetTextMapPropagator) for instrumentation by others, which
// then sends baggage to every host it calls.
//
// It differs from the propagators of the otel module where the specification
// says so: several tracestate lines are one list, a repeated traceparent is
// none, keys of level 2 are legal, of a repeated key one is kept, and unknown
// flags are cleared instead of ending the trace.
type Propagator struct{}

var _ propagation.TextMapPropagator = Propagator{}

// Fields returns the names of the headers that Inject sets.
func (Propagator) Fields() []string { return []string{nameParent, nameState, nameBaggage} }

// Inject writes the trace context and the baggage of ctx into carrier. It sets
// nothing for what ctx does not have.
func (Propagator) Inject(ctx context.Context, carrier propagation.TextMapCarrier) {
	parent, state := traceHeaders(ctx)
	set(carrier, nameParent, headerParent, parent)
	set(carrier, nameState, headerState, state)
	set(carrier, nameBaggage, headerBaggage, formatBaggage(ctx))
}

// set gives carrier the header name, called header in an [http.Header], unless
// value is empty.
func set(carrier propagation.TextMapCarrier, name, header, value string) {
	if value == "" {
		return
	}
	// Its own methods bring each name into canonical form, which allocates.
	if h, ok := carrier.(propagation.HeaderCarrier); ok {
		h[header] = []string{value}
		return
	}
	carrier.Set(name, value)
}

// Extract returns ctx with the trace context and the baggage that carrier holds.
// It never fails: a traceparent that is malformed or stands there twice counts
// as none and takes the tracestate with it; a malformed tracestate is dropped
// alone; malformed members of the baggage are dropped one by one. A carrier that
// implements [propagation.ValuesGetter] is asked for all lines of a header.
func (Propagator) Extract(ctx context.Context, carrier propagation.TextMapCarrier) context.Context {
	parents, states := lines(carrier, nameParent, headerParent), lines(carrier, nameState, headerState)
	if in, ok := readTrace(parents, states); ok {
		ctx = in.context(ctx)
	}
	return withBaggage(ctx, lines(carrier, nameBaggage, headerBaggage))
}

// lines returns all values of the header name, called header in an
// [http.Header].
func lines(carrier propagation.TextMapCarrier, name, header string) []string {
	switch c := carrier.(type) {
	case propagation.HeaderCarrier:
		return c[header]
	case propagation.ValuesGetter:
		return c.Values(name)
	}
	return oneLine(carrier.Get(name))
}

// oneLine returns the lines of a header that may occur once at most.
func oneLine(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// An inbound is the trace context that a request or message came with.
type inbound struct {
	span  trace.SpanContext
	state *state
}

// readTrace returns what the lines of the two headers say; false if they name no
// trace. Without a legal traceparent the tracestate means nothing (§3.3).
func readTrace(parents, states []string) (inbound, bool) {
	if len(parents) != 1 {
		return inbound{}, false
	}
	sc, ok := parseParent(parents[0])
	if !ok {
		return inbound{}, false
	}
	in := inbound{span: sc}
	if len(states) > 0 {
		var ts trace.TraceState
		if ts, in.state = parseState(states); ts.Len() > 0 {
			in.span = sc.WithTraceState(ts)
		}
		if in.state != nil {
			in.state.traceID = sc.TraceID()
		}
	}
	return in, true
}

type stateKey struct{}

// context returns ctx with in as the remote parent of spans to come.
func (in inbound) context(ctx context.Context) context.Context {
	ctx = trace.ContextWithRemoteSpanContext(ctx, in.span)
	if in.state != nil {
		ctx = context.WithValue(ctx, stateKey{}, in.state)
	}
	return ctx
}

// traceHeaders returns the traceparent and tracestate for what ctx sends, both
// "" if ctx belongs to no trace.
func traceHeaders(ctx context.Context) (parent, tracestate string) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return "", ""
	}
	s, _ := ctx.Value(stateKey{}).(*state)
	if s != nil && s.traceID != sc.TraceID() {
		s = nil // the trace was restarted since
	}
	return formatParent(sc), formatState(sc.TraceState(), s)
}

// withBaggage returns ctx with the baggage in lines, in place of what ctx may
// have, unless there is none.
func withBaggage(ctx context.Context, lines []string) context.Context {
	if b := parseBaggage(lines); b.Len() > 0 {
		return baggage.ContextWithBaggage(ctx, b)
	}
	return ctx
}

// setTrace puts what traceHeaders returned into h, which holds neither header.
func setTrace(h http.Header, parent, tracestate string) {
	if tracestate == "" {
		h[headerParent] = []string{parent}
		return
	}
	both := []string{parent, tracestate}
	h[headerParent], h[headerState] = both[0:1:1], both[1:2:2]
}

// Detach returns a context for work that outlives the one who asked for it: it
// belongs to the same trace and carries the same baggage, but it is not
// cancelled when ctx is, and has no deadline and no other value of ctx. Give
// such work a bound of its own:
//
//	ctx, cancel := context.WithTimeout(tracing.Detach(r.Context()), time.Minute)
//
// Other values stay behind on purpose: one of them says that a retry is running,
// which is not true of the detached work. [context.WithoutCancel] keeps them all.
func Detach(ctx context.Context) context.Context {
	detached := context.Background()
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsValid() {
		detached = trace.ContextWithSpan(detached, span)
	}
	if s, ok := ctx.Value(stateKey{}).(*state); ok {
		detached = context.WithValue(detached, stateKey{}, s)
	}
	if b := baggage.FromContext(ctx); b.Len() > 0 {
		detached = baggage.ContextWithBaggage(detached, b)
	}
	return detached
}
