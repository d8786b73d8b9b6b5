package tracing_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/tracing"
)

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := tracing.New(tracing.Config{
		TraceHosts:    []string{"api.fine.example", "h/path"},
		BaggageHosts:  []string{"https://h", "h:80", "", "*", "*.", "a b", ".h", "h.", "fine.example", "*.fine.example", "::1"},
		BaggageTopics: []string{"orders", ""},
		RedactQuery:   []string{""},
	})
	if err == nil {
		t.Fatal("New() = nil, want an error")
	}
	text := err.Error()
	if n := strings.Count(text, "BaggageHosts"); n != 8 || strings.Count(text, "TraceHosts") != 1 || !strings.HasPrefix(text, "tracing: config: ") || strings.Contains(text, "fine") ||
		!strings.Contains(text, "BaggageTopics") || !strings.Contains(text, "RedactQuery") || strings.Contains(text, "\n") {
		t.Errorf("New() = %q, want 1 and 8 hosts, a topic and a name on one line", text)
	}
}

// passives are the ways to have no provider.
func passives() map[string]trace.TracerProvider {
	return map[string]trace.TracerProvider{
		"none": nil, "the global placeholder": otel.GetTracerProvider(), "no-op": noop.NewTracerProvider(),
		// One that the package cannot know to do nothing.
		"another that does nothing": wrapped{noop.NewTracerProvider()},
	}
}

type wrapped struct{ trace.TracerProvider }

// chain sends one request through a middleware and a transport.
func chain(t *testing.T, tracer *tracing.Tracer, in http.Header) (out http.Header, seen context.Context) {
	t.Helper()
	contexts := make(chan context.Context, 1)
	client := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { out = r.Header; return answer(200), nil }))
	h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		contexts <- r.Context()
		req := request(r.Context(), "http://h/")
		req.Header = r.Header.Clone() // as a proxy does
		if _, err := client.RoundTrip(req); err != nil {
			t.Error(err)
		}
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = in
	h.ServeHTTP(httptest.NewRecorder(), r)
	return out, <-contexts
}

func TestWithoutAProviderTheInboundContextIsForwardedUnchanged(t *testing.T) {
	for name, provider := range passives() {
		t.Run(name, func(t *testing.T) {
			tracer := mustNew(t, tracing.Config{Provider: provider, BaggageHosts: []string{"h"}})
			in := http.Header{"Traceparent": {w3cParent + "-01"}, "Tracestate": {"foo@=1", "b=2"}, "Baggage": {"k=v"}}
			out, seen := chain(t, tracer, in)
			for header, want := range map[string]string{"traceparent": w3cParent + "-01", "tracestate": "foo@=1,b=2", "baggage": "k=v"} {
				if got := strings.Join(out.Values(header), " | "); got != want {
					t.Errorf("%s = %q, want %q", header, got, want)
				}
			}
			if sc := trace.SpanContextFromContext(seen); sc.TraceID().String() != w3cTrace {
				t.Errorf("the handler sees trace %v, want the inbound one", sc.TraceID())
			}
		})
	}
}

func TestWithoutAProviderNothingIsMadeUp(t *testing.T) {
	for name, provider := range passives() {
		t.Run(name, func(t *testing.T) {
			out, seen := chain(t, mustNew(t, tracing.Config{Provider: provider}), http.Header{})
			if len(out) != 0 || trace.SpanContextFromContext(seen).IsValid() {
				t.Errorf("sent %v, want no header and no trace", out)
			}
		})
	}
}

func TestWithoutAProviderAMalformedContextEndsHere(t *testing.T) {
	for name, provider := range passives() {
		t.Run(name, func(t *testing.T) {
			in := http.Header{"Traceparent": {"malformed"}, "Tracestate": {"a=1"}, "Baggage": {"k=v"}}
			out, _ := chain(t, mustNew(t, tracing.Config{Provider: provider}), in)
			if len(out) != 0 {
				t.Errorf("sent %v, want nothing of what a proxy copied", out)
			}
		})
	}
}

