package breaker_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

func TestOnChangeHearsAllChangesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard recorder
		b := mustNew(t, breaker.Config{
			Name: "inventory", MinCalls: 2, OpenFor: time.Second, DisableJitter: true, OnChange: heard.hear,
		})
		succeed(t, b, 1)
		fail(t, b, 1)
		time.Sleep(time.Second)
		fail(t, b, 1)
		time.Sleep(2 * time.Second)
		succeed(t, b, 1)
		b.Reset() // changes no state
		b.ForceOpen()
		b.ForceOpen() // nor does this
		b.Disable()
		b.Reset()
		const name = "inventory"
		want := []breaker.Change{
			{name, breaker.Closed, breaker.Open, breaker.FailureRateReached, breaker.Counts{Successes: 1, Failures: 1}, time.Second},
			{name, breaker.Open, breaker.HalfOpen, breaker.OpenTimeOver, breaker.Counts{}, 0},
			{name, breaker.HalfOpen, breaker.Open, breaker.ProbeFailed, breaker.Counts{}, 2 * time.Second},
			{name, breaker.Open, breaker.HalfOpen, breaker.OpenTimeOver, breaker.Counts{}, 0},
			{name, breaker.HalfOpen, breaker.Closed, breaker.ProbesSucceeded, breaker.Counts{}, 0},
			{name, breaker.Closed, breaker.ForcedOpen, breaker.Operator, breaker.Counts{}, 0},
			{name, breaker.ForcedOpen, breaker.Disabled, breaker.Operator, breaker.Counts{}, 0},
			{name, breaker.Disabled, breaker.Closed, breaker.Operator, breaker.Counts{}, 0},
		}
		if got := heard.all(); !equal(got, want) {
			t.Errorf("OnChange heard\n%+v, want\n%+v", got, want)
		}
	})
}

func TestOnChangeMayUseTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *breaker.Breaker
		var heard recorder
		c := quick()
		c.OnChange = func(c breaker.Change) {
			heard.hear(c)
			if b.State() != c.To {
				t.Errorf("State() = %v in the change to %v", b.State(), c.To)
			}
			_ = b.Stats()
			if p, err := b.Allow(); err == nil {
				p.Done(breaker.Ignored)
			}
			if c.To == breaker.Open {
				b.Reset()
			}
		}
		b = mustNew(t, c)
		fail(t, b, 1)
		if got, want := heard.states(), []breaker.State{breaker.Open, breaker.Closed}; !equal(got, want) {
			t.Errorf("changes to %v, want %v", got, want)
		}
	})
}

func TestOnChangeRunsOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard recorder
		release := make(chan struct{})
		first := true
		c := quick()
		c.OnChange = func(c breaker.Change) {
			heard.hear(c)
			if first {
				first = false
				<-release
			}
		}
		b := mustNew(t, c)
		go func() { _ = b.Do(t.Context(), down) }()
		synctest.Wait()
		b.Reset() // returns, though its change is not delivered yet
		b.ForceOpen()
		if got := heard.states(); !equal(got, []breaker.State{breaker.Open}) {
			t.Errorf("changes to %v while the first is being told, want only that", got)
		}
		close(release)
		synctest.Wait()
		if got, want := heard.states(), []breaker.State{breaker.Open, breaker.Closed, breaker.ForcedOpen}; !equal(got, want) {
			t.Errorf("changes to %v, want %v", got, want)
		}
	})
}

func TestAnOnChangeThatEndsBadlyHoldsNothing(t *testing.T) {
	for name, end := range map[string]func(){"by a panic": func() { panic("hook") }, "by Goexit": runtime.Goexit} {
		bubble(t, name, func(t *testing.T) {
			var heard recorder
			c := quick()
			bad := true
			c.OnChange = func(c breaker.Change) {
				heard.hear(c)
				if bad {
					end()
				}
			}
			b := mustNew(t, c)
			var got any
			var wg sync.WaitGroup
			call := func() {
				wg.Go(func() {
					got = nil
					defer func() { got = recover() }()
					_ = b.Do(t.Context(), down)
				})
				wg.Wait()
			}
			call()
			if name == "by a panic" && got != "hook" {
				t.Errorf("recover() = %v, want the panic of the hook to go on", got)
			}
			wantState(t, b, breaker.Open)
			time.Sleep(time.Second)
			call() // was to be the probe, but its announcement ended badly
			wantState(t, b, breaker.HalfOpen)
			bad = false
			succeed(t, b, 1)
			if got, want := heard.states(), []breaker.State{breaker.Open, breaker.HalfOpen, breaker.Closed}; !equal(got, want) {
				t.Errorf("changes to %v, want %v", got, want)
			}
		})
	}
	bubble(t, "and the changes behind it are told", func(t *testing.T) {
		var heard recorder
		var b *breaker.Breaker
		c := quick()
		c.OnChange = func(c breaker.Change) {
			heard.hear(c)
			if c.To == breaker.Open {
				b.Reset()
				panic("hook")
			}
		}
		b = mustNew(t, c)
		if got := panicOf(func() { _ = b.Do(t.Context(), down) }); got != "hook" {
			t.Errorf("recover() = %v, want hook", got)
		}
		if got, want := heard.states(), []breaker.State{breaker.Open, breaker.Closed}; !equal(got, want) {
			t.Errorf("changes to %v, want %v", got, want)
		}
	})
}

func TestAClassifyThatPanicsCountsAsFailure(t *testing.T) {
	c := breaker.Config{Consecutive: 1, Classify: func(context.Context, error) breaker.Outcome { panic("classify") }}
	b := mustNew(t, c)
	if got := panicOf(func() { _ = b.Do(t.Context(), ok) }); got != "classify" {
		t.Errorf("recover() = %v, want classify", got)
	}
	wantState(t, b, breaker.Open)
}

func TestAnErrorWhoseMethodsUseTheBreakerDoesNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, quick())
		curious := func(context.Context) error { return curiousError{b} }
		_ = b.Do(t.Context(), curious)
		wantState(t, b, breaker.Open)
		time.Sleep(time.Second)
		_ = b.Do(t.Context(), curious)
		wantState(t, b, breaker.Open)
	})
}

type curiousError struct{ b *breaker.Breaker }

func (e curiousError) Error() string { return "curious" }
func (e curiousError) RetryAfter() time.Duration {
	_ = e.b.Stats()
	if p, err := e.b.Allow(); !errors.Is(err, breaker.ErrOpen) {
		p.Done(breaker.Ignored)
	}
	return 0
}
