package integration

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/tracing"
	"github.com/parley-go/parley/tracing/otlp"
)

// A message is handled in a trace of its own by default. What is left of the hop
// in Jaeger is a reference to the span that published it.
func TestAMessageLinksToItsPublisherInJaeger(t *testing.T) {
	at := strings.Split(need.Address(t, services.Jaeger()), ",")
	sdk, err := otlp.Setup(t.Context(), otlp.Config{Service: "linked", Endpoint: "http://" + at[1], Local: true})
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := tracing.New(tracing.Config{Provider: sdk.Provider()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	handled := make(chan trace.SpanContext, 1)
	c.Handle(messaging.Subscription{Topic: "orders", Group: "billing"}, func(ctx context.Context, _ *messaging.Delivery) error {
		handled <- trace.SpanContextFromContext(ctx)
		return nil
	}, tracer.Handler)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-c.Ready()
	if err := tracer.Publisher(b).Publish(t.Context(), "orders", messaging.NewMessage("t", nil)); err != nil {
		t.Fatal(err)
	}
	consumed := <-handled
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if err := sdk.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown() = %v, want nil", err)
	}

	refs := references(t, "http://"+at[0]+"/api/traces/"+consumed.TraceID().String())
	if len(refs) != 1 || refs[0].TraceID == consumed.TraceID().String() || refs[0].RefType != "FOLLOWS_FROM" {
		t.Fatalf("the handling refers to %+v, want one span of another trace that it follows from", refs)
	}
	if names := operations(t, "http://"+at[0]+"/api/traces/"+refs[0].TraceID); !slices.Contains(names, "publish orders") {
		t.Errorf("the trace that it follows from has %q, want publish orders", names)
	}
}

type reference struct{ RefType, TraceID, SpanID string }

// A jaegerSpan is one of the answer to a query for a trace.
type jaegerSpan struct {
	OperationName string
	References    []reference
}

func references(t *testing.T, url string) (refs []reference) {
	t.Helper()
	for _, s := range jaegerSpans(t, url) {
		refs = append(refs, s.References...)
	}
	return refs
}

func operations(t *testing.T, url string) (names []string) {
	t.Helper()
	for _, s := range jaegerSpans(t, url) {
		names = append(names, s.OperationName)
	}
	return names
}

// jaegerSpans asks until the trace is there.
func jaegerSpans(t *testing.T, url string) []jaegerSpan {
	t.Helper()
	tick, limit := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var answer struct {
			Data []struct{ Spans []jaegerSpan }
		}
		if err == nil && json.Unmarshal(body, &answer) == nil && len(answer.Data) == 1 && len(answer.Data[0].Spans) > 0 {
			return answer.Data[0].Spans
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no trace at %s within 20s: %s", url, body)
		}
	}
}
