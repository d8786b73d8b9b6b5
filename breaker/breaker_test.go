package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

func TestDoReturnsWhatTheFunctionReturns(t *testing.T) {
	b := mustNew(t, breaker.Config{})
	succeed(t, b, 1)
	if err := b.Do(t.Context(), down); !errors.Is(err, errDown) || err.Error() != errDown.Error() {
		t.Errorf("Do() = %v, want %v itself", err, errDown)
	}
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, 1)
	_ = b.Do(ctx, func(got context.Context) error {
		if got != ctx {
			t.Errorf("Do() passed on another context")
		}
		return nil
	})
}

func TestARateThatIsMetExactlyOpens(t *testing.T) {
	for _, c := range []struct {
		rate      float64
		bad, good int
	}{
		{.57, 57, 43}, {.07, 7, 93}, {.29, 29, 71}, {1. / 3, 1, 2}, {2. / 3, 2, 1}, {.5, 1, 1}, {1, 3, 0}, {.1, 1, 9}, {.000001, 1, 9999},
	} {
		t.Run(fmt.Sprintf("%d of %d", c.bad, c.bad+c.good), func(t *testing.T) {
			b := mustNew(t, breaker.Config{WindowCalls: c.bad + c.good, MinCalls: c.bad + c.good, FailureRate: c.rate})
			succeed(t, b, c.good)
			fail(t, b, c.bad-1)
			wantState(t, b, breaker.Closed)
			fail(t, b, 1)
			wantState(t, b, breaker.Open)
		})
	}
	t.Run("but one call less does not", func(t *testing.T) {
		b := mustNew(t, breaker.Config{WindowCalls: 100, MinCalls: 100, FailureRate: .58})
		succeed(t, b, 43)
		fail(t, b, 57)
		wantState(t, b, breaker.Closed)
	})
}

func TestSlowCallsOpen(t *testing.T) {
	slow := func(context.Context) error { time.Sleep(time.Second); return nil }
	config := breaker.Config{Window: time.Minute, SlowCall: time.Second, SlowCallRate: .5, MinCalls: 4, OpenFor: time.Second, DisableJitter: true}
	bubble(t, "at SlowCallRate of MinCalls", func(t *testing.T) {
		var heard recorder
		config.OnChange = heard.hear
		b := mustNew(t, config)
		succeed(t, b, 2)
		_ = b.Do(t.Context(), slow)
		wantState(t, b, breaker.Closed)
		_ = b.Do(t.Context(), slow)
		wantState(t, b, breaker.Open)
		want := breaker.Change{
			From: breaker.Closed, To: breaker.Open, Reason: breaker.SlowCallRateReached,
			Counts: breaker.Counts{Successes: 4, Slow: 2}, OpenFor: time.Second,
		}
		if got := heard.all(); len(got) != 1 || got[0] != want {
			t.Errorf("OnChange heard %+v, want %+v", got, want)
		}
	})
	bubble(t, "also where they fail", func(t *testing.T) {
		config := config
		config.FailureRate = 1
		b := mustNew(t, config)
		succeed(t, b, 2)
		for range 2 {
			_ = b.Do(t.Context(), func(ctx context.Context) error { _ = slow(ctx); return errDown })
		}
		wantState(t, b, breaker.Open)
	})
	bubble(t, "and as a probe fail", func(t *testing.T) {
		b := mustNew(t, config)
		for range 4 {
			_ = b.Do(t.Context(), slow)
		}
		time.Sleep(time.Second)
		_ = b.Do(t.Context(), slow)
		wantState(t, b, breaker.Open)
	})
	bubble(t, "but fast ones, and ignored ones, do not", func(t *testing.T) {
		b := mustNew(t, config)
		for range 100 {
			_ = b.Do(t.Context(), func(context.Context) error { time.Sleep(time.Second - 1); return nil })
			p := allow(t, b)
			time.Sleep(2 * time.Second)
			p.Done(breaker.Ignored)
		}
		wantState(t, b, breaker.Closed)
	})
}

func TestConsecutiveFailuresOpen(t *testing.T) {
	var heard recorder
	b := mustNew(t, breaker.Config{Consecutive: 3, OnChange: heard.hear})
	for range 10 {
		fail(t, b, 2)
		succeed(t, b, 1)
	}
	fail(t, b, 2)
	wantState(t, b, breaker.Closed)
	fail(t, b, 1)
	wantState(t, b, breaker.Open)
	if got := heard.all(); len(got) != 1 || got[0].Reason != breaker.ConsecutiveReached || got[0].Counts.Failures != 3 {
		t.Errorf("OnChange heard %+v, want one change by 3 consecutive failures", got)
	}
}

