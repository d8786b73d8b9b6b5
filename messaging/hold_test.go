package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A trail notes what handlers were called with, and when.
type trail struct {
	began time.Time
	mu    sync.Mutex
	steps []string
}

func newTrail() *trail { return &trail{began: time.Now()} }

// note writes down "key+number/attempt@seconds".
func (l *trail) note(d *messaging.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = append(l.steps, fmt.Sprintf("%s%s/%d@%d", d.Key, d.Payload, d.Attempt, int(time.Since(l.began).Seconds())))
}

// want compares the trail with steps that are separated by spaces.
func (l *trail) want(t *testing.T, want string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := strings.Join(l.steps, " "); got != want {
		t.Errorf("attempts = %s, want %s", got, want)
	}
}

// wantInAnyOrder is want where keys take turns by chance. It sorts the trail.
func (l *trail) wantInAnyOrder(t *testing.T, want string) {
	t.Helper()
	l.mu.Lock()
	slices.Sort(l.steps)
	l.mu.Unlock()
	l.want(t, want)
}

// inOrder is a config for ordered retries in one lane, after 10 s.
func inOrder() messaging.ConsumerConfig {
	return messaging.ConsumerConfig{OrderedRetries: true, Concurrency: 1, Backoff: func(int) time.Duration { return 10 * time.Second }}
}

func TestFailingMessageHoldsBackTheLaterOnesOfItsKeyAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, trail := newMemory(t), newTrail()
		r := runOne(t, b, inOrder(), func(_ context.Context, d *messaging.Delivery) error {
			trail.note(d)
			if d.Key == "a" && string(d.Payload) != "2" && d.Attempt < 3 {
				return errFailed
			}
			return nil
		})
		for n := range 3 {
			publish(t, b, keyed("a", n), keyed("b", n))
		}
		publish(t, b, keyed("", 0))
		pass(time.Second)
		trail.wantInAnyOrder(t, "0/1@0 a0/1@0 b0/1@0 b1/1@0 b2/1@0")
		pass(time.Hour)
		trail.want(t, "0/1@0 a0/1@0 b0/1@0 b1/1@0 b2/1@0 a0/2@10 a0/3@20 a1/1@20 a1/2@30 a1/3@40 a2/1@40")
		if got := r.c.Stats()[0]; got.Handled != 7 || got.Retried != 4 || got.Held != 0 {
			t.Errorf("Stats() = %+v, want 7 handled, 4 retried, 0 held", got)
		}
		_ = r.end()
	})
}

func TestHeldKeyGoesOnWhenItsFirstMessageIsDeadLettered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, trail := newMemory(t), newTrail()
		cfg := inOrder()
		cfg.MaxAttempts = 2
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			trail.note(d)
			if string(d.Payload) == "0" {
				return errFailed
			}
			return nil
		})
		publish(t, b, keyed("a", 0), keyed("a", 1))
		pass(time.Hour)
		trail.want(t, "a0/1@0 a0/2@10 a1/1@10")
		dead := b.DeadLetters("t", "g")
		if len(dead) != 1 || dead[0].Headers[messaging.HeaderDeadAttempts] != "2" || dead[0].Headers[messaging.HeaderDeadReason] != messaging.ReasonExhausted {
			t.Errorf("dead letters = %v, want one, exhausted after 2 attempts", dead)
		}
		_ = r.end()
	})
}

func TestMessageWithoutKeyIsRetriedByTheBrokerUnderOrderedRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, inOrder(), func(_ context.Context, d *messaging.Delivery) error {
			d.Key = "what the handler found in the payload" // as CloudEvents does
			return errFailed
		})
		d := delivery("m", 1)
		b.deliver(d)
		if got := d.verdict(t); got.Kind != messaging.Retry || got.After != 10*time.Second {
			t.Errorf("verdict = %+v, want a Retry after 10s", got)
		}
		_ = r.end()
	})
}

