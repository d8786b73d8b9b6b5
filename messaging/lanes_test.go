package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

func keyed(key string, n int) messaging.Message {
	m := messaging.NewMessage("m", []byte(strconv.Itoa(n)))
	m.Key = key
	return m
}

func TestMessagesOfOneKeyAreHandledInOrderAndNeverTwoAtOneTime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		const keys, each = 20, 50
		b := newMemory(t)
		var mu sync.Mutex
		busy, next := map[string]bool{}, map[string]int{}
		most, now := 0, 0
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 5}, func(_ context.Context, d *messaging.Delivery) error {
			n, _ := strconv.Atoi(string(d.Payload))
			mu.Lock()
			if now++; now > most {
				most = now
			}
			if d.Key != "" && (busy[d.Key] || n != next[d.Key]) {
				t.Errorf("key %s: message %d begins, busy %t, where %d was next", d.Key, n, busy[d.Key], next[d.Key])
			}
			busy[d.Key] = true
			next[d.Key] = n + 1
			pause := time.Duration(rng.IntN(100)) * time.Millisecond
			mu.Unlock()
			time.Sleep(pause)
			mu.Lock()
			defer mu.Unlock()
			busy[d.Key] = false
			now--
			return nil
		})
		for n := range each {
			for k := range keys {
				publish(t, b, keyed(strconv.Itoa(k), n))
			}
			publish(t, b, keyed("", n))
		}
		time.Sleep(time.Hour)
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		for k := range keys {
			if got := next[strconv.Itoa(k)]; got != each {
				t.Errorf("key %d: %d messages were handled, want %d", k, got, each)
			}
		}
		if most != 5 {
			t.Errorf("at most %d handlers ran at one time, want 5", most)
		}
	})
}

func TestBlockedKeyHoldsUpNoMessageWithoutKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		release := make(chan struct{})
		var handled atomic.Int64
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 2}, func(_ context.Context, d *messaging.Delivery) error {
			if d.Key == "blocked" {
				<-release
				return nil
			}
			handled.Add(1)
			return nil
		})
		for n := range 20 {
			publish(t, b, keyed("blocked", n), keyed("", n))
		}
		synctest.Wait()
		if got := handled.Load(); got != 20 {
			t.Errorf("%d messages without key were handled while a key is blocked, want 20", got)
		}
		close(release)
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestBlockedKeyHoldsUpTheSubscriptionOnlyAtPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		release := make(chan struct{})
		var handled atomic.Int64
		c, _ := messaging.NewConsumer(b, messaging.ConsumerConfig{Concurrency: 2})
		c.Handle(messaging.Subscription{Topic: "t", Group: "g", Prefetch: 10}, func(_ context.Context, d *messaging.Delivery) error {
			if d.Key == "blocked" {
				<-release
			} else {
				handled.Add(1)
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		<-c.Ready()
		for n := range 9 { // one less than Prefetch
			publish(t, b, keyed("blocked", n))
		}
		for n := range 5 {
			publish(t, b, keyed("", n))
		}
		synctest.Wait()
		if got := handled.Load(); got != 5 {
			t.Errorf("%d others were handled below Prefetch, want 5", got)
		}
		publish(t, b, keyed("blocked", 9), keyed("", 5))
		synctest.Wait()
		if got := handled.Load(); got != 5 {
			t.Errorf("%d others were handled at Prefetch, want 5 still", got)
		}
		close(release)
		synctest.Wait()
		if got := handled.Load(); got != 6 {
			t.Errorf("%d others were handled after the key was free, want 6", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestFullLaneGivesWayWhenTheConsumerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		c, _ := messaging.NewConsumer(b, messaging.ConsumerConfig{Concurrency: 1})
		begun := 0
		c.Handle(messaging.Subscription{Topic: "t", Group: "g", Prefetch: 1000}, func(context.Context, *messaging.Delivery) error {
			begun++
			time.Sleep(time.Second)
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		<-c.Ready()
		for n := range 500 { // more than a lane holds
			publish(t, b, keyed("k", n))
		}
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil || begun != 1 {
			t.Errorf("Run() = %v after %d handlers, want nil after 1", err, begun)
		}
		if got := len(rest(t, b)); got != 499 {
			t.Errorf("%d messages were left, want 499", got)
		}
	})
}

// rest takes what group g of topic t holds.
func rest(t *testing.T, b *memory.Broker) []messaging.Delivery {
	t.Helper()
	var left []messaging.Delivery
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			left = append(left, *d)
			return s.Settle(lease, messaging.Verdict{})
		})
	}()
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Subscribe() = %v, want nil", err)
	}
	return left
}

func TestRetryWithLongBackoffHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		began := time.Now()
		var others int
		var again time.Duration
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1, Backoff: func(int) time.Duration { return 10 * time.Second }}, func(_ context.Context, d *messaging.Delivery) error {
			switch {
			case d.Type != "failing":
				others++
				return nil
			case d.Attempt == 1:
				return errFailed
			}
			again = time.Since(began)
			return nil
		})
		publish(t, b, messaging.NewMessage("failing", nil))
		for range 99 {
			publish(t, b, messaging.NewMessage("other", nil))
		}
		synctest.Wait()
		if others != 99 || time.Since(began) != 0 {
			t.Errorf("%d others were handled after %v, want 99 at once", others, time.Since(began))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if again != 10*time.Second {
			t.Errorf("the failing message came again after %v, want 10s", again)
		}
		_ = r.end()
	})
}

func TestTwoConsumersOfOneGroupShareItsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var counts [2]atomic.Int64
		var both []*running
		for i := range counts {
			both = append(both, runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(context.Context, *messaging.Delivery) error {
				counts[i].Add(1)
				time.Sleep(time.Second)
				return nil
			}))
		}
		for n := range 200 {
			publish(t, b, keyed("", n))
		}
		pass(time.Hour)
		first, second := counts[0].Load(), counts[1].Load()
		if first+second != 200 || first < 64 || second < 64 { // each has a Prefetch of 64
			t.Errorf("the Consumers handled %d and %d messages, want 200 together, and each its share", first, second)
		}
		for _, r := range both {
			_ = r.end()
		}
	})
}

func TestPoisonIsTriedMaxAttemptsTimesAndThenRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		var calls atomic.Int64
		r := runOne(t, b, messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
			calls.Add(1)
			return errFailed
		})
		publish(t, b, messaging.NewMessage("poison", nil))
		time.Sleep(24 * time.Hour)
		if dead := b.DeadLetters("t", "g"); calls.Load() != 5 || len(dead) != 1 || dead[0].Headers[messaging.HeaderDeadAttempts] != "5" {
			t.Errorf("%d calls and %v among the dead letters, want 5 and one message", calls.Load(), dead)
		}
		_ = r.end()
	})
}

func TestUndecodableMessageIsDeadLetteredWithoutRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		r := runOne(t, b, messaging.ConsumerConfig{}, messaging.Typed(messaging.JSON{}, func(context.Context, struct{ N int }, *messaging.Delivery) error {
			t.Error("the handler was called with what could not be decoded")
			return nil
		}))
		publish(t, b, messaging.NewMessage("m", []byte("{\x00not json")))
		synctest.Wait()
		dead := b.DeadLetters("t", "g")
		if len(dead) != 1 || dead[0].Headers[messaging.HeaderDeadReason] != messaging.ReasonDecode || dead[0].Headers[messaging.HeaderDeadAttempts] != "1" ||
			string(dead[0].Payload) != "{\x00not json" {
			t.Errorf("dead letters = %v, want the message byte for byte, for decode at attempt 1", dead)
		}
		_ = r.end()
	})
}

func TestOpenBreakerPostponesMessagesAndDeadLettersNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		opened := time.Now()
		var handled []int
		r := runOne(t, b, messaging.ConsumerConfig{MaxAttempts: 2, Concurrency: 1}, func(_ context.Context, d *messaging.Delivery) error {
			switch {
			case time.Since(opened) < time.Hour:
				return rejection{30 * time.Second}
			case d.Attempt == 1:
				return errFailed // the dependency is back, and not yet well
			}
			handled = append(handled, d.Attempt)
			return nil
		})
		publish(t, b, messaging.NewMessage("a", nil), messaging.NewMessage("b", nil))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if dead := b.DeadLetters("t", "g"); len(dead) != 0 || len(handled) != 2 || handled[0] != 2 || handled[1] != 2 {
			t.Errorf("handled at attempts %v, %d dead letters; want both at 2, and 0", handled, len(dead))
		}
		_ = r.end()
	})
}

