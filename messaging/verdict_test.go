package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

func TestDeliveryIsSettledByWhatItsHandlerDid(t *testing.T) {
	const last = 4 // MaxAttempts
	pause := func(attempt int) time.Duration { return time.Duration(attempt) * time.Second }
	failure := func(err error) messaging.Handler {
		return func(context.Context, *messaging.Delivery) error { return err }
	}
	retry := func(after time.Duration, keep bool) messaging.Verdict {
		return messaging.Verdict{Kind: messaging.Retry, After: after, KeepAttempt: keep}
	}
	dead := func(reason string) messaging.Verdict {
		return messaging.Verdict{Kind: messaging.DeadLetter, Reason: reason}
	}
	undecodable := messaging.Typed(messaging.JSON{}, func(context.Context, struct{}, *messaging.Delivery) error { return nil })
	for _, c := range []struct {
		name    string
		attempt int
		handler messaging.Handler
		want    messaging.Verdict
	}{
		{"nil acks", 1, failure(nil), messaging.Verdict{}},
		{"nil acks at the last attempt too", last, failure(nil), messaging.Verdict{}},
		{"an error retries after Backoff", 1, failure(errFailed), retry(time.Second, false)},
		{"Backoff is told the attempt", 3, failure(errFailed), retry(3*time.Second, false)},
		{"the last attempt that fails is exhausted", last, failure(errFailed), dead("exhausted")},
		{"an attempt beyond the last is exhausted", last + 7, failure(errFailed), dead("exhausted")},
		{"Permanent is dead at once", 1, failure(messaging.Permanent(errFailed)), dead("permanent")},
		{"Permanent is found inside other errors", 1, failure(fmt.Errorf("save: %w", messaging.Permanent(errFailed))), dead("permanent")},
		{"an undecodable payload is dead at once", 1, undecodable, dead("decode")},
		{"RetryAfter postpones a retry", 1, failure(pushback(time.Minute)), retry(time.Minute, false)},
		{"After postpones a retry", 1, failure(messaging.After(errFailed, time.Minute)), retry(time.Minute, false)},
		{"RetryAfter does not hasten a retry", 3, failure(pushback(time.Millisecond)), retry(3*time.Second, false)},
		{"RetryAfter does not prolong the attempts", last, failure(pushback(time.Minute)), dead("exhausted")},
		{"Rejected retries without an attempt", 2, failure(rejection{}), retry(2*time.Second, true)},
		{"Rejected is never exhausted", last, failure(fmt.Errorf("call: %w", rejection{time.Minute})), retry(time.Minute, true)},
		{"Permanent outdoes Rejected", 1, failure(messaging.Permanent(rejection{})), dead("permanent")},
		{"a failure joined with a rejection is a failed attempt", 1, failure(errors.Join(errFailed, rejection{})), retry(time.Second, false)},
		{"a rejection joined with a failure is exhausted at the last", last, failure(errors.Join(rejection{}, errFailed)), dead("exhausted")},
		{"two rejections joined are one", last, failure(errors.Join(rejection{}, fmt.Errorf("call: %w", rejection{}))), retry(last*time.Second, true)},
		{"a Reason beside a rejection only names it", last, failure(fmt.Errorf("%w: %w", messaging.ErrRefused, rejection{})), retry(last*time.Second, true)},
		{"Reasons alone are no rejection", 1, failure(errors.Join(messaging.ErrRefused, messaging.ErrClosed)), retry(time.Second, false)},
		{"a panic is a failed attempt", 1, func(context.Context, *messaging.Delivery) error { panic("no") }, retry(time.Second, false)},
		{"a panic at the last attempt is exhausted", last, func(context.Context, *messaging.Delivery) error { panic(errFailed) }, dead("exhausted")},
		{"runtime.Goexit is a failed attempt", 1, func(context.Context, *messaging.Delivery) error { runtime.Goexit(); return nil }, retry(time.Second, false)},
		{"a Codec that panics is a failed attempt", 1, messaging.Typed(breaking{}, func(context.Context, int, *messaging.Delivery) error { return nil }), retry(time.Second, false)},
		{"a change of the delivery by its handler changes nothing", last, func(_ context.Context, d *messaging.Delivery) error {
			d.Attempt = 1
			return errFailed
		}, dead("exhausted")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newScript()
				r := runOne(t, b, messaging.ConsumerConfig{MaxAttempts: last, Backoff: pause}, c.handler)
				d := delivery("m", c.attempt)
				b.deliver(d)
				if err := r.end(); err != nil {
					t.Errorf("Run() = %v, want nil", err)
				}
				got := d.verdict(t)
				if got.Kind != messaging.Ack && got.Err == nil {
					t.Errorf("verdict %v has no Err, want what the handler returned", got.Kind)
				}
				if got.Err = nil; got != c.want {
					t.Errorf("verdict = %+v, want %+v", got, c.want)
				}
			})
		})
	}
}