func TestNoAttemptSeesWhatAnEarlierOneDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var seen []string
		r := runOne(t, b, inOrder(), func(_ context.Context, d *messaging.Delivery) error {
			seen = append(seen, fmt.Sprint(d.ID, d.Key, d.Topic, d.Attempt, string(d.Payload), d.Headers))
			copy(d.Payload, "spoiled")
			d.Headers["name"], d.ID, d.Key, d.Topic = "spoiled", "spoiled", "spoiled", "spoiled"
			if d.Attempt = 99; len(seen) < 3 {
				return errFailed
			}
			return nil
		})
		m := messaging.Message{ID: "id", Key: "k", Headers: map[string]string{"name": "value"}, Payload: []byte("payload")}
		publish(t, b, m)
		pass(time.Hour)
		for i, got := range seen {
			if want := fmt.Sprint("id", "k", "t", i+1, "payload", m.Headers); got != want {
				t.Errorf("attempt %d sees %s, want %s", i+1, got, want)
			}
		}
		if len(seen) != 3 {
			t.Errorf("%d attempts, want 3", len(seen))
		}
		_ = r.end()
	})
}

func TestRejectedMessageIsHeldWithoutAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, trail := newMemory(t), newTrail()
		cfg := inOrder()
		cfg.MaxAttempts = 1
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			trail.note(d)
			if time.Since(trail.began) < time.Minute {
				return rejection{30 * time.Second}
			}
			return nil
		})
		publish(t, b, keyed("a", 0), keyed("a", 1))
		pass(time.Hour)
		trail.want(t, "a0/1@0 a0/1@30 a0/1@60 a1/1@60")
		_ = r.end()
	})
}

func TestRejectionsWithoutDelayStarveNoOtherKeyOfTheLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		cfg := inOrder()
		cfg.Backoff = func(int) time.Duration { return 0 }
		others, rejected := 0, 0
		var stop func()
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			if d.Key == "others" {
				if others++; others == 50 {
					stop()
				}
				return nil
			}
			rejected++
			return rejection{}
		})
		stop = r.stop
		publish(t, b, keyed("rejected", 0))
		for n := range 50 {
			publish(t, b, keyed("others", n))
		}
		if err := <-r.ended; err != nil || others != 50 || rejected == 0 {
			t.Errorf("Run() = %v after %d rejections and %d others, want nil and 50 others", err, rejected, others)
		}
	})
}

func TestLaneGoesOnThoughAnAttemptInOrderPanicsOrEndsItsGoroutine(t *testing.T) {
	for name, end := range map[string]func(){"panic": panicking, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, trail := newMemory(t), newTrail()
				r := runOne(t, b, inOrder(), func(_ context.Context, d *messaging.Delivery) error {
					trail.note(d)
					if d.Key == "a" && d.Attempt < 3 {
						end()
					}
					return nil
				})
				publish(t, b, keyed("a", 0), keyed("a", 1))
				pass(time.Second)
				publish(t, b, keyed("b", 0))
				pass(time.Hour)
				trail.want(t, "a0/1@0 b0/1@1 a0/2@10 a0/3@20 a1/1@20 a1/2@30 a1/3@40")
				_ = r.end()
			})
		})
	}
}

func TestHeldDeliveriesCountAgainstPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, trail := newMemory(t), newTrail()
		c, _ := messaging.NewConsumer(b, inOrder())
		c.Handle(messaging.Subscription{Topic: "t", Group: "g", Prefetch: 3}, func(_ context.Context, d *messaging.Delivery) error {
			trail.note(d)
			if d.Key == "a" && d.Attempt == 1 && string(d.Payload) == "0" {
				return errFailed
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		<-c.Ready()
		publish(t, b, keyed("a", 0), keyed("a", 1), keyed("a", 2), keyed("b", 0))
		synctest.Wait()
		if got := c.Stats()[0]; got.Held != 3 || got.Retried != 1 || got.Waiting != 0 || got.InFlight != 0 {
			t.Errorf("Stats() = %+v, want 3 held", got)
		}
		pass(time.Minute)
		trail.wantInAnyOrder(t, "a0/1@0 a0/2@10 a1/1@10 a2/1@10 b0/1@10")
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// releases notes the IDs that are released, in order.
func releases(cfg messaging.ConsumerConfig) (_ messaging.ConsumerConfig, released func() string) {
	var mu sync.Mutex
	var ids []string
	cfg.OnSettle = func(s messaging.Settled) {
		mu.Lock()
		defer mu.Unlock()
		if s.Verdict.Kind == messaging.Release {
			ids = append(ids, s.Delivery.ID)
		}
	}
	return cfg, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(ids, " ")
	}
}

func TestHeldDeliveriesAreReleasedInOrderWhenTheConsumerStopsOrPauses(t *testing.T) {
	for name, quit := range map[string]func(*running){
		"stops":  func(r *running) { r.stop() },
		"pauses": func(r *running) { _ = r.c.Pause("t", "g") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newScript()
				cfg, released := releases(inOrder())
				r := runOne(t, b, cfg, fails)
				var all []string
				for n := range 20 {
					d := keyedDelivery("a", strconv.Itoa(n))
					b.deliver(d)
					all = append(all, d.d.ID)
				}
				quit(r)
				synctest.Wait()
				if got, want := released(), strings.Join(all, " "); got != want {
					t.Errorf("released %s, want %s", got, want)
				}
				if got := r.c.Stats()[0]; got.Held != 0 || got.Released != 20 {
					t.Errorf("Stats() = %+v, want 0 held, 20 released", got)
				}
				if err := r.end(); err != nil {
					t.Errorf("Run() = %v, want nil", err)
				}
			})
		})
	}
}