// Whatever handlers do, each message ends handled or dead-lettered, and once.
func TestNothingIsLostOrDoneTwiceWhateverHandlersDo(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				testRandomHandlers(t, rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1)))
			})
		})
	}
}

func testRandomHandlers(t *testing.T, rng, handlers *rand.Rand) {
	const total = 200
	b := newMemory(t)
	var mu sync.Mutex
	done, attempts := map[string]int{}, map[string]int{}
	attempt := func(_ context.Context, d *messaging.Delivery) error {
		mu.Lock()
		attempts[d.ID]++
		if d.Attempt != attempts[d.ID] {
			t.Errorf("message %s: Attempt %d at its call %d", d.ID, d.Attempt, attempts[d.ID])
		}
		dice, pause := handlers.IntN(10), time.Duration(handlers.IntN(1000))*time.Millisecond
		mu.Unlock()
		time.Sleep(pause)
		switch dice {
		case 0:
			panic("by chance")
		case 1:
			runtime.Goexit()
		case 2:
			return messaging.Permanent(errFailed)
		case 3, 4:
			return errFailed
		}
		mu.Lock()
		defer mu.Unlock()
		done[d.ID]++
		return nil
	}
	cfg := messaging.ConsumerConfig{Concurrency: 1 + rng.IntN(10), MaxAttempts: 1 + rng.IntN(4), DrainTimeout: time.Hour}
	r := runOne(t, b, cfg, attempt)
	sent := map[string]bool{}
	for n := range total {
		m := keyed([]string{"", "a", "b", "c"}[rng.IntN(4)], n)
		sent[m.ID] = true
		publish(t, b, m)
		if rng.IntN(50) == 0 { // restart in the middle of it
			if err := r.end(); err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
			r = runOne(t, b, cfg, attempt)
		}
	}
	time.Sleep(24 * time.Hour)
	if err := r.end(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	for _, m := range b.DeadLetters("t", "g") {
		done[m.ID]++
	}
	for id := range sent {
		if done[id] != 1 {
			t.Errorf("message %s ended %d times, want once", id, done[id])
		}
	}
	if left := rest(t, b); len(left) != 0 {
		t.Errorf("%d messages were left, want 0", len(left))
	}
}

func TestDeliveriesThatAreLostWhileTheyWaitReachNoHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		begun, lost := 0, 0
		release := make(chan struct{})
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1, OnSettle: func(s messaging.Settled) {
			if errors.Is(s.Err, messaging.ErrLost) {
				lost++
			}
		}}, func(context.Context, *messaging.Delivery) error {
			begun++
			<-release
			return nil
		})
		lease, lose := context.WithCancelCause(t.Context())
		for range 3 {
			b.deliver(delivery("m", 1).under(lease))
		}
		lose(messaging.ErrLost)
		close(release)
		synctest.Wait()
		if begun != 1 || lost != 3 {
			t.Errorf("%d handlers were begun and %d deliveries lost, want 1 and 3", begun, lost)
		}
		next := delivery("next", 1) // under a new lease
		b.deliver(next)
		if got := next.verdict(t).Kind; got != messaging.Ack {
			t.Errorf("the delivery under the next lease was settled with %v, want ack", got)
		}
		_ = r.end()
	})
}

func TestFullLaneGivesWayWhenTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		release := make(chan struct{})
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(context.Context, *messaging.Delivery) error {
			<-release
			return nil
		})
		lease, lose := context.WithCancelCause(t.Context())
		waiting := make(chan struct{})
		go func() {
			defer close(waiting)
			for n := range 64 + 3 { // one runs, a lane full waits, one waits for the lane, and one for that
				b.deliveries <- delivery(strconv.Itoa(n), 1).under(lease)
			}
		}()
		synctest.Wait()
		select {
		case <-waiting:
			t.Error("the broker was not held up by a full lane")
		default:
		}
		lose(messaging.ErrLost)
		<-waiting
		close(release)
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}
