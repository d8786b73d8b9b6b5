package tracing_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/tracing"
)

const browser = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// traceID returns the id of the trace that ctx belongs to.
func traceID(ctx context.Context) trace.TraceID { return trace.SpanContextFromContext(ctx).TraceID() }

// A broker that hands each message to its subscriber at once.
type broker struct{ handle messaging.Handler }

func (b broker) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	for _, m := range msgs {
		if err := b.handle(context.Background(), &messaging.Delivery{Message: m, Topic: topic}); err != nil {
			return err
		}
	}
	return nil
}

// A request goes from a browser through two services and a topic to a consumer.
// No OpenTelemetry SDK is installed, and still all of them see one trace.
func Example() {
	tracer, err := tracing.New(tracing.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer := tracer.Handler(func(ctx context.Context, d *messaging.Delivery) error {
		fmt.Println(d.Type, "handled in", traceID(ctx))
		return nil
	})
	publisher := tracer.Publisher(broker{consumer})
	orders := httptest.NewServer(tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("order placed in", traceID(r.Context()))
		_ = publisher.Publish(r.Context(), "orders", messaging.NewMessage("OrderPlaced", nil))
	})))
	defer orders.Close()

	client := &http.Client{Transport: tracer.Transport(nil)}
	shop := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodPost, orders.URL, nil)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
	}))
	r := httptest.NewRequest(http.MethodPost, "/checkout", nil)
	r.Header.Set("traceparent", browser)
	shop.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// order placed in 4bf92f3577b34da6a3ce929d0e0e4736
	// OrderPlaced handled in 4bf92f3577b34da6a3ce929d0e0e4736
}

func ExampleNew() {
	_, err := tracing.New(tracing.Config{
		BaggageHosts: []string{"https://stock.internal"},
		RedactQuery:  []string{""},
	})
	fmt.Println(err)
	// Output: tracing: config: BaggageHosts: "https://stock.internal" is not a host name, IP address or "*." and a name; leave out scheme and port; RedactQuery: a name is empty
}

// At the edge nobody's trace is believed.
func ExampleTracer_Middleware() {
	tracer, err := tracing.New(tracing.Config{
		Public:  func(r *http.Request) bool { return r.Host == "api.example.com" },
		MintIDs: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Host, traceID(r.Context()).String() == browser[3:35])
	}))
	for _, host := range []string{"orders.internal", "api.example.com"} {
		r := httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil)
		r.Header.Set("traceparent", browser)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	// Output:
	// orders.internal true
	// api.example.com false
}

// Baggage goes only to the hosts that are listed.
func ExampleTracer_Transport() {
	tracer, err := tracing.New(tracing.Config{BaggageHosts: []string{"*.internal"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		fmt.Printf("%s: traceparent %s, baggage %q\n", r.Host, r.Header.Get("traceparent"), r.Header.Get("baggage"))
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	}))}
	ctx := tracing.Propagator{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": browser, "baggage": "tier=gold"})
	for _, url := range []string{"http://stock.internal/", "http://partner.example/"} {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
	}
	// Output:
	// stock.internal: traceparent 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, baggage "tier=gold"
	// partner.example: traceparent 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, baggage ""
}

// The context is in the headers of what is published; the caller's message is
// left as it was.
func ExampleTracer_Publisher() {
	tracer, err := tracing.New(tracing.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	publisher := tracer.Publisher(broker{func(_ context.Context, d *messaging.Delivery) error {
		fmt.Println("sent:", d.Headers["traceparent"])
		return nil
	}})
	ctx := tracing.Propagator{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": browser})
	m := messaging.NewMessage("OrderPlaced", nil)
	if err := publisher.Publish(ctx, "orders", m); err != nil {
		fmt.Println(err)
	}
	fmt.Println("own:", m.Headers["traceparent"])
	// Output:
	// sent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
	// own:
}

func ExampleTracer_Handler() {
	tracer, err := tracing.New(tracing.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var middleware messaging.Middleware = tracer.Handler
	handle := middleware(func(ctx context.Context, d *messaging.Delivery) error {
		fmt.Println(d.ID, "in", traceID(ctx))
		return nil
	})
	d := &messaging.Delivery{Topic: "orders", Message: messaging.Message{ID: "m1", Headers: map[string]string{"traceparent": browser}}}
	if err := handle(context.Background(), d); err != nil {
		fmt.Println(err)
	}
	// Output: m1 in 4bf92f3577b34da6a3ce929d0e0e4736
}

// An e-mail is sent after the answer, in the same trace.
func ExampleDetach() {
	tracer, err := tracing.New(tracing.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	sent := make(chan string)
	h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx := tracing.Detach(r.Context())
		go func() { sent <- fmt.Sprint(traceID(ctx), " ", ctx.Err()) }()
	}))
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewRequest(http.MethodPost, "/", nil).WithContext(ctx)
	r.Header.Set("traceparent", browser)
	h.ServeHTTP(httptest.NewRecorder(), r)
	cancel()
	fmt.Println(<-sent)
	// Output: 4bf92f3577b34da6a3ce929d0e0e4736 <nil>
}

func ExampleLogHandler() {
	logger := slog.New(tracing.LogHandler(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: dropTime})))
	ctx := tracing.Propagator{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": browser})
	logger.WithGroup("order").InfoContext(ctx, "placed", "id", 456)
	logger.Info("no trace here")
	// Output:
	// level=INFO msg=placed order.id=456 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7 trace_flags=01
	// level=INFO msg="no trace here"
}

// A protocol of one's own needs a carrier and the propagator.
func ExamplePropagator() {
	in := propagation.MapCarrier{"traceparent": browser, "tracestate": "rojo=1", "baggage": "tier=gold"}
	ctx := tracing.Propagator{}.Extract(context.Background(), in)
	fmt.Println(traceID(ctx), baggage.FromContext(ctx).Member("tier").Value())

	out := propagation.MapCarrier{}
	tracing.Propagator{}.Inject(ctx, out)
	for _, name := range (tracing.Propagator{}).Fields() {
		fmt.Fprintf(os.Stdout, "%s: %s\n", name, out[name])
	}
	// Output:
	// 4bf92f3577b34da6a3ce929d0e0e4736 gold
	// traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
	// tracestate: rojo=1
	// baggage: tier=gold
}

// Several messages are handled at once, such as with one insert for all of them.
func ExampleTracer_Batch() {
	tracer, err := tracing.New(tracing.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := []*messaging.Delivery{
		{Topic: "orders", Message: messaging.Message{ID: "m1"}},
		{Topic: "orders", Message: messaging.Message{ID: "m2"}},
	}
	err = tracer.Batch(context.Background(), batch, func(context.Context) error {
		fmt.Println("handled", len(batch))
		return nil
	})
	fmt.Println(err)
	// Output:
	// handled 2
	// <nil>
}