// breaking is a Codec with a fault.
type breaking struct{ messaging.JSON }

func (breaking) Decode(*messaging.Message, any) error { panic("no codec") }

// hostile is an error whose methods panic for a nil pointer.
type hostile struct{ text string }

func (e *hostile) Error() string { return e.text }

// fussy does so when it is asked for what it knows.
type fussy struct{ rejected, after, text, exit bool }

func (e fussy) Error() string {
	if e.text {
		panic("no text")
	}
	if e.exit {
		runtime.Goexit()
	}
	return "fussy"
}

func (e fussy) Rejected() bool {
	if e.rejected {
		panic("no opinion")
	}
	return false
}

func (e fussy) RetryAfter() time.Duration {
	if e.after {
		panic("no time")
	}
	return 0
}

func TestErrorOrBackoffThatPanicsIsAFailedAttempt(t *testing.T) {
	var typedNil *hostile
	pause := func(int) time.Duration { return time.Minute }
	for _, c := range []struct {
		name    string
		err     error
		backoff func(int) time.Duration
		after   bool // the Backoff given counts
		says    string
	}{
		{"Error of a nil pointer", typedNil, pause, true, "*messaging_test.hostile, whose Error method panicked"},
		{"Error", fussy{text: true}, pause, true, "no text"},
		{"Rejected", fussy{rejected: true}, pause, false, "no opinion"},
		{"RetryAfter", fussy{after: true}, pause, false, "no time"},
		{"Backoff", errFailed, func(int) time.Duration { panic("no backoff") }, false, "no backoff"},
		{"Goexit in Error", fussy{exit: true}, pause, false, "runtime.Goexit"},
		{"Goexit in Backoff", errFailed, func(int) time.Duration { runtime.Goexit(); return 0 }, false, "runtime.Goexit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ends []messaging.Settled
				b := newScript()
				r := runOne(t, b, messaging.ConsumerConfig{
					MaxAttempts: 2, Concurrency: 1, Backoff: c.backoff, OnSettle: func(s messaging.Settled) { ends = append(ends, s) },
				}, func(context.Context, *messaging.Delivery) error { return c.err })
				first, second := delivery("first", 1), delivery("second", 2)
				b.deliver(first)
				b.deliver(second)
				if err := r.end(); err != nil {
					t.Errorf("Run() = %v, want nil", err)
				}
				got := first.verdict(t)
				if got.Kind != messaging.Retry || got.KeepAttempt || (got.After == time.Minute) != c.after || got.After <= 0 {
					t.Errorf("verdict at attempt 1 = %+v, want a Retry after the Backoff given: %t", got, c.after)
				}
				if got.Err == nil || !strings.Contains(got.Err.Error(), c.says) {
					t.Errorf("error = %v, want %q in it", got.Err, c.says)
				}
				if got := second.verdict(t); c.err != errFailed && (got.Kind != messaging.DeadLetter || got.Reason != messaging.ReasonExhausted) { //nolint:errorlint // the table's
					t.Errorf("verdict at the last attempt = %+v, want exhausted", got)
				}
				if len(ends) != 2 {
					t.Errorf("OnSettle was called %d times, want 2", len(ends))
				}
				text := messaging.DeadHeaders(&second.d, got, time.Now())[messaging.HeaderDeadError]
				if !strings.Contains(text, c.says) {
					t.Errorf("DeadHeaders() says %q, want %q in it", text, c.says)
				}
			})
		})
	}
}

func TestVerdictWrapsTheHandlersErrorWithItsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
			return fmt.Errorf("save: %w", pushback(time.Hour))
		})
		d := delivery("m", 1)
		b.deliver(d)
		_ = r.end()
		err := d.verdict(t).Err
		if _, ok := errors.AsType[pushback](err); !ok || err.Error() != "save: too many requests" {
			t.Errorf("error = %v, want the handler's in it", err)
		}
	})
}

func TestNegativeBackoffIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Backoff: func(int) time.Duration { return -time.Second }}, fails)
		d := delivery("m", 1)
		b.deliver(d)
		_ = r.end()
		if got := d.verdict(t).After; got != 0 {
			t.Errorf("After = %v, want 0", got)
		}
	})
}

