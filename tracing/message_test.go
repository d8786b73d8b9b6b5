package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/tracing"
)

// published keeps what was published last.
type published struct {
	msgs []messaging.Message
	err  error
}

func (p *published) Publish(_ context.Context, _ string, msgs ...messaging.Message) error {
	p.msgs = msgs
	return p.err
}

func (p *published) last() messaging.Message { return p.msgs[len(p.msgs)-1] }

func delivery(headers map[string]string) *messaging.Delivery {
	return &messaging.Delivery{Message: messaging.Message{ID: "m1", Headers: headers}, Topic: "orders", Group: "billing", Attempt: 1}
}

func withMember(ctx context.Context, t *testing.T, key, value string) context.Context {
	t.Helper()
	m, err := baggage.NewMemberRaw(key, value)
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return baggage.ContextWithBaggage(ctx, bag)
}

func TestPublishCarriesTheContextInHeadersOfCopies(t *testing.T) {
	rec, broker := &recorder{}, &published{}
	tracer := mustNew(t, tracing.Config{Provider: rec, MessagingSystem: "kafka"})
	msgs := []messaging.Message{{ID: "m1", Headers: map[string]string{"own": "1"}}}
	if err := tracer.Publisher(broker).Publish(t.Context(), "orders", msgs...); err != nil {
		t.Fatal(err)
	}
	s := rec.only(t)
	if got, want := broker.last().Headers, "00-"+s.sc.TraceID().String()+"-"+s.sc.SpanID().String()+"-03"; got["traceparent"] != want || got["own"] != "1" {
		t.Errorf("headers = %v, want own and traceparent %s", got, want)
	}
	if len(msgs[0].Headers) != 1 {
		t.Errorf("the caller's headers = %v, want them unchanged", msgs[0].Headers)
	}
	if s.name != "publish orders" || s.kind != trace.SpanKindProducer {
		t.Errorf("name, kind = %q, %v, want publish orders, producer", s.name, s.kind)
	}
	s.expect(t, map[attribute.Key]any{
		"messaging.system": "kafka", "messaging.destination.name": "orders", "messaging.operation.name": "publish",
		"messaging.operation.type": "send", "messaging.message.id": "m1", "messaging.batch.message_count": nil,
	})
}

func TestPublishOfABatchIsOneSpan(t *testing.T) {
	rec, broker := &recorder{}, &published{}
	if err := mustNew(t, tracing.Config{Provider: rec}).Publisher(broker).Publish(t.Context(), "orders", make([]messaging.Message, 3)...); err != nil {
		t.Fatal(err)
	}
	s := rec.only(t)
	s.expect(t, map[attribute.Key]any{"messaging.system": "parley", "messaging.batch.message_count": int64(3), "messaging.message.id": nil})
	for _, m := range broker.msgs {
		if !strings.Contains(m.Headers["traceparent"], s.sc.SpanID().String()) {
			t.Errorf("headers = %v, want the span of the batch", m.Headers)
		}
	}
}

func TestMessageOfAnOutboxKeepsTheContextOfItsWriter(t *testing.T) {
	rec, broker := &recorder{}, &published{}
	tracer := mustNew(t, tracing.Config{Provider: rec, BaggageTopics: []string{"orders"}})
	headers := map[string]string{"traceparent": w3cParent + "-01", "tracestate": "a=1", "baggage": "k=v"}
	msgs := []messaging.Message{{ID: "1", Headers: headers}, {ID: "2"}}
	if err := tracer.Publisher(broker).Publish(t.Context(), "orders", msgs...); err != nil {
		t.Fatal(err)
	}
	if got := broker.msgs[0].Headers; !maps.Equal(got, headers) {
		t.Errorf("headers = %v, want those of the writer", got)
	}
	if links := rec.only(t).links; len(links) != 1 || links[0].SpanContext.TraceID().String() != w3cTrace {
		t.Errorf("links = %v, want one to the writer", links)
	}
	if broker.msgs[1].Headers["traceparent"] == "" {
		t.Error("the other message has no context")
	}
}

