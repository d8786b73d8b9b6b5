package tracing_test

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// A recorder is a provider that keeps its spans. Like an SDK's default it
// records roots and otherwise does as the parent did.
type recorder struct {
	embedded.TracerProvider
	neverRoots bool                                    // roots are not sampled
	state      func(trace.TraceState) trace.TraceState // what a sampler does to the state
	ids        atomic.Uint64
	mu         sync.Mutex
	spans      []*span
}

func (rec *recorder) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return recordingTracer{rec: rec}
}

type recordingTracer struct {
	embedded.Tracer
	rec *recorder
}

func (t recordingTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	rec := t.rec
	cfg := trace.NewSpanStartConfig(opts...)
	parent := trace.SpanContextFromContext(ctx)
	if cfg.NewRoot() {
		parent = trace.SpanContext{}
	}
	next := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceFlags: parent.TraceFlags(), TraceState: parent.TraceState()}
	if !parent.IsValid() {
		binary.BigEndian.PutUint64(next.TraceID[8:], rec.ids.Add(1))
		next.TraceFlags = trace.FlagsRandom.WithSampled(!rec.neverRoots)
	}
	if rec.state != nil {
		next.TraceState = rec.state(next.TraceState)
	}
	binary.BigEndian.PutUint64(next.SpanID[:], rec.ids.Add(1))
	s := &span{rec: rec, sc: trace.NewSpanContext(next), parent: parent, name: name, kind: cfg.SpanKind(), links: cfg.Links(), attrs: attrMap(cfg.Attributes())}
	if s.sc.IsSampled() {
		rec.mu.Lock()
		rec.spans = append(rec.spans, s)
		rec.mu.Unlock()
	}
	return trace.ContextWithSpan(ctx, s), s
}

// only returns the one span that was recorded, which must have ended once.
func (rec *recorder) only(t testing.TB) *span {
	t.Helper()
	spans := rec.all(t)
	if len(spans) != 1 {
		t.Fatalf("%d spans were recorded, want 1", len(spans))
	}
	return spans[0]
}

// all returns the spans in the order in which they started; each must have ended
// once.
func (rec *recorder) all(t testing.TB) []*span {
	t.Helper()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, s := range rec.spans {
		if s.ends != 1 {
			t.Errorf("span %q ended %d times, want 1", s.name, s.ends)
		}
	}
	return rec.spans
}

type span struct {
	embedded.Span
	rec         *recorder
	sc, parent  trace.SpanContext
	name        string
	kind        trace.SpanKind
	links       []trace.Link
	attrs       map[attribute.Key]any
	events      []string
	eventAttrs  map[attribute.Key]any
	status      codes.Code
	description string
	ends        int
}

func (s *span) SpanContext() trace.SpanContext          { return s.sc }
func (s *span) IsRecording() bool                       { return s.sc.IsSampled() }
func (s *span) TracerProvider() trace.TracerProvider    { return s.rec }
func (s *span) AddLink(l trace.Link)                    { s.change(func() { s.links = append(s.links, l) }) }
func (s *span) RecordError(error, ...trace.EventOption) {}
func (s *span) SetName(name string)                     { s.change(func() { s.name = name }) }

// End does as the SDK's when it is deferred by itself during a panic.
func (s *span) End(...trace.SpanEndOption) {
	s.change(func() { s.ends++ })
	if v := recover(); v != nil {
		s.change(func() { s.events = append(s.events, "recovered") })
		panic(v)
	}
}

func (s *span) SetStatus(code codes.Code, description string) {
	s.change(func() { s.status, s.description = code, description })
}

func (s *span) AddEvent(name string, opts ...trace.EventOption) {
	cfg := trace.NewEventConfig(opts...)
	s.change(func() { s.events, s.eventAttrs = append(s.events, name), attrMap(cfg.Attributes()) })
}

func (s *span) SetAttributes(attrs ...attribute.KeyValue) {
	s.change(func() {
		for key, value := range attrMap(attrs) {
			s.attrs[key] = value
		}
	})
}

// change counts a change after the end as another end, so that tests see it.
func (s *span) change(f func()) {
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	if s.ends > 0 {
		s.ends++
	}
	f()
}

func attrMap(attrs []attribute.KeyValue) map[attribute.Key]any {
	m := make(map[attribute.Key]any, len(attrs))
	for _, a := range attrs {
		m[a.Key] = a.Value.AsInterface()
	}
	return m
}
