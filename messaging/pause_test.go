package messaging_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestPausedSubscriptionFinishesWhatRunsGivesBackTheRestAndHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var order []string
		var others atomic.Int64
		live := true
		r := run(t, b, messaging.ConsumerConfig{Concurrency: 1}, handled{"t", "g", func(ctx context.Context, d *messaging.Delivery) error {
			time.Sleep(time.Second)
			live = live && ctx.Err() == nil
			order = append(order, string(d.Payload))
			return nil
		}}, handled{"t", "other", func(context.Context, *messaging.Delivery) error { others.Add(1); return nil }})
		for n := range 5 {
			publish(t, b, keyed("k", n))
		}
		pass(1500 * time.Millisecond) // in the second
		if err := r.c.Pause("t", "g"); err != nil {
			t.Errorf("Pause() = %v, want nil", err)
		}
		synctest.Wait()
		if got := r.c.Stats()[0]; !got.Paused || got.InFlight != 1 || got.Waiting != 3 {
			t.Errorf("Stats() = %+v, want paused with one handler in flight and 3 that wait for their release", got)
		}
		pass(time.Hour)
		publish(t, b, keyed("k", 5))
		pass(time.Hour)
		if got := strings.Join(order, " "); got != "0 1" || !live {
			t.Errorf("handled %s while paused, live contexts %t; want 0 and 1, true", got, live)
		}
		if got := r.c.Stats()[0]; got.Established || got.InFlight != 0 || got.Waiting != 0 || got.Released != 3 {
			t.Errorf("Stats() = %+v, want all at rest, 3 released", got)
		}
		if others.Load() != 6 {
			t.Errorf("the other subscription handled %d messages meanwhile, want 6", others.Load())
		}
		if err := r.c.Resume("t", "g"); err != nil {
			t.Errorf("Resume() = %v, want nil", err)
		}
		pass(time.Hour)
		if got := strings.Join(order, " "); got != "0 1 2 3 4 5" {
			t.Errorf("handled %s, want 0 to 5 in order", got)
		}
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestResumeWaitsForTheHandlersThatRanAtThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var most, now atomic.Int64
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(context.Context, *messaging.Delivery) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			time.Sleep(time.Minute)
			return nil
		})
		publish(t, b, keyed("k", 0), keyed("k", 1))
		synctest.Wait()
		_ = r.c.Pause("t", "g")
		_ = r.c.Resume("t", "g")
		pass(time.Hour)
		if got := r.c.Stats()[0]; got.Handled != 2 || most.Load() != 1 {
			t.Errorf("Stats() = %+v, at most %d handlers at one time; want 2 handled, one after the other", got, most.Load())
		}
		_ = r.end()
	})
}

func TestSubscriptionThatIsPausedBeforeRunBeginsPausedAndReadyDoesNotWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		declare(t, b)
		c, _ := messaging.NewConsumer(b, messaging.ConsumerConfig{})
		var handled atomic.Int64
		c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery) error { handled.Add(1); return nil })
		c.Handle(messaging.Subscription{Topic: "t", Group: "other"}, ok)
		if err := c.Pause("t", "g"); err != nil {
			t.Errorf("Pause() before Run = %v, want nil", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		<-c.Ready()
		if err := c.Health(); err != nil {
			t.Errorf("Health() = %v while one is paused and the other established, want nil", err)
		}
		publish(t, b, messaging.NewMessage("m", nil))
		synctest.Wait()
		if got := handled.Load(); got != 0 {
			t.Errorf("%d messages were handled while paused, want 0", got)
		}
		_ = c.Resume("t", "g")
		synctest.Wait()
		if got := handled.Load(); got != 1 {
			t.Errorf("%d messages were handled after Resume, want 1", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// declare makes the group without keeping a subscriber.
func declare(t *testing.T, b messaging.Broker) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })
	if err != nil {
		t.Fatalf("Subscribe() = %v, want nil", err)
	}
}

func TestReadyIsClosedWhenTheLastThatIsNotEstablishedIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		b.ready = false
		b.onSubscribe = func(func()) {}
		c, _ := messaging.NewConsumer(b, messaging.ConsumerConfig{})
		c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, ok)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		select {
		case <-c.Ready():
			t.Error("Ready() is closed, want it open until the subscription is established or paused")
		default:
		}
		_ = c.Pause("t", "g")
		<-c.Ready()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestPauseAndResumeMayBeCalledTwiceAndAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		r := runOne(t, b, messaging.ConsumerConfig{}, ok)
		for range 2 {
			_ = r.c.Resume("t", "g")
		}
		for range 2 {
			_ = r.c.Pause("t", "g")
			synctest.Wait()
		}
		for range 2 {
			_ = r.c.Resume("t", "g")
			synctest.Wait()
		}
		publish(t, b, messaging.NewMessage("m", nil))
		synctest.Wait()
		if got := r.c.Stats()[0]; got.Handled != 1 || got.Paused || !got.Established {
			t.Errorf("Stats() = %+v, want one handled, not paused", got)
		}
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if err := errors.Join(r.c.Pause("t", "g"), r.c.Resume("t", "g")); err != nil {
			t.Errorf("Pause() and Resume() after Run = %v, want nil", err)
		}
	})
}