func TestLinksOfABatchAreCapped(t *testing.T) {
	rec := &recorder{}
	msgs := make([]messaging.Message, 200)
	for i := range msgs {
		msgs[i].Headers = map[string]string{"traceparent": w3cParent + "-01"}
	}
	if err := mustNew(t, tracing.Config{Provider: rec}).Publisher(&published{}).Publish(t.Context(), "orders", msgs...); err != nil {
		t.Fatal(err)
	}
	s := rec.only(t)
	if len(s.links) != 128 {
		t.Errorf("%d links, want 128", len(s.links))
	}
	s.expect(t, map[attribute.Key]any{"messaging.batch.message_count": int64(200)})
}

func TestBaggageGoesToListedTopicsOnly(t *testing.T) {
	for _, cfg := range []tracing.Config{{Provider: &recorder{}}, {}} {
		cfg.BaggageTopics = []string{"orders"}
		broker := &published{}
		p := mustNew(t, cfg).Publisher(broker)
		ctx := withMember(t.Context(), t, "k", "v")
		for topic, want := range map[string]string{"orders": "k=v", "elsewhere": ""} {
			for _, headers := range []map[string]string{nil, {"baggage": "stale=1"}, {"traceparent": "malformed", "tracestate": "a=1"}} {
				if err := p.Publish(ctx, topic, messaging.Message{ID: "1", Headers: headers}); err != nil {
					t.Fatal(err)
				}
				got := broker.last().Headers
				if got["baggage"] != want || got["traceparent"] == "malformed" || got["tracestate"] != "" {
					t.Errorf("headers on %s = %v, want baggage %q and nothing stale", topic, got, want)
				}
			}
		}
		forwarded := map[string]string{"traceparent": w3cParent + "-01", "baggage": "k=v"}
		if err := p.Publish(t.Context(), "elsewhere", messaging.Message{ID: "1", Headers: forwarded}); err != nil {
			t.Fatal(err)
		}
		if got := broker.last().Headers; got["baggage"] != "" || got["traceparent"] != w3cParent+"-01" {
			t.Errorf("headers of a forwarded message = %v, want its trace without its baggage", got)
		}
	}
}

func TestTracingNeverMakesAMessageTooLarge(t *testing.T) {
	ctx := withMember(t.Context(), t, "big", strings.Repeat("v", 4000))
	for spare, want := range map[int][2]bool{0: {false, false}, 65: {false, false}, 66: {true, false}, 4000: {true, false}, 5000: {true, true}} {
		broker := &published{}
		p := mustNew(t, tracing.Config{Provider: &recorder{}, BaggageTopics: []string{"orders"}}).Publisher(broker)
		m := messaging.Message{ID: "1", Headers: map[string]string{"x": strings.Repeat("v", messaging.MaxHeaderBytes-2-spare)}}
		if err := p.Publish(ctx, "orders", m); err != nil {
			t.Fatal(err)
		}
		h := broker.last().Headers
		if got := [2]bool{h["traceparent"] != "", h["baggage"] != ""}; got != want {
			t.Errorf("with %d bytes to spare: traceparent, baggage = %v, want %v", spare, got, want)
		}
		if err := messaging.Check("orders", 1, broker.msgs); err != nil {
			t.Errorf("Check() = %v, want nil", err)
		}
	}
}

func TestPublishErrorPassesThroughAndIsOnTheSpan(t *testing.T) {
	for err, want := range map[error]string{
		messaging.ErrUnroutable: "unroutable", messaging.ErrClosed: "closed", messaging.ErrInvalid: "invalid", messaging.ErrTooLarge: "too_large",
		messaging.ErrNotConfirmed: "not_confirmed", messaging.ErrRefused: "refused", messaging.ErrTopology: "topology", messaging.ErrDenied: "denied",
		messaging.ErrLost: "lost", messaging.ErrDrain: "drain", messaging.ErrTimeout: "timeout", messaging.Reason("new"): "_OTHER",
		&messaging.BatchError{Errs: []error{nil, messaging.ErrRefused}}: "refused",
	} {
		rec := &recorder{}
		if got := mustNew(t, tracing.Config{Provider: rec}).Publisher(&published{err: err}).Publish(t.Context(), "orders", messaging.Message{}); !errors.Is(got, err) {
			t.Errorf("Publish() = %v, want %v", got, err)
		}
		rec.only(t).expect(t, map[attribute.Key]any{"error.type": want})
	}
}