func fails(context.Context, *messaging.Delivery) error { return errFailed }

func TestDefaultBackoffGrowsByFourUpToTenMinutesWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{MaxAttempts: 1 << 40, Concurrency: 1}, fails)
		for attempt, most := range map[int]time.Duration{
			1: time.Second, 2: 4 * time.Second, 3: 16 * time.Second, 4: 64 * time.Second, 5: 256 * time.Second,
			6: 10 * time.Minute, 7: 10 * time.Minute, 1 << 30: 10 * time.Minute,
		} {
			seen := map[time.Duration]bool{}
			for range 20 {
				d := delivery("m", attempt)
				b.deliver(d)
				after := d.verdict(t).After
				if after > most || after <= most/2 {
					t.Errorf("After of attempt %d = %v, want in (%v, %v]", attempt, after, most/2, most)
				}
				seen[after] = true
			}
			if len(seen) < 2 {
				t.Errorf("After of attempt %d is always the same, want it to vary", attempt)
			}
		}
		_ = r.end()
	})
}

func TestPanicIsLoggedWithItsStackAndTheLaneGoesOn(t *testing.T) {
	testLaneGoesOn(t, func() { panicking() }, []string{"handler panicked: no", "verdict_test.go", "panicking"})
}

func panicking() { panic("no") }

func TestGoexitIsLoggedAndTheLaneGoesOn(t *testing.T) {
	testLaneGoesOn(t, runtime.Goexit, []string{"runtime.Goexit"})
}

func testLaneGoesOn(t *testing.T, end func(), logged []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1, Logger: log.logger()}, func(_ context.Context, d *messaging.Delivery) error {
			if d.ID == "bad" {
				end()
			}
			return nil
		})
		var good []*settler
		for range 3 { // more than there are lanes
			b.deliver(delivery("bad", 1))
			g := delivery("good", 1)
			g.d.Key = "k"
			b.deliver(g)
			good = append(good, g)
		}
		synctest.Wait()
		for _, g := range good {
			if got := g.verdict(t).Kind; got != messaging.Ack {
				t.Errorf("a message after the bad one was settled with %v, want ack", got)
			}
		}
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		for _, want := range logged {
			if !strings.Contains(log.String(), want) {
				t.Errorf("log = %q, want %q in it", log.String(), want)
			}
		}
	})
}

func TestLostDeliveryIsNotSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []messaging.Settled
		var cause error
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{OnSettle: func(s messaging.Settled) { ends = append(ends, s) }}, func(ctx context.Context, _ *messaging.Delivery) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil
		})
		lease, lose := context.WithCancelCause(t.Context())
		d := delivery("m", 1).under(lease)
		b.deliver(d)
		lose(messaging.ErrLost)
		synctest.Wait()
		if len(d.verdicts) != 0 {
			t.Errorf("the delivery was settled with %v, want nothing", d.verdicts)
		}
		if !errors.Is(cause, messaging.ErrLost) {
			t.Errorf("the handler's context ended with %v, want ErrLost", cause)
		}
		if len(ends) != 1 || !errors.Is(ends[0].Err, messaging.ErrLost) {
			t.Errorf("OnSettle was told %v, want ErrLost once", ends)
		}
		_ = r.end()
	})
}

func TestSettleThatFailsIsReportedAndNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		var ends []messaging.Settled
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Logger: log.logger(), MaxAttempts: 1, OnSettle: func(s messaging.Settled) { ends = append(ends, s) }}, fails)
		d := delivery("m", 1)
		d.err = messaging.ErrRefused
		b.deliver(d)
		if got := d.verdict(t).Kind; got != messaging.DeadLetter {
			t.Errorf("verdict = %v, want dead_letter alone: an Ack would lose the message", got)
		}
		if len(ends) != 1 || !errors.Is(ends[0].Err, messaging.ErrRefused) {
			t.Errorf("OnSettle was told %v, want ErrRefused once", ends)
		}
		if !strings.Contains(log.String(), "delivery not settled") {
			t.Errorf("log = %q, want the failure in it", log.String())
		}
		_ = r.end()
	})
}

// refusing is a Broker whose first Settle fails and settles nothing.
type refusing struct {
	*memory.Broker
	refused *atomic.Bool
}

type refusal struct {
	messaging.Settler
	refused *atomic.Bool
}

func (r refusing) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	return r.Broker.Subscribe(ctx, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
		return deliver(lease, d, refusal{set, r.refused})
	})
}

func (r refusal) Settle(ctx context.Context, v messaging.Verdict) error {
	if r.refused.CompareAndSwap(false, true) {
		return messaging.ErrRefused
	}
	return r.Settler.Settle(ctx, v)
}