func TestTheOpenTimeDoublesUpToMaxOpenForAndStartsAgainAfterClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick()
		c.MaxOpenFor = 5 * time.Second
		b := mustNew(t, c)
		const s = time.Second
		for _, want := range []time.Duration{s, 2 * s, 4 * s, 5 * s, 5 * s, 5 * s} {
			fail(t, b, 1)
			if got := wantRejected(t, b).RetryAfter(); got != want {
				t.Errorf("RetryAfter() = %v, want %v", got, want)
			}
			time.Sleep(want)
		}
		succeed(t, b, 1)
		fail(t, b, 1)
		if got := wantRejected(t, b).RetryAfter(); got != time.Second {
			t.Errorf("RetryAfter() after closing in between = %v, want 1s", got)
		}
	})
}

func TestTheOpenTimeIsJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		least, most := time.Hour, time.Duration(0)
		for range 1000 {
			c := quick()
			c.DisableJitter = false
			b := mustNew(t, c)
			fail(t, b, 1)
			d := wantRejected(t, b).RetryAfter()
			least, most = min(least, d), max(most, d)
		}
		if least < 900*time.Millisecond || most > 1100*time.Millisecond {
			t.Errorf("open times are from %v to %v, want within 10%% of 1s", least, most)
		}
		// That all of 1000 lie in three quarters of the range has a chance of 1e-124.
		if most-least < 150*time.Millisecond {
			t.Errorf("open times are from %v to %v, want them spread over 200ms", least, most)
		}
	})
}

type askingError struct{ after time.Duration }

func (e askingError) Error() string             { return "come back later" }
func (e askingError) RetryAfter() time.Duration { return e.after }

func TestTheDependencyMayAskForALongerOpenTime(t *testing.T) {
	for name, c := range map[string]struct{ asked, want time.Duration }{
		"more than OpenFor":    {3 * time.Second, 3 * time.Second},
		"less than OpenFor":    {time.Millisecond, time.Second},
		"more than MaxOpenFor": {time.Hour, time.Minute},
		"a negative time":      {-time.Hour, time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			b := mustNew(t, quick())
			asking := func(context.Context) error { return fmt.Errorf("wrapped: %w", askingError{c.asked}) }
			_ = b.Do(t.Context(), asking)
			if got := wantRejected(t, b).RetryAfter(); got != c.want {
				t.Errorf("RetryAfter() = %v, want %v", got, c.want)
			}
		})
	}
	bubble(t, "jitter never shortens it", func(t *testing.T) {
		for range 100 {
			c := quick()
			c.DisableJitter = false
			b := mustNew(t, c)
			_ = b.Do(t.Context(), func(context.Context) error { return askingError{10 * time.Second} })
			if got := wantRejected(t, b).RetryAfter(); got < 10*time.Second || got > 11*time.Second {
				t.Errorf("RetryAfter() = %v, want 10s to 11s", got)
			}
		}
	})
}

func TestRejectionsNeverCountAsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{MinCalls: 10, OpenFor: time.Second, DisableJitter: true})
		fail(t, b, 10)
		for range 1000 {
			wantRejected(t, b)
		}
		time.Sleep(time.Second)
		succeed(t, b, 1)
		wantState(t, b, breaker.Closed)
		succeed(t, b, 6)
		fail(t, b, 5)
		wantState(t, b, breaker.Closed)
		s := b.Stats()
		if s.Rejected != 1000 || s.Failures != 15 || s.Opened != 1 || s.Counts != (breaker.Counts{Successes: 6, Failures: 5}) {
			t.Errorf("Stats() = %+v, want 1000 rejected, 15 failures, 1 opened, 6 and 5 in the window", s)
		}
	})
}

func TestTheWindowForgets(t *testing.T) {
	bubble(t, "what is older than Window, to within an eighth", func(t *testing.T) {
		for _, window := range []time.Duration{10 * time.Millisecond, time.Second, 10 * time.Second, 7 * time.Minute, time.Hour} {
			for range 20 {
				b := mustNew(t, breaker.Config{Window: window})
				time.Sleep(time.Duration(float64(window) * 1.37))
				fail(t, b, 1)
				time.Sleep(window - window/8)
				if got := b.Stats().Counts.Failures; got != 1 {
					t.Errorf("Window %v: %d failures after 7/8 of it, want 1", window, got)
				}
				time.Sleep(window / 4)
				if got := b.Stats().Counts.Failures; got != 0 {
					t.Errorf("Window %v: %d failures after 9/8 of it, want 0", window, got)
				}
			}
		}
	})
	t.Run("all but the last WindowCalls calls", func(t *testing.T) {
		b := mustNew(t, breaker.Config{WindowCalls: 100, MinCalls: 100, FailureRate: 1})
		fail(t, b, 50)
		succeed(t, b, 99)
		if got, want := b.Stats().Counts, (breaker.Counts{Successes: 99, Failures: 1}); got != want {
			t.Errorf("Counts = %+v, want %+v", got, want)
		}
		succeed(t, b, 1)
		if got, want := b.Stats().Counts, (breaker.Counts{Successes: 100}); got != want {
			t.Errorf("Counts = %+v, want %+v", got, want)
		}
	})
}

