package memory_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

// bury has group g set aside the messages with these numbers.
func bury(t *testing.T, b *memory.Broker, numbers ...int) {
	t.Helper()
	s := subscribe(t, b, "g", 0, nil)
	for _, n := range numbers {
		publish(t, b, numbered(n))
		s.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: "why"})
	}
	s.stop()
}

// readDead subscribes to the dead letters of group g.
func readDead(t *testing.T, b *memory.Broker, prefetch int, deliver messaging.Deliver) *subscription {
	t.Helper()
	return subscribeTo(t, b, messaging.Subscription{Topic: "t", Group: "g", Prefetch: prefetch, DeadLetters: true}, deliver)
}

func numbersOf(msgs []messaging.Message) []int {
	numbers := make([]int, len(msgs))
	for i, m := range msgs {
		numbers[i] = number(m)
	}
	return numbers
}

func dead(t *testing.T, b *memory.Broker, want ...int) {
	t.Helper()
	if got := numbersOf(b.DeadLetters("t", "g")); !slices.Equal(got, want) {
		t.Errorf("the dead letters are %v, want %v", got, want)
	}
}

func TestDeadLettersOfAGroupThatDoesNotExistAreNotFound(t *testing.T) {
	b := newBroker(t, memory.Config{})
	err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "typo", DeadLetters: true},
		func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })
	if !errors.Is(err, messaging.ErrNotFound) || !strings.Contains(err.Error(), `topic "t" has no group "typo"`) {
		t.Errorf("Subscribe() = %v, want ErrNotFound that names the group", err)
	}
	if err := b.Publish(t.Context(), "t", numbered(1)); !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() = %v, want ErrUnroutable: the group was not made", err)
	}
}

func TestRetryOfADeadLetterWaitsWhileTheGroupIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxBacklog: 1})
		bury(t, b, 1)
		publish(t, b, numbered(2))
		r := readDead(t, b, 0, nil)
		a := r.receive()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := a.Settle(ctx, messaging.Verdict{Kind: messaging.Retry})
		if !errors.Is(err, messaging.ErrRefused) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Settle() = %v after %v, want ErrRefused and the cause after 1s", err, time.Since(began))
		}
		again := r.receive() // nothing is lost
		if number(again.Message) != 1 || !again.Redelivered {
			t.Errorf("received message %d, Redelivered %t, want 1 again", number(again.Message), again.Redelivered)
		}
		moved := make(chan error, 1)
		go func() { moved <- again.Settle(t.Context(), messaging.Verdict{Kind: messaging.Retry}) }()
		s := subscribe(t, b, "g", 0, nil)
		s.receive().ack(t)
		if err := <-moved; err != nil {
			t.Errorf("Settle() = %v, want nil once there is room", err)
		}
		back := s.receive()
		if number(back.Message) != 1 || back.Attempt != 1 || back.Redelivered || len(back.Headers) != 0 {
			t.Errorf("received message %d at attempt %d, Redelivered %t, with headers %v, want 1 as if never tried", number(back.Message), back.Attempt, back.Redelivered, back.Headers)
		}
		back.ack(t)
		dead(t, b)
		r.stop()
		s.stop()
	})
}

func TestDeadLettersInHandAreNotDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{MaxDeadLetters: 2})
		bury(t, b, 1, 2)
		r := readDead(t, b, 1, nil)
		first := r.receive()
		bury(t, b, 3)
		dead(t, b, 1, 3)
		first.settle(t, messaging.Verdict{Kind: messaging.Retry})
		s := subscribe(t, b, "g", 0, nil)
		s.receive().ack(t)
		s.stop()
		second := r.receive()
		bury(t, b, 4)
		dead(t, b, 3, 4)
		second.ack(t)
		third := r.receive()
		third.ack(t)
		if number(third.Message) != 4 {
			t.Errorf("received dead letter %d, want 4", number(third.Message))
		}
		r.stop()
		dead(t, b)
	})
	synctest.Test(t, func(t *testing.T) { // also where all are in hand
		b := newBroker(t, memory.Config{MaxDeadLetters: 1})
		bury(t, b, 1)
		r := readDead(t, b, 0, nil)
		first := r.receive()
		bury(t, b, 2)
		dead(t, b, 1, 2)
		first.ack(t)
		r.receive().ack(t)
		r.stop()
	})
}

func TestVerdictOfUnknownKindLeavesADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		bury(t, b, 1)
		r := readDead(t, b, 0, nil)
		a := r.receive()
		if err := a.Settle(t.Context(), messaging.Verdict{Kind: 42}); !errors.Is(err, messaging.ErrInvalid) {
			t.Errorf("Settle() = %v, want ErrInvalid", err)
		}
		if err := a.Settle(t.Context(), messaging.Verdict{}); err != nil {
			t.Errorf("second Settle() = %v, want nil: the first one wins", err)
		}
		a = r.receive()
		if err := a.Extend(t.Context(), time.Second); err != nil {
			t.Errorf("Extend() = %v, want nil", err)
		}
		a.ack(t)
		r.stop()
		dead(t, b)
	})
}

