package tracing

import (
	"context"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/messaging"
)

const (
	// maxLinks bounds the links of a span; it is also what the SDK keeps.
	maxLinks = 128
	// maxDestination bounds what a topic adds to a span's name.
	maxDestination = 128
)

type (
	publisherKey struct{} // holds the first of the messages whose publish has its span
	consumerKey  struct{} // holds the delivery that has its span
)

// first returns a pointer to the first of msgs, by which they are known: other
// messages may be published while these are.
func first(msgs []messaging.Message) *messaging.Message {
	if len(msgs) == 0 {
		return nil
	}
	return &msgs[0]
}

// Publisher publishes through next, within a span of kind producer, and writes
// the trace context into the headers of each message: traceparent and
// tracestate, and baggage on the topics of [Config].BaggageTopics. The caller's
// messages are not changed.
//
// A message that comes with a legal traceparent keeps it, and the span links to
// it: so the trace of a message that waited in an outbox is that of the writer,
// not of the relay. A context that does not fit into
// [messaging.MaxHeaderBytes] is left out, so that tracing never makes a message
// too large.
func (t *Tracer) Publisher(next messaging.Publisher) messaging.Publisher {
	return &publisher{tracer: t, next: next}
}

type publisher struct {
	tracer *Tracer
	next   messaging.Publisher
}

// Publish implements [messaging.Publisher].
func (p *publisher) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	t := p.tracer
	if seen, ok := ctx.Value(publisherKey{}).(*messaging.Message); ok && seen == first(msgs) {
		return p.next.Publish(ctx, topic, t.stamp(ctx, topic, msgs)...)
	}
	tracer := t.tracer()
	if tracer == nil {
		ctx = t.minted(ctx)
		return p.next.Publish(ctx, topic, t.stamp(ctx, topic, msgs)...)
	}
	ctx, span := tracer.Start(ctx, "publish "+text(topic, maxDestination), t.produce,
		trace.WithAttributes(t.publishAttributes(topic, msgs)...), trace.WithLinks(createdBy(msgs)...))
	completed := false
	defer func() {
		if !completed {
			recordPanic(span)
		}
		span.End()
	}()
	stamped := t.stamp(ctx, topic, msgs)
	err := p.next.Publish(context.WithValue(ctx, publisherKey{}, first(stamped)), topic, stamped...)
	completed = true
	recordError(ctx, span, err)
	return err
}

// createdBy returns links to the contexts in which msgs were made.
func createdBy(msgs []messaging.Message) []trace.Link {
	var links []trace.Link
	for i := range msgs {
		if in, ok := messageTrace(&msgs[i]); ok && len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: in.span})
		}
	}
	return links
}

// messageTrace returns the context in which m was made, if its headers say so.
func messageTrace(m *messaging.Message) (inbound, bool) {
	if m.Headers == nil {
		return inbound{}, false
	}
	return readTrace(oneLine(m.Headers[nameParent]), oneLine(m.Headers[nameState]))
}

// contextHeaders are the headers that this package keeps in a message.
type contextHeaders struct{ parent, state, baggage string }

// stamp returns msgs with the headers that ctx asks for, in copies of what
// differs.
func (t *Tracer) stamp(ctx context.Context, topic string, msgs []messaging.Message) []messaging.Message {
	var own contextHeaders
	own.parent, own.state = traceHeaders(ctx)
	allowed := slices.Contains(t.cfg.BaggageTopics, topic)
	if allowed {
		own.baggage = formatBaggage(ctx)
	}
	// The slice and each map are copied at the first difference only: a relay
	// publishes messages that have their context already.
	stamped, copied := msgs, false
	for i := range msgs {
		h, want := msgs[i].Headers, own
		has := contextHeaders{h[nameParent], h[nameState], h[nameBaggage]}
		if _, created := messageTrace(&msgs[i]); created {
			want = has
			if !allowed {
				want.baggage = ""
			}
		}
		if want == has {
			continue
		}
		if !copied {
			stamped, copied = slices.Clone(msgs), true
		}
		stamped[i].Headers = want.in(&msgs[i])
	}
	return stamped
}

// in returns the headers of m with c in place of what they hold, as far as there
// is room.
func (c contextHeaders) in(m *messaging.Message) map[string]string {
	h := maps.Clone(m.Headers)
	if h == nil {
		h = make(map[string]string, 3)
	}
	delete(h, nameParent)
	delete(h, nameState)
	delete(h, nameBaggage)
	room := messaging.MaxHeaderBytes -
		len(m.ID) - len(m.Type) - len(m.Source) - len(m.Subject) - len(m.Key) - len(m.ContentType)
	for name, value := range h {
		room -= len(name) + len(value)
	}
	for _, add := range [...]struct{ name, value string }{{nameParent, c.parent}, {nameState, c.state}, {nameBaggage, c.baggage}} {
		if add.value == "" {
			continue
		}
		if room -= len(add.name) + len(add.value); room < 0 {
			break
		}
		h[add.name] = add.value
	}
	return h
}

