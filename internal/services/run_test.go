package services

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// two are services that no test of this file talks to.
func two() []Service {
	return []Service{{Name: "one", Variable: "TEST_ONE"}, {Name: "two", Variable: "TEST_TWO"}}
}

// started is a way that always works and counts the stops.
func started(stops *atomic.Int32) way {
	return func(_ context.Context, s Service, _ func(string)) (*found, error) {
		return &found{address: "at " + s.Name, version: "1", how: "ready", stop: func(context.Context) error {
			stops.Add(1)
			return nil
		}}, nil
	}
}

// reused is a way that works and leaves nothing to stop.
func reused(_ context.Context, s Service, _ func(string)) (*found, error) {
	return &found{address: "at " + s.Name, version: "1", how: "reused at 127.0.0.1:1"}, nil
}

// fails is a way that does not work, for a reason.
func fails(reason string) way {
	return func(context.Context, Service, func(string)) (*found, error) { return nil, errors.New(reason) }
}

// failsFor is a way that works for all but one service.
func failsFor(name, reason string, otherwise way) way {
	return func(ctx context.Context, s Service, say func(string)) (*found, error) {
		if s.Name == name {
			return nil, errors.New(reason)
		}
		return otherwise(ctx, s, say)
	}
}

func untouched(t *testing.T) way {
	return func(_ context.Context, s Service, _ func(string)) (*found, error) {
		t.Errorf("%s is looked for, want it left alone", s.Name)
		return nil, errors.New("untouched")
	}
}

// result is what a run gave to its caller and to use.
type result struct {
	env    []string
	used   bool
	lines  []string // sorted, since services come in any order
	err    error
	during int32 // stops counted before use returned
}

func runTwo(ctx context.Context, stops *atomic.Int32, ways ...way) result {
	var r result
	var out strings.Builder
	r.err = run(ctx, Config{Services: two(), Out: &out}, ways, func(_ context.Context, env []string) error {
		r.used, r.env = true, env
		if stops != nil {
			r.during = stops.Load()
		}
		return nil
	})
	r.lines = slices.Sorted(strings.Lines(out.String()))
	return r
}

func TestTheFirstWayThatWorksIsTaken(t *testing.T) {
	r := runTwo(t.Context(), nil, fails("a"), reused, untouched(t))
	want := []string{"TEST_ONE=at one", "TEST_TWO=at two"}
	if !slices.Equal(r.env, want) || r.err != nil {
		t.Errorf("run() hands over %q, %v, want %q", r.env, r.err, want)
	}
}

func TestEveryReasonIsToldWhenNoWayWorks(t *testing.T) {
	r := runTwo(t.Context(), nil, fails("no server"), fails("no Docker"))
	want := []string{"one not started: no server; no Docker\n", "two not started: no server; no Docker\n"}
	if !slices.Equal(r.lines, want) {
		t.Errorf("run() prints %q, want %q", r.lines, want)
	}
	if !r.used || r.err != nil || len(r.env) != 0 {
		t.Errorf("run() = %v, used %v with %q, want it to go on without the services", r.err, r.used, r.env)
	}
}

func TestAVariableThatIsSetWins(t *testing.T) {
	for _, value := range []string{"", "none", "two"} {
		t.Setenv("PARLEY_SERVICES", value)
		t.Setenv("TEST_ONE", "elsewhere")
		r := runTwo(t.Context(), nil, failsFor("two", "no", untouched(t)))
		if r.lines[0] != "one taken from TEST_ONE\n" || len(r.env) != 0 {
			t.Errorf("run() with PARLEY_SERVICES=%q prints %q, hands over %q, want the variable left as it is", value, r.lines, r.env)
		}
	}
}

func TestPARLEY_SERVICESSelects(t *testing.T) {
	t.Setenv("PARLEY_SERVICES", "two")
	r := runTwo(t.Context(), nil, failsFor("one", "looked for", reused))
	want := []string{"one not started: PARLEY_SERVICES=two\n", "two 1 reused at 127.0.0.1:1\n"}
	if !slices.Equal(r.lines, want) {
		t.Errorf("run() prints %q, want %q", r.lines, want)
	}
	t.Setenv("PARLEY_SERVICES", "none")
	if r := runTwo(t.Context(), nil, untouched(t)); !r.used || r.err != nil {
		t.Errorf("run() with PARLEY_SERVICES=none = %v, used %v, want use to be called", r.err, r.used)
	}
}