func TestHeldDeliveriesAreReleasedThoughOnSettleEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		cfg, released := releases(inOrder())
		note, calls := cfg.OnSettle, 0
		cfg.OnSettle = func(s messaging.Settled) {
			note(s)
			if calls++; calls > 2 { // the first attempt has failed, its message been released
				runtime.Goexit()
			}
		}
		r := runOne(t, b, cfg, fails)
		for n := range 5 {
			b.deliver(keyedDelivery("a", strconv.Itoa(n)))
		}
		r.stop()
		synctest.Wait()
		select {
		case err := <-r.ended:
			if err != nil || released() != "0 1 2 3 4" {
				t.Errorf("Run() = %v, released %s; want nil, 0 1 2 3 4", err, released())
			}
		default:
			t.Errorf("Run() goes on, released %s; want its end, 0 1 2 3 4", released())
			b.fail <- nil
		}
	})
}

func TestHeldDeliveriesAreReleasedInOrderWhenSubscribeFails(t *testing.T) {
	for range 10 { // which of what then happens is seen first, is chance
		synctest.Test(t, func(t *testing.T) {
			b := newScript()
			cfg, released := releases(inOrder())
			r := runOne(t, b, cfg, fails)
			for n := range 3 {
				b.deliver(keyedDelivery("a", strconv.Itoa(n)))
			}
			b.fail <- messaging.ErrClosed
			if err := <-r.ended; !errors.Is(err, messaging.ErrClosed) || released() != "0 1 2" {
				t.Errorf("Run() = %v, released %s; want ErrClosed, 0 1 2", err, released())
			}
		})
	}
}

func TestMessageWithoutKeyIsHandledWhileAKeyIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, inOrder(), func(_ context.Context, d *messaging.Delivery) error {
			if d.Key != "" {
				return errFailed
			}
			return nil
		})
		b.deliver(keyedDelivery("a", "held"))
		d := delivery("m", 1)
		b.deliver(d)
		if got := d.verdict(t).Kind; got != messaging.Ack {
			t.Errorf("verdict = %v, want ack", got)
		}
		_ = r.end()
	})
}

func TestAttemptInOrderThatFailsWhileDrainingIsReleasedAndThenTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		cfg, released := releases(inOrder())
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			if d.Attempt == 2 {
				time.Sleep(5 * time.Second)
			}
			return errFailed
		})
		var all []*settler
		for n := range 3 {
			d := keyedDelivery("a", strconv.Itoa(n))
			b.deliver(d)
			all = append(all, d)
		}
		pass(12 * time.Second) // in the second attempt
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if got := all[0].verdict(t); got.Kind != messaging.Release || !errors.Is(got.Err, errFailed) {
			t.Errorf("the first was settled with %+v, want released for its failure", got)
		}
		if got := released(); got != "0 1 2" {
			t.Errorf("released %s, want 0 1 2", got)
		}
	})
}

func TestLossOfAHeldDeliveryReleasesTheOthersOfItsKeyInOrder(t *testing.T) {
	for lost := range 3 {
		t.Run(fmt.Sprintf("number %d", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newScript()
				cfg, released := releases(inOrder())
				calls := 0
				r := runOne(t, b, cfg, func(context.Context, *messaging.Delivery) error { calls++; return errFailed })
				lease, lose := context.WithCancelCause(t.Context())
				for n := range 3 {
					d := keyedDelivery("a", strconv.Itoa(n))
					if n == lost {
						d.under(lease)
					}
					b.deliver(d)
				}
				other := keyedDelivery("b", "other")
				b.deliver(other)
				lose(messaging.ErrLost)
				synctest.Wait()
				if got := released(); got != "0 1 2" {
					t.Errorf("settled %s, want 0 1 2", got)
				}
				got := r.c.Stats()[0]
				if got.Lost != 1 || got.Released != 2 || got.Held != 1 {
					t.Errorf("Stats() = %+v, want 1 lost, 2 released, the other key held", got)
				}
				again := keyedDelivery("a", "again")
				b.deliver(again)
				if calls != 3 {
					t.Errorf("%d calls, want a third at once: the key is held no more", calls)
				}
				_ = r.end()
			})
		})
	}
}

