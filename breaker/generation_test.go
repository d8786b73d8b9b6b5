package breaker_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
)

func TestAnOutcomeFromBeforeAChangeOfStateChangesNothingAfterIt(t *testing.T) {
	for name, o := range map[string]breaker.Outcome{"success": breaker.Success, "failure": breaker.Failure, "ignored": breaker.Ignored} {
		bubble(t, name+" of a closed breaker's call, while open", func(t *testing.T) {
			b := mustNew(t, quick())
			old := allow(t, b)
			fail(t, b, 1)
			time.Sleep(time.Second / 2)
			old.Done(o)
			if got := wantRejected(t, b).RetryAfter(); got != time.Second/2 {
				t.Errorf("RetryAfter() = %v, want 500ms", got)
			}
			if got := b.Stats(); got.Opened != 1 || got.Stale != 1 {
				t.Errorf("Stats() = %+v, want opened once and 1 stale", got)
			}
		})
		bubble(t, name+" of a closed breaker's call, while half-open", func(t *testing.T) {
			b := mustNew(t, quick())
			old := allow(t, b)
			fail(t, b, 1)
			time.Sleep(time.Second)
			probe := allow(t, b)
			old.Done(o)
			wantState(t, b, breaker.HalfOpen)
			wantRejected(t, b) // no slot was freed
			probe.Done(breaker.Success)
			wantState(t, b, breaker.Closed)
		})
		bubble(t, name+" of a probe, in a later half-open phase", func(t *testing.T) {
			c := quick()
			c.Probes, c.ProbeSuccesses = 2, 2
			b := halfOpen(t, c)
			old, failing := allow(t, b), allow(t, b)
			failing.Done(breaker.Failure)
			time.Sleep(2 * time.Second)
			allow(t, b)
			allow(t, b)
			old.Done(o)
			wantState(t, b, breaker.HalfOpen)
			wantRejected(t, b)
		})
		bubble(t, name+" of a closed breaker's call, after it closed again", func(t *testing.T) {
			b := mustNew(t, quick())
			old := allow(t, b)
			fail(t, b, 1)
			time.Sleep(time.Second)
			succeed(t, b, 1)
			old.Done(o)
			wantState(t, b, breaker.Closed)
			if got := b.Stats().Counts; got != (breaker.Counts{}) {
				t.Errorf("Counts = %+v, want an empty window", got)
			}
		})
		for verb, act := range map[string]func(*breaker.Breaker){
			"ForceOpen": (*breaker.Breaker).ForceOpen, "Disable": (*breaker.Breaker).Disable, "Reset": (*breaker.Breaker).Reset,
		} {
			bubble(t, name+" of a call from before "+verb, func(t *testing.T) {
				b := mustNew(t, quick())
				old := allow(t, b)
				act(b)
				before := b.State()
				old.Done(o)
				wantState(t, b, before)
				if got := b.Stats(); got.Stale != 1 || got.Counts != (breaker.Counts{}) {
					t.Errorf("Stats() = %+v, want 1 stale and nothing counted", got)
				}
			})
		}
	}
}

func TestEachTripOpensTheBreakerOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard recorder
		c := breaker.Config{MinCalls: 10, OpenFor: time.Minute, DisableJitter: true, OnChange: heard.hear}
		b := mustNew(t, c)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				_ = b.Do(t.Context(), func(context.Context) error { time.Sleep(time.Duration(i) * time.Second); return errDown })
			})
		}
		time.Sleep(9*time.Second + 1) // the tenth has failed
		synctest.Wait()
		for left := time.Minute - 1; left > 0; left -= 10 * time.Second { // one more fails each second
			if got := wantRejected(t, b).RetryAfter(); got != left {
				t.Fatalf("RetryAfter() = %v, want %v", got, left)
			}
			time.Sleep(10 * time.Second)
		}
		wg.Wait()
		if got := heard.states(); !equal(got, []breaker.State{breaker.Open}) {
			t.Errorf("changes to %v, want one to open", got)
		}
	})
}

func TestForceOpenHoldsUntilReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, quick())
		b.ForceOpen()
		for range 10 {
			time.Sleep(time.Hour)
			wantRejected(t, b)
			wantState(t, b, breaker.ForcedOpen)
		}
		b.Disable()
		wantState(t, b, breaker.Disabled)
		b.ForceOpen()
		b.Reset()
		wantState(t, b, breaker.Closed)
		succeed(t, b, 1)
	})
}

func TestDisableAdmitsAllAndCountsNoneUntilReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]breaker.Config{
			"in a row": quick(), "by time": {MinCalls: 1}, "slow": {MinCalls: 1, SlowCall: 1},
		} {
			b := mustNew(t, c)
			fail(t, b, 1)
			b.Disable()
			fail(t, b, 100)
			allow(t, b).Done(breaker.Ignored)
			wantState(t, b, breaker.Disabled)
			if got := b.Stats(); got.Failures != 1 || got.Ignored != 0 || got.Stale != 0 {
				t.Errorf("%s: Stats() = %+v, want only the failure from before", name, got)
			}
			b.Reset()
			wantState(t, b, breaker.Closed)
			fail(t, b, 1)
			wantState(t, b, breaker.Open)
		}
	})
}

func TestResetStartsAfresh(t *testing.T) {
	bubble(t, "with an empty window", func(t *testing.T) {
		b := mustNew(t, breaker.Config{MinCalls: 10})
		fail(t, b, 9)
		b.Reset()
		fail(t, b, 9)
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "with the initial open time", func(t *testing.T) {
		b := halfOpen(t, quick())
		fail(t, b, 1)
		b.Reset()
		fail(t, b, 1)
		if got := wantRejected(t, b).RetryAfter(); got != time.Second {
			t.Errorf("RetryAfter() = %v, want 1s", got)
		}
	})
	bubble(t, "and lets no old probe hold a slot", func(t *testing.T) {
		b := halfOpen(t, quick())
		old := allow(t, b)
		b.Reset()
		fail(t, b, 1)
		time.Sleep(time.Second)
		p := allow(t, b)
		old.Done(breaker.Failure)
		p.Done(breaker.Success)
		wantState(t, b, breaker.Closed)
	})
}

func TestAPermitCountsOnce(t *testing.T) {
	t.Run("however often it is done", func(t *testing.T) {
		b := mustNew(t, breaker.Config{Consecutive: 2})
		p := allow(t, b)
		p.Done(breaker.Failure)
		p.Done(breaker.Failure)
		p.Done(breaker.Success)
		if got := b.Stats().Counts.Failures; got != 1 {
			t.Errorf("%d failures counted, want 1", got)
		}
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "also as a probe, even if it is copied", func(t *testing.T) {
		c := quick()
		c.ProbeSuccesses = 2
		b := halfOpen(t, c)
		p := allow(t, b)
		copied := copyOf(p)
		p.Done(breaker.Success)
		copied.Done(breaker.Success)
		wantState(t, b, breaker.HalfOpen)
		if got := b.Stats().Stale; got != 1 {
			t.Errorf("Stale = %d, want 1", got)
		}
		succeed(t, b, 1)
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "and releasing one twice admits no more probes than may run", func(t *testing.T) {
		c := quick()
		c.Probes, c.ProbeSuccesses = 2, 100
		b := halfOpen(t, c)
		first, _ := allow(t, b), allow(t, b)
		copied := copyOf(first)
		first.Done(breaker.Success)
		copied.Done(breaker.Success)
		allow(t, b)
		wantRejected(t, b)
	})
	t.Run("and the zero one never", func(t *testing.T) {
		var p breaker.Permit
		p.Done(breaker.Failure)
	})
	t.Run("and an unknown outcome is a failure", func(t *testing.T) {
		b := mustNew(t, breaker.Config{Consecutive: 1})
		allow(t, b).Done(99)
		wantState(t, b, breaker.Open)
	})
}