func TestPauseAndResumeRefuseWhatIsNotHandled(t *testing.T) {
	c, _ := messaging.NewConsumer(newScript(), messaging.ConsumerConfig{})
	c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, ok)
	for _, err := range []error{c.Pause("t", "other"), c.Resume("other", "g")} {
		if !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "call Handle first") {
			t.Errorf("error = %v, want ErrInvalid that says what to do", err)
		}
	}
}

func TestRunEndsWhileASubscriptionIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runOne(t, newScript(), messaging.ConsumerConfig{}, ok)
		_ = r.c.Pause("t", "g")
		synctest.Wait()
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestPauseAtTheMomentOfSubscribingIsHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{}, ok)
		_ = r.c.Pause("t", "g")
		synctest.Wait()
		b.onPromises = func() { _ = r.c.Pause("t", "g") } // which comes just before Subscribe
		_ = r.c.Resume("t", "g")
		synctest.Wait()
		if got := r.c.Stats()[0]; !got.Paused || got.Established {
			t.Errorf("Stats() = %+v, want paused", got)
		}
		b.onPromises = nil
		_ = r.c.Resume("t", "g")
		d := delivery("m", 1)
		b.deliver(d)
		if got := d.verdict(t).Kind; got != messaging.Ack {
			t.Errorf("verdict = %v, want ack", got)
		}
		_ = r.end()
	})
}

func TestFailureOfAnotherSubscriptionEndsAPausedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := newScript(), newScript()
		r := run(t, either{"bad": bad, "good": good}, messaging.ConsumerConfig{}, handled{"bad", "g", ok}, handled{"good", "g", ok})
		_ = r.c.Pause("good", "g")
		synctest.Wait()
		bad.fail <- messaging.ErrDenied
		if err := <-r.ended; !errors.Is(err, messaging.ErrDenied) {
			t.Errorf("Run() = %v, want ErrDenied", err)
		}
	})
}

func TestResumedSubscriptionThatFailsForGoodEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		r := runOne(t, b, messaging.ConsumerConfig{}, ok)
		_ = r.c.Pause("t", "g")
		synctest.Wait()
		_ = b.Close(t.Context())
		_ = r.c.Resume("t", "g")
		if err := <-r.ended; !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Run() = %v, want ErrClosed", err)
		}
	})
}

// Pause and Resume come from everywhere while Run ends, on all processors.
func TestPauseRacesWithTheDrainAndNothingIsLost(t *testing.T) {
	for range 20 {
		b := newMemory(t)
		declare(t, b)
		const total = 200
		var mu sync.Mutex
		seen := map[string]int{}
		count := func(_ context.Context, d *messaging.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			seen[d.ID]++
			return nil
		}
		c, _ := messaging.NewConsumer(b, messaging.ConsumerConfig{Logger: slog.New(slog.DiscardHandler)})
		c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, count)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 50 {
					if rand.IntN(2) == 0 {
						_ = c.Pause("t", "g")
					} else {
						_ = c.Resume("t", "g")
					}
					_, _ = c.Stats(), c.Health()
				}
			})
		}
		all.Go(func() {
			for n := range total {
				publish(t, b, keyed(strconv.Itoa(n%5), n))
				if n == total/2 {
					cancel()
				}
			}
		})
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		all.Wait()
		handled := len(seen)
		if got := c.Stats()[0]; got.Handled != uint64(handled) || got.InFlight != 0 || got.Waiting != 0 {
			t.Errorf("Stats() = %+v after %d calls, want as many handled and all at rest", got, handled)
		}
		left, stop := context.WithCancel(t.Context())
		_ = b.Subscribe(left, messaging.Subscription{Topic: "t", Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			if seen[d.ID]++; len(seen) == total {
				stop()
			}
			return s.Settle(lease, messaging.Verdict{})
		})
		stop()
		for id, n := range seen {
			if n != 1 {
				t.Errorf("message %s was handled %d times, want once", id, n)
			}
		}
	}
}
