package otlp

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// scripted is an exporter that does what it is told.
type scripted struct {
	export func(ctx context.Context, n int) error
}

func (s scripted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	return s.export(ctx, len(spans))
}

func (scripted) Shutdown(context.Context) error { return nil }

func start(t *testing.T, queue int, log *slog.Logger, export func(context.Context, int) error) *SDK {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return newSDK(t.Context(), environment{queue: queue, sampler: sdktrace.AlwaysSample()}, resource.Empty(), scripted{export}, log)
}

func (s *SDK) end(n int) {
	for range n {
		_, span := s.Provider().Tracer("test").Start(context.Background(), "a")
		span.End()
	}
}

func untilDone(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestEndingASpanWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, 10, nil, untilDone)
		began := time.Now()
		s.end(100)
		if took := time.Since(began); took != 0 {
			t.Errorf("100 spans take %v, want no wait", took)
		}
		if got := s.Stats(); got != (Stats{Dropped: 90, Queued: 10}) {
			t.Errorf("Stats() = %+v, want 10 queued and 90 dropped", got)
		}
		// Those that leave the queue make room for others.
		time.Sleep(time.Hour)
		if got := s.Stats(); got != (Stats{Dropped: 90, Failed: 10}) {
			t.Errorf("Stats() = %+v after the export timed out, want 10 failed and 90 dropped", got)
		}
		s.end(5)
		if got := s.Stats(); got != (Stats{Dropped: 90, Failed: 10, Queued: 5}) {
			t.Errorf("Stats() = %+v, want 5 queued", got)
		}
		_ = s.Shutdown(t.Context())
	})
}

func TestShutdownReturnsWhenItsContextEndsOrAfterFiveSeconds(t *testing.T) {
	for name, tt := range map[string]struct{ bound, want time.Duration }{
		"a deadline":     {time.Second, time.Second},
		"no deadline":    {0, 5 * time.Second},
		"a far deadline": {time.Minute, 30 * time.Second}, // the SDK's own, of one export
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, 10, nil, untilDone)
				s.end(3)
				ctx := context.WithoutCancel(t.Context())
				if tt.bound > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.bound)
					defer cancel()
				}
				began := time.Now()
				err := s.Shutdown(ctx)
				if took := time.Since(began); took != tt.want {
					t.Errorf("Shutdown() took %v, want %v", took, tt.want)
				}
				if tt.want < 30*time.Second && (!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "otlp: shutdown: 3 spans were not exported")) {
					t.Errorf("Shutdown() = %v, want it to say that 3 spans are lost", err)
				}
				if got := s.Stats(); got.Queued != 0 || got.Dropped+got.Failed != 3 {
					t.Errorf("Stats() = %+v, want all 3 failed or dropped", got)
				}
				if err := s.Shutdown(ctx); err != nil {
					t.Errorf("the second Shutdown() = %v, want nil", err)
				}
				// The bubble ends only when no goroutine is left.
			})
		})
	}
}

func TestShutdownReturnsWhenItsContextEndsWhileAnotherIsGoingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, 10, nil, untilDone)
		s.end(3)
		patient, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		first := make(chan error)
		go func() { first <- s.Shutdown(patient) }()
		synctest.Wait()
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := s.Shutdown(hasty); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Shutdown() = %v after %v, want a deadline that has passed after 1s", err, time.Since(began))
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 20*time.Second {
			t.Errorf("the first Shutdown() = %v after %v, want it to go on for 20s", err, time.Since(began))
		}
		if err := s.Shutdown(hasty); err != nil {
			t.Errorf("Shutdown() = %v when all is over, want nil", err)
		}
	})
}

func TestWhatACollectorAnswersIsLoggedInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := start(t, 10, slog.New(slog.NewTextHandler(&out, nil)), func(context.Context, int) error { return errors.New(strings.Repeat("a", 1<<20)) })
		s.end(1)
		_ = s.Shutdown(t.Context())
		if n := out.Len(); n < 1024 || n > 1400 {
			t.Errorf("the line has %d bytes, want 1024 of the error", n)
		}
	})
}

func TestFailedExportsAreLoggedAtMostOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := start(t, 1000, slog.New(slog.NewTextHandler(&out, nil)), func(context.Context, int) error { return errors.New("refused") })
		for range 180 { // three minutes, an export every five seconds
			s.end(1)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := strings.Count(out.String(), `msg="spans could not be exported" err=refused failed=`); n != 3 {
			t.Errorf("%d lines in three minutes, want 3: %s", n, &out)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown() = %v, want nil: nothing is queued", err)
		}
		if got := s.Stats(); got != (Stats{Failed: 180}) {
			t.Errorf("Stats() = %+v, want 180 failed", got)
		}
	})
}

func TestASpanThatEndsDuringShutdownIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, 10, nil, func(context.Context, int) error { return nil })
		s.end(2)
		if !s.gate.admit() { // one that has not reached the queue yet
			t.Fatal("admit() = false, want room")
		}
		if err := s.Shutdown(t.Context()); !errors.Is(err, errLate) || !strings.Contains(err.Error(), "1 spans") {
			t.Errorf("Shutdown() = %v, want one span too late", err)
		}
		if got := s.gate.settle(1, nil); got != (Stats{Exported: 2, Dropped: 1}) {
			t.Errorf("Stats = %+v when an export ends after Shutdown, want 2 exported and 1 dropped", got)
		}
	})
}

func TestFlushReturnsWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, 10, nil, untilDone)
		s.end(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "otlp: flush: ") {
			t.Errorf("Flush() = %v, want a deadline that has passed", err)
		}
		_ = s.Shutdown(ctx)
	})
}

func TestUnsampledSpansAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t.Context(), environment{queue: 10, sampler: sdktrace.NeverSample()}, resource.Empty(), scripted{untilDone}, slog.Default())
		s.end(3)
		if got := s.Stats(); got != (Stats{}) {
			t.Errorf("Stats() = %+v, want nothing", got)
		}
		_ = s.Shutdown(t.Context())
	})
}