func TestWrappingAPublisherOrHandlerTwiceMakesOneSpan(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	if err := tracer.Publisher(tracer.Publisher(&published{})).Publish(t.Context(), "orders", messaging.Message{}); err != nil {
		t.Fatal(err)
	}
	rec.only(t)
	rec.spans = nil
	h := tracer.Handler(tracer.Handler(func(context.Context, *messaging.Delivery) error { return nil }))
	if err := h(t.Context(), delivery(nil)); err != nil {
		t.Fatal(err)
	}
	rec.only(t)
}

// publish is a messaging.Publisher.
type publish func(ctx context.Context, topic string, msgs ...messaging.Message) error

func (f publish) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	return f(ctx, topic, msgs...)
}

func TestAnotherPublishBelowAPublisherHasASpanAndNoBaggage(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec, BaggageTopics: []string{"orders"}})
	var audited []messaging.Message
	audit := tracer.Publisher(publish(func(_ context.Context, _ string, msgs ...messaging.Message) error {
		audited = append(audited, msgs...)
		return nil
	}))
	orders := tracer.Publisher(publish(func(ctx context.Context, _ string, msgs ...messaging.Message) error {
		other := messaging.Message{ID: "2", Headers: map[string]string{"baggage": "customer=42"}}
		return errors.Join(audit.Publish(ctx, "audit", other), audit.Publish(ctx, "audit", msgs...))
	}))
	ctx := withMember(t.Context(), t, "customer", "42")
	if err := orders.Publish(ctx, "orders", messaging.Message{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	spans := rec.all(t)
	if len(spans) != 2 || spans[1].name != "publish audit" || spans[1].parent.SpanID() != spans[0].sc.SpanID() {
		t.Fatalf("%d spans were recorded, want that of the publish and below it that of the other", len(spans))
	}
	for i, m := range audited {
		if m.Headers["baggage"] != "" {
			t.Errorf("baggage of message %s = %q, want none on a topic that is not listed", m.ID, m.Headers["baggage"])
		}
		if want := spans[1-i].sc.SpanID().String(); !strings.Contains(m.Headers["traceparent"], want) {
			t.Errorf("traceparent of message %s = %q, want the span %s", m.ID, m.Headers["traceparent"], want)
		}
	}
}

func TestHandlerStartsATraceAndLinksToThePublisher(t *testing.T) {
	rec := &recorder{}
	var handler messaging.Middleware = mustNew(t, tracing.Config{Provider: rec}).Handler
	contexts := make(chan context.Context, 1)
	h := handler(func(ctx context.Context, _ *messaging.Delivery) error { contexts <- ctx; return nil })
	if err := h(t.Context(), delivery(map[string]string{"traceparent": w3cParent + "-01", "baggage": "k=v"})); err != nil {
		t.Fatal(err)
	}
	s := rec.only(t)
	if s.name != "process orders" || s.kind != trace.SpanKindConsumer || s.parent.IsValid() || len(s.links) != 1 || s.links[0].SpanContext.TraceID().String() != w3cTrace {
		t.Errorf("name, kind, parent, links = %q, %v, %v, %v, want process orders, consumer, none, the publisher", s.name, s.kind, s.parent, s.links)
	}
	s.expect(t, map[attribute.Key]any{
		"messaging.system": "parley", "messaging.destination.name": "orders", "messaging.consumer.group.name": "billing",
		"messaging.operation.name": "process", "messaging.operation.type": "process", "messaging.message.id": "m1", "error.type": nil,
	})
	seen := <-contexts
	if got := baggage.FromContext(seen).String(); got != "k=v" || trace.SpanContextFromContext(seen).SpanID() != s.sc.SpanID() {
		t.Errorf("the handler sees baggage %q, want k=v and the span", got)
	}
	rec.spans = nil
	if err := h(t.Context(), delivery(nil)); err != nil {
		t.Fatal(err)
	}
	if links := rec.only(t).links; len(links) != 0 {
		t.Errorf("links = %v for a message without a context, want none", links)
	}
}

func TestHandlerContinuesTheTraceByChoice(t *testing.T) {
	rec := &recorder{}
	h := mustNew(t, tracing.Config{Provider: rec, ParentMessages: true}).Handler(func(context.Context, *messaging.Delivery) error { return nil })
	if err := h(t.Context(), delivery(map[string]string{"traceparent": w3cParent + "-01"})); err != nil {
		t.Fatal(err)
	}
	if s := rec.only(t); s.sc.TraceID().String() != w3cTrace || s.parent.SpanID().String() != w3cSpan || len(s.links) != 0 {
		t.Errorf("trace, parent, links = %v, %v, %v, want the publisher's and no link", s.sc.TraceID(), s.parent.SpanID(), s.links)
	}
}

func TestABatchIsOneSpanThatLinksToEachMessage(t *testing.T) {
	for n, links := range map[int]int{1: 1, 10: 10, 200: 128} {
		rec := &recorder{}
		tracer := mustNew(t, tracing.Config{Provider: rec, ParentMessages: true})
		batch := make([]*messaging.Delivery, n)
		for i := range batch {
			batch[i] = delivery(map[string]string{"traceparent": fmt.Sprintf("00-%032x-%016x-01", i+1, i+1)})
		}
		handled := false
		err := tracer.Batch(t.Context(), batch, func(ctx context.Context) error {
			handled = trace.SpanContextFromContext(ctx).IsValid()
			return io.ErrUnexpectedEOF
		})
		s := rec.only(t)
		if !errors.Is(err, io.ErrUnexpectedEOF) || !handled || s.status != codes.Error {
			t.Errorf("Batch() = %v with status %v, handled in the span: %v, want the handler's error on the span", err, s.status, handled)
		}
		if s.name != "process orders" || s.kind != trace.SpanKindConsumer || len(s.links) != links || s.parent.IsValid() {
			t.Errorf("batch of %d: %q of kind %v with %d links and parent %v, want process orders, consumer, %d links, a root", n, s.name, s.kind, len(s.links), s.parent, links)
		}
		for i, l := range s.links {
			if want := fmt.Sprintf("%032x", i+1); l.SpanContext.TraceID().String() != want {
				t.Fatalf("link %d leads to %s, want %s", i, l.SpanContext.TraceID(), want)
			}
		}
		s.expect(t, map[attribute.Key]any{
			"messaging.batch.message_count": int64(n), "messaging.destination.name": "orders", "messaging.consumer.group.name": "billing",
			"messaging.operation.type": "process", "messaging.message.id": nil, "error.type": "unexpected_eof",
		})
	}
}

func TestABatchWithoutAProviderOrDeliveriesIsOnlyHandled(t *testing.T) {
	rec := &recorder{}
	for _, tt := range []struct {
		cfg   tracing.Config
		batch []*messaging.Delivery
	}{{tracing.Config{Provider: rec}, nil}, {tracing.Config{}, []*messaging.Delivery{delivery(nil)}}} {
		err := mustNew(t, tt.cfg).Batch(t.Context(), tt.batch, func(ctx context.Context) error {
			if trace.SpanContextFromContext(ctx).IsValid() {
				t.Error("the handler sees a trace, want none")
			}
			return io.EOF
		})
		if !errors.Is(err, io.EOF) {
			t.Errorf("Batch() = %v, want the handler's error", err)
		}
	}
	if n := len(rec.all(t)); n != 0 {
		t.Errorf("%d spans, want none", n)
	}
}

func TestHandlerErrorIsOnTheSpanUnlessTheConsumerStopped(t *testing.T) {
	fault := errors.New("no stock")
	for _, tt := range []struct {
		cause  error // with which the consumer ends the context, if it does
		status codes.Code
		kind   any
	}{
		{nil, codes.Error, "_OTHER"},
		{messaging.ErrTimeout, codes.Error, "timeout"},
		{messaging.ErrLost, codes.Unset, nil},
		{messaging.ErrDrain, codes.Unset, nil},
	} {
		rec := &recorder{}
		ctx, cancel := context.WithCancelCause(t.Context())
		h := mustNew(t, tracing.Config{Provider: rec}).Handler(func(context.Context, *messaging.Delivery) error {
			if tt.cause != nil {
				cancel(tt.cause)
			}
			return fault
		})
		if err := h(ctx, delivery(nil)); !errors.Is(err, fault) {
			t.Errorf("handler = %v, want its own error", err)
		}
		cancel(nil)
		s := rec.only(t)
		s.expect(t, map[attribute.Key]any{"error.type": tt.kind})
		if s.status != tt.status {
			t.Errorf("with cause %v: status = %v, want %v", tt.cause, s.status, tt.status)
		}
	}
}

func TestPanicInPublisherOrHandlerIsRecordedAndGoesOn(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	for _, call := range []func(){
		func() { _ = tracer.Publisher(panicking{}).Publish(t.Context(), "orders", messaging.Message{}) },
		func() {
			_ = tracer.Handler(func(context.Context, *messaging.Delivery) error { panic("boom") })(t.Context(), delivery(nil))
		},
		func() {
			_ = tracer.Batch(t.Context(), []*messaging.Delivery{delivery(nil)}, func(context.Context) error { panic("boom") })
		},
	} {
		rec.spans = nil
		func() {
			defer func() {
				if v := recover(); v != "boom" {
					t.Errorf("recover() = %v, want boom", v)
				}
			}()
			call()
		}()
		s := rec.only(t)
		s.expect(t, map[attribute.Key]any{"error.type": "panic"})
		if len(s.events) != 1 {
			t.Errorf("events = %v, want one exception", s.events)
		}
	}
}

func TestAPanicIsAnErrorThoughTheCallerHasGoneAndSoIsGoexit(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, end := range []func(){func() { panic("boom") }, runtime.Goexit} {
		rec := &recorder{}
		tracer := mustNew(t, tracing.Config{Provider: rec})
		for name, call := range map[string]func(){
			"Publisher": func() {
				_ = tracer.Publisher(publish(func(context.Context, string, ...messaging.Message) error { end(); return nil })).Publish(canceled, "orders", messaging.Message{})
			},
			"Handler": func() {
				_ = tracer.Handler(func(context.Context, *messaging.Delivery) error { end(); return nil })(canceled, delivery(nil))
			},
			"Batch": func() {
				_ = tracer.Batch(canceled, []*messaging.Delivery{delivery(nil)}, func(context.Context) error { end(); return nil })
			},
			"Transport": func() {
				_, _ = tracer.Transport(roundTrip(func(*http.Request) (*http.Response, error) { end(); return nil, nil })).RoundTrip(request(canceled, "http://h/"))
			},
			"Middleware": func() {
				r := httptest.NewRequestWithContext(canceled, http.MethodGet, "/", nil)
				tracer.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { end() })).ServeHTTP(httptest.NewRecorder(), r)
			},
		} {
			rec.spans = nil
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }()
				call()
				t.Errorf("%s returned, want it to go on with what ended it", name)
			}()
			<-done
			s := rec.only(t)
			if s.status != codes.Error || s.attrs["error.type"] != "panic" || len(s.events) != 1 {
				t.Errorf("%s: status, error.type, events = %v, %v, %v, want an error with an exception", name, s.status, s.attrs["error.type"], s.events)
			}
		}
	}
}