func TestMessageIsAcknowledgedOnlyAfterItsHandlerReturnedNilAndComesAgainWhenSettlingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := refusing{newLeasing(t, time.Minute), new(atomic.Bool)}
		var calls atomic.Int64
		r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
			calls.Add(1)
			time.Sleep(time.Hour)
			return nil
		})
		publish(t, b, messaging.NewMessage("m", nil))
		pass(59 * time.Minute)
		if got := r.c.Stats()[0]; b.refused.Load() || got.Handled != 0 || got.InFlight != 1 {
			t.Errorf("settled %t, %+v while the handler runs, want nothing settled", b.refused.Load(), got)
		}
		pass(3 * time.Hour)
		if got := r.c.Stats()[0]; calls.Load() != 2 || got.Handled != 1 || got.Lost != 1 {
			t.Errorf("%d calls, %+v; want a second after the first Ack failed, and one handled", calls.Load(), got)
		}
		_ = r.end()
	})
}

func TestEachVerdictHas30SecondsToBeCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, ok)
		// The second and third are settled in what the first was settled in, or not.
		for _, after := range []time.Duration{0, 999 * time.Millisecond, time.Second, time.Hour} {
			time.Sleep(after)
			d := delivery("quick", 1)
			b.deliver(d)
			slow := delivery("slow", 1)
			var took time.Duration
			slow.settle = func(ctx context.Context) error {
				began := time.Now()
				<-ctx.Done()
				took = time.Since(began)
				return context.Cause(ctx)
			}
			b.deliver(slow)
			pass(time.Minute)
			if took < 30*time.Second || took > 31*time.Second {
				t.Errorf("a verdict was given up after %v, want 30s to 31s", took)
			}
		}
		lease, lose := context.WithCancelCause(context.Background())
		lost := delivery("lost", 1).under(lease)
		lost.settle = func(ctx context.Context) error {
			lose(messaging.ErrLost)
			return context.Cause(ctx)
		}
		b.deliver(lost)
		if !errors.Is(lost.err, messaging.ErrLost) {
			t.Errorf("the context of Settle ended with %v, want ErrLost as the lease", lost.err)
		}
		_ = r.end()
	})
}

func TestOnSettleIsToldTheVerdictAndTheHandlersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []messaging.Settled
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{OnSettle: func(s messaging.Settled) { ends = append(ends, s) }}, func(context.Context, *messaging.Delivery) error {
			time.Sleep(3 * time.Second)
			return errFailed
		})
		d := delivery("m", 1)
		b.deliver(d)
		_ = r.end()
		if len(ends) != 1 {
			t.Fatalf("OnSettle was called %d times, want once", len(ends))
		}
		got := ends[0]
		if got.Delivery != &d.d || got.Verdict.Kind != messaging.Retry || !errors.Is(got.Verdict.Err, errFailed) || got.Err != nil || got.Took != 3*time.Second {
			t.Errorf("OnSettle was told %+v, want the delivery, a Retry for errFailed, nil, 3s", got)
		}
	})
}

func TestTimeoutEndsTheHandlersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		var took time.Duration
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{Timeout: 5 * time.Second}, func(ctx context.Context, _ *messaging.Delivery) error {
			began := time.Now()
			<-ctx.Done()
			cause, took = context.Cause(ctx), time.Since(began)
			return ctx.Err()
		})
		d := delivery("m", 1)
		b.deliver(d)
		_ = r.end()
		if !errors.Is(cause, messaging.ErrTimeout) || took != 5*time.Second {
			t.Errorf("the context ended with %v after %v, want ErrTimeout after 5s", cause, took)
		}
		if got := d.verdict(t).Kind; got != messaging.Retry {
			t.Errorf("verdict = %v, want retry", got)
		}
	})
}

func TestHandlersContextEndsWhenItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended <-chan struct{}
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			ended = ctx.Done()
			return nil
		})
		b.deliver(delivery("m", 1))
		select {
		case <-ended:
		default:
			t.Error("the context is alive after the handler returned, want it ended")
		}
		_ = r.end()
	})
}

func TestKindsHaveNames(t *testing.T) {
	for k, want := range map[messaging.Kind]string{
		messaging.Ack: "ack", messaging.Retry: "retry", messaging.DeadLetter: "dead_letter", messaging.Release: "release", 99: "unknown",
	} {
		if got := k.String(); got != want {
			t.Errorf("Kind(%d).String() = %q, want %q", int(k), got, want)
		}
	}
}
