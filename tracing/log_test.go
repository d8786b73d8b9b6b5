package tracing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/parley-go/parley/tracing"
)

func inTrace(ctx context.Context) context.Context {
	return tracing.Propagator{}.Extract(ctx, propagation.MapCarrier{"traceparent": w3cParent + "-01"})
}

func TestTraceIDsStayAtTheTopLevelOfARecord(t *testing.T) {
	const ids = `"trace_id":"` + w3cTrace + `","span_id":"` + w3cSpan + `","trace_flags":"01"`
	for _, tt := range []struct {
		does string
		log  func(context.Context, *slog.Logger)
		want string
	}{
		{"plain", func(ctx context.Context, l *slog.Logger) { l.InfoContext(ctx, "m", "a", 1) }, `"a":1,` + ids},
		{"With", func(ctx context.Context, l *slog.Logger) { l.With("w", 0).InfoContext(ctx, "m", "a", 1) }, `"w":0,"a":1,` + ids},
		{"WithGroup", func(ctx context.Context, l *slog.Logger) { l.WithGroup("g").InfoContext(ctx, "m", "a", 1) }, `"g":{"a":1},` + ids},
		{"With and WithGroup by turns", func(ctx context.Context, l *slog.Logger) {
			l.With("w", 0).WithGroup("g").With("x", 1).With("y", 2).WithGroup("h").With("z", 3).InfoContext(ctx, "m", "a", 4)
		}, `"w":0,"g":{"x":1,"y":2,"h":{"z":3,"a":4}},` + ids},
		{"an empty group", func(ctx context.Context, l *slog.Logger) { l.WithGroup("g").InfoContext(ctx, "m") }, ids},
		{"a group without a name", func(ctx context.Context, l *slog.Logger) { l.WithGroup("").With().InfoContext(ctx, "m", "a", 1) }, `"a":1,` + ids},
		{"more attributes than a record holds inline", func(ctx context.Context, l *slog.Logger) {
			l.InfoContext(ctx, "m", "a", 1, "b", 2, "c", 3, "d", 4, "e", 5, "f", 6)
		}, `"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,` + ids},
		{"without a context", func(_ context.Context, l *slog.Logger) { l.With("w", 0).WithGroup("g").Info("m", "a", 1) }, `"w":0,"g":{"a":1}`},
	} {
		t.Run(tt.does, func(t *testing.T) {
			var b bytes.Buffer
			h := slog.NewJSONHandler(&b, &slog.HandlerOptions{ReplaceAttr: dropTime})
			tt.log(inTrace(t.Context()), slog.New(tracing.LogHandler(tracing.LogHandler(h))))
			if got, want := strings.TrimSpace(b.String()), `{"level":"INFO","msg":"m",`+tt.want+`}`; got != want {
				t.Errorf("logged\n%s, want\n%s", got, want)
			}
		})
	}
}

func dropTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// traced gives every record a trace, whatever context it is logged with.
type traced struct{ slog.Handler }

func (h traced) Handle(_ context.Context, r slog.Record) error {
	return h.Handler.Handle(inTrace(context.Background()), r)
}
func (h traced) WithAttrs(a []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(a)} }
func (h traced) WithGroup(n string) slog.Handler      { return traced{h.Handler.WithGroup(n)} }

func TestLogHandlerObeysTheRulesForHandlers(t *testing.T) {
	for name, wrap := range map[string]func(slog.Handler) slog.Handler{
		"with a trace":    func(h slog.Handler) slog.Handler { return traced{tracing.LogHandler(h)} },
		"without a trace": tracing.LogHandler,
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			slogtest.Run(t, func(*testing.T) slog.Handler {
				b.Reset()
				return wrap(slog.NewJSONHandler(&b, nil))
			}, func(t *testing.T) map[string]any {
				var m map[string]any
				if err := json.Unmarshal(b.Bytes(), &m); err != nil {
					t.Fatal(err)
				}
				return m
			})
		})
	}
}

type brokenLog struct{ slog.Handler }

func (brokenLog) Handle(context.Context, slog.Record) error { return errors.New("disk full") }

func TestLogHandlerAsksTheNextOneWhetherAndReturnsItsError(t *testing.T) {
	h := tracing.LogHandler(brokenLog{slog.NewTextHandler(&bytes.Buffer{}, nil)})
	if h.Enabled(t.Context(), slog.LevelDebug) || !h.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("Enabled() is not what the next handler says")
	}
	if err := h.Handle(inTrace(t.Context()), slog.NewRecord(time.Time{}, 0, "m", 0)); err == nil {
		t.Error("Handle() = nil, want the error of the next handler")
	}
}
