package tracing_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/tracing"
)

// A light is a provider that costs next to nothing, so that benchmarks show what
// this package costs.
type light struct {
	embedded.TracerProvider
	sampled bool
}

func (p light) Tracer(string, ...trace.TracerOption) trace.Tracer {
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.TraceFlags(0).WithSampled(p.sampled)})
	return lightTracer{span: lightSpan{sc: sc, provider: p}}
}

type lightTracer struct {
	embedded.Tracer
	span lightSpan
}

func (t lightTracer) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	s := &t.span
	return trace.ContextWithSpan(ctx, s), s
}

type lightSpan struct {
	embedded.Span
	sc       trace.SpanContext
	provider light
}

func (s *lightSpan) SpanContext() trace.SpanContext          { return s.sc }
func (s *lightSpan) IsRecording() bool                       { return s.sc.IsSampled() }
func (s *lightSpan) TracerProvider() trace.TracerProvider    { return s.provider }
func (s *lightSpan) AddLink(trace.Link)                      {}
func (s *lightSpan) RecordError(error, ...trace.EventOption) {}
func (s *lightSpan) SetName(string)                          {}
func (s *lightSpan) End(...trace.SpanEndOption)              {}
func (s *lightSpan) SetStatus(codes.Code, string)            {}
func (s *lightSpan) AddEvent(string, ...trace.EventOption)   {}
func (s *lightSpan) SetAttributes(...attribute.KeyValue)     {}

type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

const benchState = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"

// A path is one way through the package, measured by benchmarks and by the
// allocation test.
type path struct {
	name   string
	allocs float64 // the most that it may allocate
	run    func()
}

func paths(t testing.TB) []path {
	var all []path
	for _, c := range []struct {
		name           string
		cfg            tracing.Config
		parent, state  string
		server, client float64
	}{
		{"no provider, no traceparent", tracing.Config{}, "", "", 0, 0},
		{"no provider, traceparent", tracing.Config{}, w3cParent + "-01", "", 4, 6},
		{"no provider, traceparent and tracestate", tracing.Config{}, w3cParent + "-01", benchState, 6, 7},
		{"no provider, ids minted", tracing.Config{MintIDs: true}, "", "", 4, 8},
		{"not sampled", tracing.Config{Provider: light{}}, w3cParent + "-00", "", 10, 14},
		{"sampled", tracing.Config{Provider: light{sampled: true}}, w3cParent + "-01", "", 12, 15},
	} {
		tracer := mustNew(t, c.cfg)
		r := httptest.NewRequest(http.MethodGet, "http://h.example/users/7", nil)
		r.Header.Set("User-Agent", "bench/1.0")
		r.Header.Set("Accept", "application/json")
		if c.parent != "" {
			r.Header.Set("traceparent", c.parent)
		}
		if c.state != "" {
			r.Header.Set("tracestate", c.state)
		}
		h := tracer.Middleware(http.HandlerFunc(nothing))
		w := nowhere{http.Header{}}
		all = append(all, path{"Middleware/" + c.name, c.server, func() { h.ServeHTTP(w, r) }})

		ctx := tracing.Propagator{}.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
		out := request(ctx, "http://h.example/users/7")
		out.Header.Set("Accept", "application/json")
		resp := answer(200)
		tr := tracer.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil }))
		all = append(all, path{"Transport/" + c.name, c.client, func() { _, _ = tr.RoundTrip(out) }})
	}
	in := propagation.HeaderCarrier{"Traceparent": {w3cParent + "-01"}}
	withState := propagation.HeaderCarrier{"Traceparent": {w3cParent + "-01"}, "Tracestate": {benchState}}
	level2 := propagation.HeaderCarrier{"Traceparent": {w3cParent + "-01"}, "Tracestate": {"foo@=1,b=2"}}
	ctx := tracing.Propagator{}.Extract(context.Background(), in)
	ctxState := tracing.Propagator{}.Extract(context.Background(), withState)
	bagged := propagation.HeaderCarrier{"Baggage": {"userId=alice,serverNode=DF%2028,isProduction=false"}}
	ctxBag := tracing.Propagator{}.Extract(context.Background(), bagged)
	carrier := propagation.HeaderCarrier{"Traceparent": nil, "Tracestate": nil, "Baggage": nil}
	logger := slog.New(tracing.LogHandler(slog.NewJSONHandler(io.Discard, nil)))
	m := messaging.Message{ID: "1", Headers: map[string]string{"traceparent": w3cParent + "-01"}}
	handler := mustNew(t, tracing.Config{}).Handler(func(context.Context, *messaging.Delivery) error { return nil })
	publisher := mustNew(t, tracing.Config{}).Publisher(dropped{})
	d := &messaging.Delivery{Message: m}
	return append(all,
		path{"Propagator/Extract traceparent", 2, func() { tracing.Propagator{}.Extract(context.Background(), in) }},
		path{"Propagator/Extract tracestate", 4, func() { tracing.Propagator{}.Extract(context.Background(), withState) }},
		path{"Propagator/Extract tracestate of level 2", 28, func() { tracing.Propagator{}.Extract(context.Background(), level2) }},
		path{"Propagator/Extract baggage", 9, func() { tracing.Propagator{}.Extract(context.Background(), bagged) }},
		path{"Propagator/Inject traceparent", 2, func() { tracing.Propagator{}.Inject(ctx, carrier) }},
		path{"Propagator/Inject tracestate", 4, func() { tracing.Propagator{}.Inject(ctxState, carrier) }},
		path{"Propagator/Inject baggage", 8, func() { tracing.Propagator{}.Inject(ctxBag, carrier) }},
		path{"LogHandler/without a trace", 0, func() { logger.InfoContext(context.Background(), "m", "a", 1) }},
		path{"LogHandler/in a trace", 1, func() { logger.InfoContext(ctx, "m", "a", 1) }},
		path{"Handler/no provider", 2, func() { _ = handler(context.Background(), d) }},
		path{"Publisher/no provider", 5, func() { _ = publisher.Publish(ctx, "orders", messaging.Message{ID: "1"}) }},
	)
}

type dropped struct{}

func (dropped) Publish(context.Context, string, ...messaging.Message) error { return nil }

func BenchmarkTracing(b *testing.B) {
	for _, p := range paths(b) {
		b.Run(p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.run()
			}
		})
	}
}

func TestAllocsStayWithinTheDocumentedNumbers(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself")
	}
	for _, p := range paths(t) {
		if got := testing.AllocsPerRun(200, p.run); got > p.allocs {
			t.Errorf("%s: %v allocations, want at most %v", p.name, got, p.allocs)
		}
	}
}
