package tracing

import (
	"context"
	"encoding/hex"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// LogHandler returns a handler that adds trace_id, span_id and trace_flags to
// each record whose context belongs to a trace, and passes it to next. They
// stand at the top level, as the OpenTelemetry specification for logs without
// OTLP wants it, also for loggers made by WithGroup. Only the methods of
// [slog.Logger] that take a context know the trace: InfoContext, not Info.
//
// The result is as safe for concurrent use as next. Wrapping twice adds the
// fields once.
func LogHandler(next slog.Handler) slog.Handler {
	if h, ok := next.(*logHandler); ok {
		return h
	}
	return &logHandler{grouped: next, base: next}
}

// A logHandler keeps two handlers, because nothing can be added at the top level
// of a handler once it is in a group: grouped has all that WithAttrs and
// WithGroup were told, base only what came before the first group.
type logHandler struct {
	grouped, base slog.Handler
	groups        []group
}

// A group is one WithGroup with the WithAttrs that followed it.
type group struct {
	name  string
	attrs []slog.Attr
}

// Enabled implements [slog.Handler].
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.grouped.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return h.grouped.Handle(ctx, r)
	}
	out := r.Clone()
	if len(h.groups) > 0 {
		out = slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		out.AddAttrs(h.nest(r)...)
	}
	attrs := traceAttrs(sc)
	out.AddAttrs(attrs[:]...)
	return h.base.Handle(ctx, out)
}

// nest returns the attributes of r inside the groups of h.
func (h *logHandler) nest(r slog.Record) []slog.Attr {
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for _, g := range slices.Backward(h.groups) {
		attrs = []slog.Attr{{Key: g.name, Value: slog.GroupValue(slices.Concat(g.attrs, attrs)...)}}
	}
	return attrs
}

// traceAttrs cuts all three values out of one string, to allocate once.
func traceAttrs(sc trace.SpanContext) [3]slog.Attr {
	traceID, spanID, flags := sc.TraceID(), sc.SpanID(), [1]byte{byte(sc.TraceFlags())}
	var b [50]byte
	hex.Encode(b[:32], traceID[:])
	hex.Encode(b[32:48], spanID[:])
	hex.Encode(b[48:], flags[:])
	s := string(b[:])
	return [...]slog.Attr{slog.String("trace_id", s[:32]), slog.String("span_id", s[32:48]), slog.String("trace_flags", s[48:])}
}

// WithAttrs implements [slog.Handler].
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	out := &logHandler{grouped: h.grouped.WithAttrs(attrs), base: h.base, groups: slices.Clone(h.groups)}
	if n := len(out.groups); n > 0 {
		last := &out.groups[n-1]
		last.attrs = slices.Concat(last.attrs, attrs)
	} else {
		out.base = out.grouped
	}
	return out
}

// WithGroup implements [slog.Handler].
func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	groups := append(slices.Clone(h.groups), group{name: name})
	return &logHandler{grouped: h.grouped.WithGroup(name), base: h.base, groups: groups}
}
