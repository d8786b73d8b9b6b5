package messaging_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestRunningHandlersKeepALiveContextUntilDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		var took time.Duration
		var stopped time.Time
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{DrainTimeout: 10 * time.Second}, func(ctx context.Context, _ *messaging.Delivery) error {
			<-ctx.Done()
			cause, took = context.Cause(ctx), time.Since(stopped)
			return ctx.Err()
		})
		d := delivery("m", 1)
		b.deliver(d)
		stopped = time.Now()
		err := r.end()
		if !errors.Is(err, messaging.ErrDrain) {
			t.Errorf("Run() = %v, want ErrDrain", err)
		}
		if !errors.Is(cause, messaging.ErrDrain) || took != 10*time.Second {
			t.Errorf("the handler's context ended with %v after %v, want ErrDrain after 10s", cause, took)
		}
		if got := d.verdict(t).Kind; got != messaging.Release {
			t.Errorf("verdict = %v, want release", got)
		}
	})
}

func TestHandlerThatSucceedsAfterDrainTimeoutIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{DrainTimeout: time.Second}, func(ctx context.Context, _ *messaging.Delivery) error {
			<-ctx.Done()
			return nil
		})
		d := delivery("m", 1)
		b.deliver(d)
		if err := r.end(); !errors.Is(err, messaging.ErrDrain) {
			t.Errorf("Run() = %v, want ErrDrain", err)
		}
		if got := d.verdict(t).Kind; got != messaging.Ack {
			t.Errorf("verdict = %v, want ack", got)
		}
	})
}

func TestHandlerThatFailsWhileDrainingIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			time.Sleep(3 * time.Second)
			return errors.Join(errFailed, ctx.Err())
		})
		d := delivery("m", 1)
		b.deliver(d)
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if got := d.verdict(t); got.Kind != messaging.Retry || errors.Is(got.Err, context.Canceled) {
			t.Errorf("verdict = %v for %v, want retry for the handler's own failure", got.Kind, got.Err)
		}
	})
}

func TestRunGivesBackWhatNoHandlerHasBegunWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var begun atomic.Int64
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 3}, func(context.Context, *messaging.Delivery) error {
			begun.Add(1)
			time.Sleep(3 * time.Second)
			return nil
		})
		for n := range 50 {
			publish(t, b, keyed("", n))
		}
		synctest.Wait()
		began := time.Now()
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if begun.Load() != 3 || time.Since(began) != 3*time.Second {
			t.Errorf("%d handlers were begun, Run() took %v; want 3 and 3s", begun.Load(), time.Since(began))
		}
		left := rest(t, b)
		if len(left) != 47 {
			t.Fatalf("%d messages were left, want 47", len(left))
		}
		for i, d := range left {
			if d.Attempt != 1 {
				t.Errorf("message %s: Attempt = %d, want 1", d.Payload, d.Attempt)
			}
			if want := strconv.Itoa(i + 3); string(d.Payload) != want {
				t.Errorf("message %s came where %s was next", d.Payload, want)
			}
		}
	})
}

func TestHundredRunsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails when a goroutine remains
		b := newMemory(t)
		var handled atomic.Int64
		for range 100 {
			r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
				handled.Add(1)
				return nil
			})
			publish(t, b, messaging.NewMessage("m", nil))
			synctest.Wait()
			if err := r.end(); err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
		}
		if handled.Load() != 100 {
			t.Errorf("%d messages were handled, want 100", handled.Load())
		}
	})
}