type panicking struct{}

func (panicking) Publish(context.Context, string, ...messaging.Message) error { panic("boom") }

func TestWithoutAProviderOneTraceGoesFromTheBrowserToTheLastConsumer(t *testing.T) {
	for name, provider := range passives() {
		t.Run(name, func(t *testing.T) {
			// ParentMessages matters only for a provider that is not known to do
			// nothing.
			tracer := mustNew(t, tracing.Config{Provider: provider, ParentMessages: true})
			_, ctx := chain(t, tracer, map[string][]string{"Traceparent": {w3cParent + "-01"}, "Tracestate": {"x@=1"}})
			last := hop(hop(hop(ctx, t, tracer), t, tracer), t, tracer)
			if got := trace.SpanContextFromContext(last).TraceID().String(); got != w3cTrace {
				t.Errorf("the last consumer sees trace %s, want %s", got, w3cTrace)
			}
		})
	}
}

// hop publishes in ctx and returns the context in which the message is handled.
func hop(ctx context.Context, t *testing.T, tracer *tracing.Tracer) context.Context {
	t.Helper()
	broker := &published{}
	if err := tracer.Publisher(broker).Publish(ctx, "orders", messaging.Message{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	contexts := make(chan context.Context, 1)
	h := tracer.Handler(func(ctx context.Context, _ *messaging.Delivery) error { contexts <- ctx; return nil })
	if err := h(t.Context(), &messaging.Delivery{Message: broker.last(), Topic: "orders"}); err != nil {
		t.Fatal(err)
	}
	return tracing.Detach(<-contexts)
}
