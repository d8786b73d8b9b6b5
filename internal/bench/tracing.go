package main

import (
	"context"
	"net/http"
	"net/http/httptest"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/baggage"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/parley-go/parley/tracing"
)

const (
	parentHeader  = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	stateHeader   = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
	baggageHeader = "userId=alice,serverNode=DF%2028,isProduction=false"
)

// nowhere is a ResponseWriter that keeps nothing.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

// forgotten is an exporter that keeps nothing, so that the rows show what making
// spans costs and not what sending them does.
type forgotten struct{}

func (forgotten) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (forgotten) Shutdown(context.Context) error                             { return nil }

// tracingRows compares with otelhttp and with the propagators of the otel module.
// Both sides of a row share their provider, whose own cost is about half of a
// sampled row. The rows without a bar show what measures and headers cost.
func tracingRows() []row {
	ctx := context.Background()
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	always := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithBatcher(forgotten{}))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	stock := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

	request := func(parent string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "http://h.example/users/7", nil)
		r.Header.Set("User-Agent", "bench/1.0")
		r.Header.Set("Accept", "application/json")
		if parent != "" {
			r.Header.Set("Traceparent", parent)
		}
		return r
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	serve := func(h http.Handler, parent string) loop {
		r, w := request(parent), nowhere{http.Header{}}
		return func(n int) {
			for range n {
				h.ServeHTTP(w, r)
			}
		}
	}
	// Both make their span from a context that has a parent, as in a service.
	parent := trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(
		stock.Extract(ctx, propagation.HeaderCarrier{"Traceparent": {parentHeader}})))
	send := func(rt http.RoundTripper, ctx context.Context) loop {
		req := must(http.NewRequestWithContext(ctx, http.MethodGet, "http://h.example/users/7", nil))
		return func(n int) {
			for range n {
				resp := must(rt.RoundTrip(req))
				_ = resp.Body.Close()
			}
		}
	}
	ours := func(cfg tracing.Config) *tracing.Tracer { return must(tracing.New(cfg)) }
	theirs := func(p trace.TracerProvider) []otelhttp.Option {
		return []otelhttp.Option{
			otelhttp.WithTracerProvider(p), otelhttp.WithPropagators(stock),
			otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
		}
	}
	server := func(p trace.TracerProvider) (our, their http.Handler) {
		return ours(tracing.Config{Provider: p}).Middleware(answer), otelhttp.NewHandler(answer, "server", theirs(p)...)
	}
	client := func(p trace.TracerProvider) (our, their http.RoundTripper) {
		return ours(tracing.Config{Provider: p}).Transport(stub{}), otelhttp.NewTransport(stub{}, theirs(p)...)
	}
	ourNever, theirNever := server(never)
	ourAlways, theirAlways := server(always)
	ourNone, theirNone := server(tracenoop.NewTracerProvider())
	ourNeverOut, theirNeverOut := client(never)
	ourAlwaysOut, theirAlwaysOut := client(always)
	ourNoneOut, theirNoneOut := client(tracenoop.NewTracerProvider())
	metered := append(theirs(always), otelhttp.WithMeterProvider(meters))
	ourMetered := ours(tracing.Config{Provider: always, MeterProvider: meters})
	bare := serve(answer, parentHeader)

	return append([]row{
		{name: "tracing/middleware_unsampled", ours: serve(ourNever, parentHeader), peer: "otelhttp", them: serve(theirNever, parentHeader), base: bare, most: .5, allocs: 10},
		{name: "tracing/middleware_sampled", ours: serve(ourAlways, parentHeader), peer: "otelhttp", them: serve(theirAlways, parentHeader), base: bare, most: .65, allocs: 19},
		{name: "tracing/middleware_sampled_metrics", ours: serve(ourMetered.Middleware(answer), parentHeader), peer: "otelhttp", them: serve(otelhttp.NewHandler(answer, "server", metered...), parentHeader), base: bare, allocs: 20},
		{name: "tracing/middleware_no_sdk", ours: serve(ourNone, ""), peer: "otelhttp", them: serve(theirNone, ""), ns: 250, allocs: 0},
		{name: "tracing/middleware_no_sdk_parent", ours: serve(ourNone, parentHeader), peer: "otelhttp", them: serve(theirNone, parentHeader), ns: 700, allocs: 4},
		{name: "tracing/transport_unsampled", ours: send(ourNeverOut, parent), peer: "otelhttp", them: send(theirNeverOut, parent), base: send(stub{}, parent), most: .5, allocs: 14},
		{name: "tracing/transport_sampled", ours: send(ourAlwaysOut, parent), peer: "otelhttp", them: send(theirAlwaysOut, parent), base: send(stub{}, parent), most: .65, allocs: 18},
		{name: "tracing/transport_sampled_metrics", ours: send(ourMetered.Transport(stub{}), parent), peer: "otelhttp", them: send(otelhttp.NewTransport(stub{}, metered...), parent), base: send(stub{}, parent), allocs: 20},
		{name: "tracing/transport_no_sdk", ours: send(ourNoneOut, ctx), peer: "otelhttp", them: send(theirNoneOut, ctx), ns: 250, allocs: 1},
		{name: "tracing/transport_no_sdk_parent", ours: send(ourNoneOut, parent), peer: "otelhttp", them: send(theirNoneOut, parent), ns: 700, allocs: 6},
	}, propagatorRows()...)
}

// propagatorRows compares reading and writing the headers alone.
func propagatorRows() []row {
	ctx := context.Background()
	w3c, bags := propagation.TraceContext{}, propagation.Baggage{}
	both := propagation.NewCompositeTextMapPropagator(w3c, bags)
	in := propagation.HeaderCarrier{"Traceparent": {parentHeader}, "Tracestate": {stateHeader}}
	bagged := propagation.HeaderCarrier{"Traceparent": {parentHeader}, "Tracestate": {stateHeader}, "Baggage": {baggageHeader}}
	extract := func(p propagation.TextMapPropagator, from propagation.HeaderCarrier) loop {
		return func(n int) {
			for range n {
				p.Extract(ctx, from)
			}
		}
	}
	inject := func(p propagation.TextMapPropagator, ctx context.Context) loop {
		to := propagation.HeaderCarrier{"Traceparent": nil, "Tracestate": nil, "Baggage": nil}
		return func(n int) {
			for range n {
				p.Inject(ctx, to)
			}
		}
	}
	full := baggage.ContextWithBaggage(w3c.Extract(ctx, in), must(baggage.Parse(baggageHeader)))
	own := tracing.Propagator{}
	return []row{
		{name: "tracing/extract", ours: extract(own, in), peer: "otel_tracecontext", them: extract(w3c, in), allocs: 4},
		{name: "tracing/inject", ours: inject(own, w3c.Extract(ctx, in)), peer: "otel_tracecontext", them: inject(w3c, w3c.Extract(ctx, in)), allocs: 4},
		{name: "tracing/extract_baggage", ours: extract(own, bagged), peer: "otel_composite", them: extract(both, bagged), allocs: 14},
		{name: "tracing/inject_baggage", ours: inject(own, full), peer: "otel_composite", them: inject(both, full), allocs: 12},
	}
}