func TestWithoutAProviderAPublicContextEndsHere(t *testing.T) {
	for name, provider := range passives() {
		t.Run(name, func(t *testing.T) {
			in := http.Header{"Traceparent": {w3cParent + "-01"}, "Tracestate": {"a=1"}, "Baggage": {"k=v"}}
			cfg := tracing.Config{Provider: provider, Public: func(*http.Request) bool { return true }, BaggageHosts: []string{"h"}}
			out, seen := chain(t, mustNew(t, cfg), in)
			if len(out) != 0 || baggage.FromContext(seen).Len() != 0 {
				t.Errorf("sent %v with baggage %v, want nothing of a stranger's", out, baggage.FromContext(seen))
			}
		})
	}
}

func TestWithoutAProviderAHandSetTraceparentIsLeftAlone(t *testing.T) {
	var out http.Header
	tr := mustNew(t, tracing.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) { out = r.Header; return answer(200), nil }))
	r := request(t.Context(), "http://h/")
	r.Header.Set("traceparent", w3cParent+"-01")
	if _, err := tr.RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	if got := out.Get("traceparent"); got != w3cParent+"-01" {
		t.Errorf("traceparent = %q, want what the caller set", got)
	}
}

func TestMintIDsStartsATraceThatIsNotSampledWhereNoneCameIn(t *testing.T) {
	tracer := mustNew(t, tracing.Config{MintIDs: true})
	out, seen := chain(t, tracer, http.Header{})
	sc := trace.SpanContextFromContext(seen)
	if got, want := out.Get("traceparent"), "00-"+sc.TraceID().String()+"-"+sc.SpanID().String()+"-02"; got != want || !sc.IsValid() {
		t.Errorf("traceparent = %q, want %q with ids that the handler sees", got, want)
	}
	if out, _ := chain(t, tracer, http.Header{"Traceparent": {w3cParent + "-01"}}); out.Get("traceparent") != w3cParent+"-01" {
		t.Errorf("traceparent = %q, want the one that came in", out.Get("traceparent"))
	}
	_, other := chain(t, tracer, http.Header{})
	if trace.SpanContextFromContext(other).TraceID() == sc.TraceID() {
		t.Error("two requests share a minted trace id")
	}
	broker := &published{}
	if err := tracer.Publisher(broker).Publish(t.Context(), "orders", messaging.Message{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	if parent := broker.last().Headers["traceparent"]; !strings.HasSuffix(parent, "-02") {
		t.Errorf("traceparent of a message = %q, want a minted one", parent)
	}
}

// A provider may be set at any time, but only once in a process, and other tests
// need one without: this one runs in a process of its own.
func TestGlobalProviderMayBeSetLater(t *testing.T) {
	const child = "PARLEY_TRACING_SETS_PROVIDER"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGlobalProviderMayBeSetLater$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	tracers := []*tracing.Tracer{mustNew(t, tracing.Config{}), mustNew(t, tracing.Config{Provider: otel.GetTracerProvider()})}
	for _, tracer := range tracers {
		if _, seen := chain(t, tracer, http.Header{}); trace.SpanContextFromContext(seen).IsValid() {
			t.Error("a trace exists before the provider is set")
		}
	}
	first, second := &recorder{}, &recorder{}
	// The second cannot be compared: it must be served all the same.
	for _, provider := range []trace.TracerProvider{first, incomparable{second, nil}} {
		otel.SetTracerProvider(provider)
		for range 2 {
			for _, tracer := range tracers {
				chain(t, tracer, http.Header{})
			}
		}
	}
	if a, b := len(first.all(t)), len(second.all(t)); a != 8 || b != 8 {
		t.Errorf("the providers recorded %d and %d spans, want 8 and 8", a, b)
	}
}

type incomparable struct {
	trace.TracerProvider
	_ []int
}

func TestTheZeroTracerMakesNoSpansAndPassesTheContextOn(t *testing.T) {
	rec := &recorder{}
	old := otel.GetTracerProvider()
	otel.SetTracerProvider(rec)
	t.Cleanup(func() { otel.SetTracerProvider(old) })
	var tracer tracing.Tracer
	out, _ := chain(t, &tracer, http.Header{"Traceparent": {w3cParent + "-01"}})
	if got := out.Get("Traceparent"); got != w3cParent+"-01" || len(rec.spans) != 0 {
		t.Errorf("traceparent = %q and %d spans, want what came in and none", got, len(rec.spans))
	}
	if err := tracer.Publisher(&published{}).Publish(t.Context(), "orders"); err != nil {
		t.Errorf("Publish() = %v, want nil", err)
	}
}