func TestABurstAfterAnIdleGapLosesNoCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{Window: time.Second, FailureRate: 1, MinCalls: 1 << 40})
		for range 50 {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 100 {
						_ = b.Do(t.Context(), ok)
						_ = b.Do(t.Context(), down)
					}
				})
			}
			wg.Wait()
			if got, want := b.Stats().Counts, (breaker.Counts{Successes: 800, Failures: 800}); got != want {
				t.Fatalf("Counts = %+v, want %+v", got, want)
			}
			time.Sleep(3 * time.Second)
		}
	})
}

func TestACallLongerThanTheWindowCountsInFull(t *testing.T) {
	for name, c := range map[string]breaker.Config{
		"of time":  {Window: time.Second, MinCalls: 20},
		"of calls": {WindowCalls: 20},
	} {
		bubble(t, name, func(t *testing.T) {
			b := mustNew(t, c)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					_ = b.Do(t.Context(), func(context.Context) error { time.Sleep(10 * time.Second); return errDown })
				})
			}
			wg.Wait()
			wantState(t, b, breaker.Open)
		})
	}
}

func TestAPanicIsAFailureAndGoesOn(t *testing.T) {
	b := mustNew(t, breaker.Config{MinCalls: 10})
	value := new(int)
	for range 10 {
		var stack string
		got := func() (v any) {
			defer func() {
				v = recover()
				var pcs [64]uintptr
				frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs[:])])
				for f, more := frames.Next(); more; f, more = frames.Next() {
					stack += f.Function + "\n"
				}
			}()
			return b.Do(t.Context(), explode(value))
		}()
		if got != value {
			t.Fatalf("recover() = %v, want %v", got, value)
		}
		if !strings.Contains(stack, "explode") {
			t.Fatalf("the stack at recovery lost where the panic began:\n%s", stack)
		}
	}
	wantState(t, b, breaker.Open)
}

func explode(v any) func(context.Context) error {
	return func(context.Context) error { panic(v) }
}

func TestGoexitIsAFailureAndGoesOn(t *testing.T) {
	b := mustNew(t, breaker.Config{Consecutive: 1})
	done := make(chan bool, 1)
	go func() {
		returned := false
		defer func() { done <- returned }()
		_ = b.Do(t.Context(), func(context.Context) error { runtime.Goexit(); return nil })
		returned = true
	}()
	if <-done {
		t.Errorf("Do() returned after Goexit")
	}
	wantState(t, b, breaker.Open)
}

func TestThereAreNoGoroutinesAndNoTimers(t *testing.T) {
	// The bubble also fails the test by itself if a goroutine is left in it.
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		for range 10_000 {
			b := mustNew(t, quick())
			fail(t, b, 1)
			wantRejected(t, b)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines after 10000 trips, want at most %d", after, before)
		}
	})
}

func TestBadInputIsAnErrorAndNotAPanic(t *testing.T) {
	b := mustNew(t, breaker.Config{})
	value := func(context.Context) (int, error) { return 1, nil }
	for name, call := range map[string]func() error{
		"Do":       func() error { return b.Do(t.Context(), nil) },
		"Value":    func() error { _, err := breaker.Value[int](t.Context(), b, nil); return err },
		"Fallback": func() error { _, err := breaker.Fallback(t.Context(), b, value, nil); return err },
		"the function of Fallback": func() error {
			_, err := breaker.Fallback(t.Context(), b, nil, func(context.Context, error) (int, error) { return 0, nil })
			return err
		},
	} {
		if err := call(); err == nil || err.Error() != "breaker: nil function: pass the call to guard" {
			t.Errorf("%s with a nil function = %v, want an error that says so", name, err)
		}
	}
	if got := b.Stats(); got != (breaker.Stats{}) {
		t.Errorf("Stats() = %+v, want nothing counted", got)
	}
}

func TestTheZeroBreakerIsThatOfAZeroConfig(t *testing.T) {
	t.Run("for reading", func(t *testing.T) {
		var b breaker.Breaker
		wantState(t, &b, breaker.Closed)
		if got := b.Stats(); got != (breaker.Stats{}) {
			t.Errorf("Stats() = %+v, want zero", got)
		}
	})
	t.Run("for calls, from many goroutines", func(t *testing.T) {
		var b breaker.Breaker
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _ = b.Do(t.Context(), down) })
		}
		wg.Wait()
		wantState(t, &b, breaker.Open)
	})
	t.Run("for operators", func(t *testing.T) {
		var b breaker.Breaker
		b.ForceOpen()
		wantRejected(t, &b)
	})
	t.Run("as an OpenError", func(t *testing.T) {
		var e breaker.OpenError
		if e.RetryAfter() != 0 || !errors.Is(&e, breaker.ErrOpen) {
			t.Errorf("a zero OpenError has a time to come back, or is not ErrOpen")
		}
	})
}