// publishAttributes describes a publish. A batch has no single message id; the
// conventions ask for the number of messages instead.
func (t *Tracer) publishAttributes(topic string, msgs []messaging.Message) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 5),
		keySystem.String(t.cfg.MessagingSystem),
		keyDestination.String(text(topic, maxText)),
		keyOperationName.String("publish"),
		keyOperationType.String(typeSend))
	if len(msgs) == 1 {
		return append(attrs, keyMessageID.String(text(msgs[0].ID, maxText)))
	}
	return append(attrs, keyBatchCount.Int(len(msgs)))
}

// Handler handles each delivery within a span of kind consumer, which starts a
// trace and links to the context that the message was made in, or, with
// [Config].ParentMessages, continues its trace. Without a provider next sees the
// context that the message carries, so that its trace goes on. Baggage of the
// message is in the context of next. Handler is a [messaging.Middleware]; put it
// outermost.
//
// An error of next makes the span an error, unless ctx was cancelled. When next
// panics, the span is an error with the stack in an event, and the panic goes on.
func (t *Tracer) Handler(next messaging.Handler) messaging.Handler {
	return func(ctx context.Context, d *messaging.Delivery) error {
		// Another delivery that is handled within this one has a span of its own.
		if seen, ok := ctx.Value(consumerKey{}).(*messaging.Delivery); ok && seen == d {
			return next(ctx, d)
		}
		in, ok := messageTrace(&d.Message)
		ctx = withBaggage(ctx, oneLine(d.Headers[nameBaggage]))
		tracer := t.tracer()
		if ok && (tracer == nil || t.cfg.ParentMessages) {
			ctx = in.context(ctx)
		}
		if tracer == nil {
			return next(t.minted(ctx), d)
		}
		opts := append(make([]trace.SpanStartOption, 0, 4), t.consume, trace.WithAttributes(t.processAttributes(d)...))
		// Not both parent and link: Jaeger keeps one reference to a span, the link.
		if !t.cfg.ParentMessages {
			opts = append(opts, trace.WithNewRoot())
			if ok {
				opts = append(opts, trace.WithLinks(trace.Link{SpanContext: in.span}))
			}
		}
		ctx, span := tracer.Start(ctx, "process "+text(d.Topic, maxDestination), opts...)
		completed := false
		defer func() {
			if !completed {
				recordPanic(span)
			}
			span.End()
		}()
		err := next(context.WithValue(ctx, consumerKey{}, d), d)
		completed = true
		recordError(ctx, span, err)
		return err
	}
}

// Batch handles deliveries together, such as one insert for many, within one span
// of kind consumer, which links to the contexts that their messages were made in:
// to 128 of them, which is what an SDK keeps; messaging.batch.message_count tells
// how many there were. They should be of one topic and group, those of the first.
// The span belongs to the trace of ctx, or starts one if there is none: many
// contexts cannot be one parent, whatever [Config].ParentMessages says. For the
// same reason handle sees none of them where there is no provider.
//
// Batch returns what handle does, whose error and panic are noted as [Tracer.Handler]
// does. It makes no span for no deliveries.
func (t *Tracer) Batch(ctx context.Context, deliveries []*messaging.Delivery, handle func(context.Context) error) error {
	tracer := t.tracer()
	if tracer == nil || len(deliveries) == 0 {
		return handle(t.minted(ctx))
	}
	var links []trace.Link
	for _, d := range deliveries {
		if in, ok := messageTrace(&d.Message); ok && len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: in.span})
		}
	}
	first := deliveries[0]
	ctx, span := tracer.Start(ctx, "process "+text(first.Topic, maxDestination), t.consume,
		trace.WithLinks(links...), trace.WithAttributes(
			keySystem.String(t.cfg.MessagingSystem),
			keyDestination.String(text(first.Topic, maxText)),
			keyConsumerGroup.String(text(first.Group, maxText)),
			keyOperationName.String("process"),
			keyOperationType.String(typeProcess),
			keyBatchCount.Int(len(deliveries))))
	completed := false
	defer func() {
		if !completed {
			recordPanic(span)
		}
		span.End()
	}()
	err := handle(ctx)
	completed = true
	recordError(ctx, span, err)
	return err
}

// processAttributes describes the handling of d. The number of the attempt is not
// among them: the conventions have no name for it that fits every broker.
func (t *Tracer) processAttributes(d *messaging.Delivery) []attribute.KeyValue {
	return []attribute.KeyValue{
		keySystem.String(t.cfg.MessagingSystem),
		keyDestination.String(text(d.Topic, maxText)),
		keyConsumerGroup.String(text(d.Group, maxText)),
		keyOperationName.String("process"),
		keyOperationType.String(typeProcess),
		keyMessageID.String(text(d.ID, maxText)),
	}
}