func TestARequiredServiceThatCannotBeHadEndsRunBeforeTheTestsStart(t *testing.T) {
	for _, require := range []string{"one", "all", "two,one"} {
		t.Setenv("PARLEY_REQUIRE", require)
		var stops atomic.Int32
		r := runTwo(t.Context(), nil, failsFor("one", "no luck\nand a log", started(&stops)))
		const want = "services: PARLEY_REQUIRE names one, not started: no luck"
		if r.used || r.err == nil || r.err.Error() != want {
			t.Errorf("run() with PARLEY_REQUIRE=%s = %v, used %v, want %s", require, r.err, r.used, want)
		}
		if stops.Load() != 1 {
			t.Errorf("%d services were stopped, want the one that was started", stops.Load())
		}
	}
	t.Setenv("PARLEY_REQUIRE", "two")
	if r := runTwo(t.Context(), nil, failsFor("one", "no luck", reused)); !r.used || r.err != nil {
		t.Errorf("run() = %v, used %v, want it to go on without what is not required", r.err, r.used)
	}
}

func TestAllUnknownNamesAreReportedOnOneLine(t *testing.T) {
	t.Setenv("PARLEY_SERVICES", "three")
	t.Setenv("PARLEY_REQUIRE", "four")
	r := runTwo(t.Context(), nil, untouched(t))
	if r.used || r.err == nil {
		t.Fatalf("run() = %v, used %v, want an error", r.err, r.used)
	}
	for _, want := range []string{`PARLEY_SERVICES names "three"`, `PARLEY_REQUIRE names "four"`, "one, two"} {
		if got := r.err.Error(); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("run() = %q, want one line with %q", got, want)
		}
	}
}

func TestWhatWasStartedIsStoppedAndOnlyThat(t *testing.T) {
	var stops atomic.Int32
	r := runTwo(t.Context(), &stops, failsFor("one", "no", started(&stops)), reused)
	if r.during != 0 || stops.Load() != 1 {
		t.Errorf("%d stops during use and %d at the end, want 0 and 1", r.during, stops.Load())
	}
	if len(r.env) != 2 || r.err != nil {
		t.Errorf("run() hands over %q, %v, want both services", r.env, r.err)
	}
}

func TestWhatWasStartedIsStoppedWhenUseFails(t *testing.T) {
	var stops atomic.Int32
	failed := errors.New("tests failed")
	err := run(t.Context(), Config{Services: two(), Out: t.Output()}, []way{started(&stops)},
		func(context.Context, []string) error { return failed })
	if !errors.Is(err, failed) || stops.Load() != 2 {
		t.Errorf("run() = %v after %d stops, want the error of use after 2", err, stops.Load())
	}
}

func TestWhatWasStartedIsStoppedWhenUsePanicsOrExits(t *testing.T) {
	for about, end := range map[string]func(){"panic": func() { panic("in use") }, "Goexit": runtime.Goexit} {
		var stops atomic.Int32
		done := make(chan any)
		go func() {
			defer func() { done <- recover() }()
			_ = run(t.Context(), Config{Services: two(), Out: io.Discard}, []way{started(&stops)},
				func(context.Context, []string) error { end(); return nil })
		}()
		if got := <-done; (got != nil) != (about == "panic") {
			t.Errorf("after %s in use the caller recovers %v", about, got)
		}
		if stops.Load() != 2 {
			t.Errorf("%d services were stopped after %s, want 2", stops.Load(), about)
		}
	}
}

func TestRunEndsWithTheCauseWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	told := errors.New("interrupted")
	var stops atomic.Int32
	var ended atomic.Bool
	slow := func(ctx context.Context, _ Service, _ func(string)) (*found, error) {
		cancel(told)
		return nil, errors.New("half done")
	}
	r := runTwo(ctx, nil, failsFor("two", "no", started(&stops)), slow, untouched(t))
	if r.used || !errors.Is(r.err, told) {
		t.Errorf("run() = %v, used %v, want the cause", r.err, r.used)
	}
	// The stop must not be cut short by what made it necessary.
	ctx, cancel = context.WithCancelCause(t.Context())
	err := run(ctx, Config{Services: two()[:1], Out: t.Output()}, []way{
		func(context.Context, Service, func(string)) (*found, error) {
			return &found{stop: func(ctx context.Context) error {
				_, bounded := ctx.Deadline()
				ended.Store(ctx.Err() != nil || !bounded)
				return nil
			}}, nil
		},
	}, func(context.Context, []string) error { cancel(told); return nil })
	if err != nil || ended.Load() {
		t.Errorf("run() = %v; the stop's context had ended or had no bound: %v, want neither", err, ended.Load())
	}
}

func TestAServiceThatEndedByItselfIsAnError(t *testing.T) {
	crashed := errors.New("had ended")
	err := run(t.Context(), Config{Services: two()[:1], Out: t.Output()}, []way{
		func(context.Context, Service, func(string)) (*found, error) {
			return &found{stop: func(context.Context) error { return crashed }}, nil
		},
	}, func(context.Context, []string) error { return nil })
	if !errors.Is(err, crashed) {
		t.Errorf("run() = %v, want %v", err, crashed)
	}
}