func TestLossDuringAnAttemptInOrderReleasesTheOthersOfItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		cfg, released := releases(inOrder())
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			if d.Attempt == 2 {
				time.Sleep(5 * time.Second)
			}
			return errFailed
		})
		lease, lose := context.WithCancelCause(t.Context())
		b.deliver(keyedDelivery("a", "0").under(lease))
		b.deliver(keyedDelivery("a", "1"))
		pass(12 * time.Second)
		lose(messaging.ErrLost)
		pass(5 * time.Second)
		if got := released(); got != "0 1" || r.c.Stats()[0].Lost != 1 {
			t.Errorf("settled %s, %+v, want 0, lost, and 1", got, r.c.Stats()[0])
		}
		_ = r.end()
	})
}

// The broker hands the lost one over before the lane has seen that it is lost, or
// while it is busy: then it waits in the lane, ahead of the nudge.
func TestLostDeliveryThatComesAgainIsNotQueuedBehindTheOthersOfItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, trail := newScript(), newTrail()
		cfg, released := releases(inOrder())
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			trail.note(d)
			if d.Key == "busy" {
				time.Sleep(time.Second)
			}
			if d.Key == "a" && !d.Redelivered {
				return errFailed
			}
			return nil
		})
		lease, lose := context.WithCancelCause(t.Context())
		b.deliver(keyedDelivery("a", "0").under(lease))
		b.deliver(keyedDelivery("a", "1"))
		b.deliver(keyedDelivery("busy", "x"))
		lose(messaging.ErrLost)
		again := keyedDelivery("a", "0")
		again.d.Redelivered = true
		b.deliver(again)
		pass(2 * time.Second)
		trail.want(t, "a/1@0 busy/1@0 a/1@1")
		if got := released(); got != "0 1" || again.verdict(t).Kind != messaging.Ack {
			t.Errorf("settled %s, and the first again with %v; want 0 and 1 given up, then an Ack", got, again.verdict(t).Kind)
		}
		_ = r.end()
	})
}

func TestSettleThatFailsInOrderReleasesTheOthersOfItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		cfg, released := releases(inOrder())
		r := runOne(t, b, cfg, func(_ context.Context, d *messaging.Delivery) error {
			if d.Attempt == 1 {
				return errFailed
			}
			return nil
		})
		first := keyedDelivery("a", "0")
		first.err = messaging.ErrRefused
		b.deliver(first)
		b.deliver(keyedDelivery("a", "1"))
		pass(time.Minute)
		if got := released(); got != "1" || first.verdict(t).Kind != messaging.Ack {
			t.Errorf("released %s after an Ack that failed, want 1: the first comes again and must not come behind it", got)
		}
		_ = r.end()
	})
}

func TestOnSettleIsToldEachAttemptThatIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []string
		b := newScript()
		cfg := inOrder()
		cfg.MaxAttempts = 3
		cfg.OnSettle = func(s messaging.Settled) {
			ends = append(ends, fmt.Sprintf("%v of attempt %d after %v in %v", s.Verdict.Kind, s.Delivery.Attempt, s.Verdict.After, s.Took))
		}
		r := runOne(t, b, cfg, func(context.Context, *messaging.Delivery) error {
			time.Sleep(time.Second)
			return errFailed
		})
		d := keyedDelivery("a", "0")
		b.deliver(d)
		pass(time.Hour)
		want := "retry of attempt 1 after 10s in 1s, retry of attempt 2 after 10s in 1s, dead_letter of attempt 3 after 0s in 1s"
		if got := strings.Join(ends, ", "); got != want {
			t.Errorf("OnSettle was told %s, want %s", got, want)
		}
		if got := d.verdict(t); got.Attempt != 3 {
			t.Errorf("Verdict.Attempt = %d, want 3", got.Attempt)
		}
		_ = r.end()
	})
}