func TestDeadLettersThatAreNotAcceptedStayWhereTheyAre(t *testing.T) {
	for name, refuse := range map[string]func() error{
		"by an error": func() error { return errors.New("no room") },
		"by runtime.Goexit": func() error {
			runtime.Goexit()
			return nil
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, memory.Config{})
			bury(t, b, 1, 2)
			taken := 0
			// Goexit ends the call of Subscribe too: the goroutine is its own.
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g", DeadLetters: true},
					func(context.Context, *messaging.Delivery, messaging.Settler) error {
						if taken++; taken == 1 {
							return nil // and never settled
						}
						cancel()
						return refuse()
					})
			}()
			if name == "by an error" { // which waits for what it has accepted
				synctest.Wait()
				if err := b.Close(t.Context()); err != nil {
					t.Errorf("%s: Close() = %v, want nil", name, err)
				}
			}
			<-ended
			dead(t, b, 1, 2)
		})
	}
}

func TestCloseEndsSubscriptionsToDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		bury(t, b, 1)
		busy := readDead(t, b, 0, nil)
		a := busy.receive()
		idle := readDead(t, b, 0, nil)
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		for _, s := range []*subscription{busy, idle} {
			if err := <-s.done; !errors.Is(err, messaging.ErrClosed) {
				t.Errorf("Subscribe() = %v, want ErrClosed", err)
			}
		}
		if err := a.Settle(t.Context(), messaging.Verdict{}); !errors.Is(err, messaging.ErrLost) || !errors.Is(context.Cause(a.lease), messaging.ErrLost) {
			t.Errorf("Settle() = %v under a lease that ended with %v, want ErrLost twice", err, context.Cause(a.lease))
		}
		err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g", DeadLetters: true},
			func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })
		if !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Subscribe() = %v, want ErrClosed", err)
		}
	})
}

// TestDeadLettersFollowTheirModel plays random operations against a slice.
func TestDeadLettersFollowTheirModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		const limit, prefetch, steps = 20, 4, 3000
		b := newBroker(t, memory.Config{MaxDeadLetters: limit})
		s := subscribe(t, b, "g", 0, nil)
		r := readDead(t, b, prefetch, nil)
		var model []int           // all dead letters
		hand := map[int]arrival{} // those in hand
		last := 0
		collect := func() { // the oldest that are free, as many as there is room for
			synctest.Wait()
			for len(r.arrivals) > 0 {
				a := <-r.arrivals
				free := slices.IndexFunc(model, func(n int) bool { _, held := hand[n]; return !held })
				if free < 0 || model[free] != number(a.Message) {
					t.Fatalf("received %d, want the oldest free of %v", number(a.Message), model)
				}
				hand[number(a.Message)] = a
			}
			if want := min(prefetch, len(model)); len(hand) != want {
				t.Fatalf("%d are in hand, want %d", len(hand), want)
			}
		}
		for range steps {
			held := make([]int, 0, len(hand))
			for _, n := range model {
				if _, ok := hand[n]; ok {
					held = append(held, n)
				}
			}
			if len(held) == 0 || rnd.IntN(3) == 0 {
				last++
				publish(t, b, numbered(last))
				s.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter})
				if len(model) >= limit {
					i := slices.IndexFunc(model, func(n int) bool { return !slices.Contains(held, n) })
					model = slices.Delete(model, i, i+1)
				}
				model = append(model, last)
				collect()
				continue
			}
			n := held[rnd.IntN(len(held))]
			a := hand[n]
			delete(hand, n)
			i := slices.Index(model, n)
			switch rnd.IntN(4) {
			case 0:
				model = slices.Delete(model, i, i+1)
				a.ack(t)
			case 1:
				model = slices.Delete(model, i, i+1)
				a.settle(t, messaging.Verdict{Kind: messaging.Retry})
				back := s.receive()
				if number(back.Message) != n {
					t.Fatalf("message %d came back, want %d", number(back.Message), n)
				}
				back.ack(t)
			case 2:
				model = append(slices.Delete(model, i, i+1), n)
				a.settle(t, messaging.Verdict{Kind: messaging.DeadLetter})
			case 3:
				a.settle(t, messaging.Verdict{Kind: messaging.Release})
			}
			collect()
			dead(t, b, model...)
		}
		r.cancel()
		for _, a := range hand {
			a.settle(t, messaging.Verdict{Kind: messaging.Release})
		}
		if err := <-r.done; err != nil {
			t.Errorf("Subscribe() = %v, want nil", err)
		}
		s.stop()
		dead(t, b, model...)
	})
}
