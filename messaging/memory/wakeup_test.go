package memory_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

func TestRetryComesInTimeWhicheverSubscribersLeave(t *testing.T) {
	const subscribers = 3
	for stays := range subscribers {
		t.Run(fmt.Sprintf("all but subscriber %d", stays), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, memory.Config{})
				var subs []*subscription
				for range subscribers {
					subs = append(subs, subscribe(t, b, "g", 1, nil))
				}
				publish(t, b, numbered(0))
				synctest.Wait()
				for _, s := range subs {
					if len(s.arrivals) > 0 {
						s.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: time.Minute})
					}
				}
				began := time.Now()
				for i, s := range subs {
					if i != stays {
						synctest.Wait()
						s.stop()
					}
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(subs[stays].arrivals) == 0 {
					t.Fatal("the retry has not come within an hour, want it after 1m")
				}
				a := subs[stays].receive()
				if got := a.at.Sub(began); got != time.Minute {
					t.Errorf("the retry came after %v, want 1m", got)
				}
				a.ack(t)
				subs[stays].stop()
			})
		})
	}
}

func TestNoMessageWaitsWhileASubscriberIsIdle(t *testing.T) {
	for range 100 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &crew{t: t, b: newBroker(t, memory.Config{}), rng: rand.New(rand.NewPCG(seed, 0))}
				c.work()
			})
		})
	}
}

// A crew is several subscribers with a Prefetch of 1, of whom each is idle or
// holds one delivery.
type crew struct {
	t       *testing.T
	b       *memory.Broker
	rng     *rand.Rand
	idle    []*subscription
	busy    []*subscription
	held    []arrival     // by those that are busy
	open    int           // published, and neither acknowledged nor dead
	delayed []time.Time   // when retries are due
	tick    time.Duration // of which all delays are multiples
}

func (c *crew) work() {
	c.tick = 100 * time.Millisecond
	for range 4 {
		c.idle = append(c.idle, subscribe(c.t, c.b, "g", 1, nil))
	}
	for range 300 {
		for range 1 + c.rng.IntN(4) { // at one time, before any subscriber can look
			c.step()
		}
		if !c.settled() {
			return
		}
		for range c.rng.IntN(3) {
			time.Sleep(c.tick)
			if !c.settled() {
				return
			}
		}
	}
	_ = c.b.Close(c.t.Context())
}

func (c *crew) step() {
	switch n := c.rng.IntN(8); {
	case n < 2:
		publish(c.t, c.b, numbered(0))
		c.open++
	case n == 2: // another takes the place of one that is idle
		synctest.Wait()
		if c.collect(); len(c.idle) == 0 {
			return
		}
		i := c.rng.IntN(len(c.idle))
		c.idle[i].cancel()
		c.idle = slices.Delete(c.idle, i, i+1)
		synctest.Wait()
		if c.collect(); c.rng.IntN(2) == 0 {
			time.Sleep(c.tick)
		}
		c.idle = append(c.idle, subscribe(c.t, c.b, "g", 1, nil))
		c.collect()
	case n > 2 && len(c.held) > 0:
		i := c.rng.IntN(len(c.held))
		a, s := c.held[i], c.busy[i]
		c.held, c.busy = slices.Delete(c.held, i, i+1), slices.Delete(c.busy, i, i+1)
		c.idle = append(c.idle, s)
		switch c.rng.IntN(5) {
		case 0:
			a.settle(c.t, messaging.Verdict{Kind: messaging.Release})
		case 1, 2:
			after := time.Duration(1+c.rng.IntN(5)) * c.tick
			c.delayed = append(c.delayed, time.Now().Add(after))
			a.settle(c.t, messaging.Verdict{Kind: messaging.Retry, After: after})
		default:
			c.open--
			a.ack(c.t)
		}
	}
}

// collect notes what has arrived.
func (c *crew) collect() {
	c.idle = slices.DeleteFunc(c.idle, func(s *subscription) bool {
		if len(s.arrivals) == 0 {
			return false
		}
		c.held, c.busy = append(c.held, s.receive()), append(c.busy, s)
		return true
	})
}

// settled waits until nothing more happens, and reports whether all that may be
// delivered is, or all subscribers are busy.
func (c *crew) settled() bool {
	synctest.Wait()
	c.collect()
	now := time.Now()
	c.delayed = slices.DeleteFunc(c.delayed, func(due time.Time) bool { return !due.After(now) })
	waiting := c.open - len(c.held) - len(c.delayed)
	if waiting > 0 && len(c.idle) > 0 {
		c.t.Errorf("%d messages wait while %d subscribers are idle, want none to", waiting, len(c.idle))
		_ = c.b.Close(c.t.Context())
		return false
	}
	return true
}

func TestLongestDelayIsNotAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		time.Sleep(time.Second)
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0))
		s.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: math.MaxInt64})
		time.Sleep(24 * time.Hour)
		s.none()
		s.stop()
	})
}

func TestAcceptedDeliveriesComeAgainWhenDeliverEndsItsGoroutine(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("no") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, memory.Config{MaxBacklog: 3})
				declare(t, b, "g")
				publish(t, b, numbered(0), numbered(1), numbered(2))
				var taken []arrival
				var running sync.WaitGroup
				running.Go(func() {
					defer func() { _ = recover() }()
					_ = b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
						if taken = append(taken, arrival{d, s, lease, time.Now()}); len(taken) == 3 {
							end()
						}
						return nil
					})
				})
				running.Wait()
				for _, a := range taken[:2] {
					if got := context.Cause(a.lease); !errors.Is(got, messaging.ErrLost) {
						t.Errorf("the lease ended with %v, want ErrLost", got)
					}
					if err := a.Settle(t.Context(), messaging.Verdict{Kind: messaging.Ack}); !errors.Is(err, messaging.ErrLost) {
						t.Errorf("Settle() = %v, want ErrLost", err)
					}
				}
				s := subscribe(t, b, "g", 0, nil)
				for n := range 3 {
					a := s.receive()
					if number(a.Message) != n || !a.Redelivered || a.Attempt != 1 {
						t.Errorf("message %d, Redelivered %t, Attempt %d came, want %d, true, 1", number(a.Message), a.Redelivered, a.Attempt, n)
					}
					a.ack(t)
				}
				publish(t, b, numbered(3), numbered(4), numbered(5)) // every place in the backlog is free again
				for range 3 {
					s.receive().ack(t)
				}
				s.stop()
			})
		})
	}
}

func TestSettleAfterCloseIsLostSaveWhereItCameBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0), numbered(1))
		before, after := s.receive(), s.receive()
		before.ack(t)
		if err := b.Close(t.Context()); err != nil {
			t.Fatalf("Close() = %v, want nil", err)
		}
		before.ack(t)
		for range 2 {
			if err := after.Settle(t.Context(), messaging.Verdict{Kind: messaging.DeadLetter}); !errors.Is(err, messaging.ErrLost) {
				t.Errorf("Settle() = %v, want ErrLost", err)
			}
		}
		if got := b.DeadLetters("t", "g"); len(got) != 0 {
			t.Errorf("DeadLetters() = %v, want none", got)
		}
	})
}
