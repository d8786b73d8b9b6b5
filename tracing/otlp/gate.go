package otlp

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	logEvery = time.Minute // how often failed exports are told of
	maxError = 1024        // bytes of an error that are logged; the exporters put the collector's answer there
)

// Stats counts the sampled spans that have ended.
type Stats struct {
	Exported int // the exporter has delivered them
	Failed   int // the exporter could not
	Dropped  int // the queue was full, or Shutdown was over
	Queued   int // they wait, or are on their way
}

// A gate lets no more spans into the SDK's queue than it holds, so that the queue,
// which does not tell, never drops one itself: what is dropped is counted here.
type gate struct {
	next sdktrace.SpanProcessor
	room int

	mu     sync.Mutex
	stats  Stats // guarded by mu
	closed bool  // guarded by mu
	over   bool  // guarded by mu; what is still on its way has been given up
}

// OnStart implements [sdktrace.SpanProcessor].
func (g *gate) OnStart(ctx context.Context, s sdktrace.ReadWriteSpan) { g.next.OnStart(ctx, s) }

// OnEnd implements [sdktrace.SpanProcessor].
func (g *gate) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() && g.admit() {
		g.next.OnEnd(s)
	}
}

func (g *gate) admit() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.stats.Queued >= g.room {
		g.stats.Dropped++
		return false
	}
	g.stats.Queued++
	return true
}

// settle counts n spans that have left the queue.
func (g *gate) settle(n int, err error) (total Stats) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return g.stats
	}
	g.stats.Queued -= n
	if err != nil {
		g.stats.Failed += n
	} else {
		g.stats.Exported += n
	}
	return g.stats
}

// close admits nothing any more.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// abandon counts as dropped what has not left the queue, and returns how much.
func (g *gate) abandon() (lost int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lost = g.stats.Queued
	g.stats.Queued, g.stats.Dropped, g.over = 0, g.stats.Dropped+lost, true
	return lost
}

func (g *gate) report() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}

// Shutdown implements [sdktrace.SpanProcessor].
func (g *gate) Shutdown(ctx context.Context) error { return g.next.Shutdown(ctx) }

// ForceFlush implements [sdktrace.SpanProcessor].
func (g *gate) ForceFlush(ctx context.Context) error { return g.next.ForceFlush(ctx) }

// An exporter counts what the one below it does. The SDK calls it from one
// goroutine at a time.
type exporter struct {
	sdktrace.SpanExporter
	gate   *gate
	living context.Context //nolint:containedctx // ends an export when Shutdown gives up
	log    *slog.Logger
	told   time.Time // when a failure was last logged
}

// ExportSpans implements [sdktrace.SpanExporter]. It keeps its errors from the SDK,
// which would print each of them.
func (x *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.living, cancel)()
	err := x.SpanExporter.ExportSpans(ctx, spans)
	total := x.gate.settle(len(spans), err)
	if err != nil && (x.told.IsZero() || time.Since(x.told) >= logEvery) {
		x.told = time.Now()
		text := err.Error()
		x.log.LogAttrs(ctx, slog.LevelWarn, "spans could not be exported",
			slog.String("err", strings.ToValidUTF8(text[:min(len(text), maxError)], "?")), slog.Int("failed", total.Failed), slog.Int("dropped", total.Dropped))
	}
	return nil
}
