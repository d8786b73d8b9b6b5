package memory_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

func TestHundredThousandMessagesOfOneKeyKeepTheirOrder(t *testing.T) {
	const total = 100_000
	b := newBroker(t, memory.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	next, ready := 0, make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		err := b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g", OnReady: func() { close(ready) }},
			func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
				if got := int(d.Time.Unix()); got != next {
					t.Errorf("message %d arrived where %d was next", got, next)
				}
				if next++; next == total {
					cancel()
				}
				return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
			})
		if err != nil {
			t.Errorf("Subscribe() = %v, want nil", err)
		}
	})
	<-ready
	m := messaging.Message{ID: "id", Key: "k"}
	for n := range total {
		m.Time = time.Unix(int64(n), 0)
		publish(t, b, m)
	}
	running.Wait()
	if next != total {
		t.Errorf("%d messages arrived, want %d", next, total)
	}
}

func TestShorterDelayOvertakesALongerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		s := subscribe(t, b, "g", 0, nil)
		began := time.Now()
		publish(t, b, numbered(0), numbered(1), numbered(2))
		for _, after := range []time.Duration{4 * time.Second, 200 * time.Millisecond, time.Second} {
			s.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: after})
		}
		for _, want := range []struct {
			n     int
			after time.Duration
		}{{1, 200 * time.Millisecond}, {2, time.Second}, {0, 4 * time.Second}} {
			a := s.receive()
			if number(a.Message) != want.n || a.at.Sub(began) != want.after || a.Attempt != 2 {
				t.Errorf("message %d came after %v at attempt %d, want %d after %v at 2", number(a.Message), a.at.Sub(began), a.Attempt, want.n, want.after)
			}
			a.ack(t)
		}
		s.stop()
	})
}

func TestRetryThatIsDueWaitsForASubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0))
		s.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: time.Second})
		s.stop()
		time.Sleep(time.Hour)
		s = subscribe(t, b, "g", 0, nil)
		s.receive().ack(t)
		s.stop()
	})
}

// The subscriber that watches the clock may be taken up by a delivery, or leave.
func TestRetryComesInTimeWhicheverSubscriberIsIdle(t *testing.T) {
	for name, occupy := range map[string]func(t *testing.T, b *memory.Broker, subs []*subscription, release chan struct{}){
		"after one was taken up": func(t *testing.T, b *memory.Broker, _ []*subscription, _ chan struct{}) {
			t.Helper()
			publish(t, b, numbered(1))
		},
		"after one has left": func(_ *testing.T, _ *memory.Broker, subs []*subscription, _ chan struct{}) {
			subs[0].stop()
		},
		"after the other has left": func(_ *testing.T, _ *memory.Broker, subs []*subscription, _ chan struct{}) {
			subs[1].stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, memory.Config{})
				release := make(chan struct{})
				var again time.Time
				deliver := func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
					switch {
					case number(d.Message) == 1:
						<-release
					case d.Attempt == 1:
						return s.Settle(lease, messaging.Verdict{Kind: messaging.Retry, After: 10 * time.Second})
					default:
						again = time.Now()
					}
					return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
				}
				subs := []*subscription{subscribe(t, b, "g", 0, deliver), subscribe(t, b, "g", 0, deliver)}
				publish(t, b, numbered(0))
				synctest.Wait()
				began := time.Now()
				occupy(t, b, subs, release)
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := again.Sub(began); got != 10*time.Second {
					t.Errorf("the retry came after %v, want 10s", got)
				}
				close(release)
				for _, s := range subs {
					s.cancel()
				}
				synctest.Wait()
			})
		})
	}
}

func TestReleasedMessagesComeAgainInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		s := subscribe(t, b, "g", 4, nil)
		for n := range 8 {
			publish(t, b, numbered(n))
		}
		held := []arrival{s.receive(), s.receive(), s.receive(), s.receive()}
		s.cancel()
		for _, i := range []int{2, 0, 3, 1} {
			held[i].settle(t, messaging.Verdict{Kind: messaging.Release})
		}
		if err := <-s.done; err != nil {
			t.Errorf("Subscribe() = %v, want nil", err)
		}
		s = subscribe(t, b, "g", 0, nil)
		for n := range 8 {
			a := s.receive()
			if number(a.Message) != n || a.Redelivered != (n < 4) || a.Attempt != 1 {
				t.Errorf("message %d, Redelivered %t, Attempt %d, want %d, %t, 1", number(a.Message), a.Redelivered, a.Attempt, n, n < 4)
			}
			a.ack(t)
		}
		s.stop()
	})
}

func TestDeliverThatEndsItsGoroutineGivesTheMessageBack(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("no") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, memory.Config{})
				declare(t, b, "g")
				publish(t, b, numbered(0))
				var passed any
				var running sync.WaitGroup
				running.Go(func() {
					defer func() { passed = recover() }()
					_ = b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery, messaging.Settler) error {
						end()
						return nil
					})
				})
				running.Wait()
				if name == "panic" && passed != "no" {
					t.Errorf("the panic that goes on = %v, want the one of deliver", passed)
				}
				s := subscribe(t, b, "g", 0, nil)
				s.receive().ack(t)
				s.stop()
				if err := b.Close(t.Context()); err != nil {
					t.Errorf("Close() = %v, want nil", err)
				}
			})
		})
	}
}

// Another subscriber waits for them meanwhile, on another processor.
func TestDeliveriesThatAreLostWithTheirSubscriberComeAgainInTheirOrder(t *testing.T) {
	const total = 2000
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, memory.Config{})
			accepted := 0
			first := subscribe(t, b, "g", total, func(context.Context, *messaging.Delivery, messaging.Settler) error {
				if accepted++; accepted == total {
					runtime.Goexit()
				}
				return nil
			})
			for n := range total - 1 {
				publish(t, b, numbered(n))
			}
			synctest.Wait()
			second := subscribe(t, b, "g", total, nil)
			publish(t, b, numbered(total-1)) // the first has waited longer
			for n := range total {
				a := second.receive()
				if number(a.Message) != n {
					t.Fatalf("message %d came where %d was next", number(a.Message), n)
				}
				a.ack(t)
			}
			second.stop()
			first.cancel()
		})
	}
}

func TestUnknownVerdictGivesTheMessageBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{})
		s := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(0))
		if err := s.receive().Settle(t.Context(), messaging.Verdict{Kind: 99}); !errors.Is(err, messaging.ErrInvalid) {
			t.Errorf("Settle(99) = %v, want ErrInvalid", err)
		}
		s.receive().ack(t)
		s.stop()
	})
}

func TestSubscribeRefusesANilDeliver(t *testing.T) {
	err := newBroker(t, memory.Config{}).Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g"}, nil)
	if !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Subscribe() = %v, want ErrInvalid", err)
	}
}

// A model of one group with one subscriber: what it holds, and in which order it
// must hand it out.
type model struct {
	prefetch int
	now      time.Time
	ready    []int // message numbers, in order
	delayed  []delayed
	back     []int // released
	open     int   // handed out and not settled
	attempt  map[int]int
	order    map[int]int // the order of first deliveries
	next     int
	dead     []int
}

type delayed struct {
	n   int
	due time.Time
}

// until lets time pass, and returns what is handed out.
func (m *model) until(now time.Time) (out []int) {
	for {
		out = append(out, m.handOut()...)
		if m.open == m.prefetch || len(m.delayed) == 0 || m.delayed[0].due.After(now) {
			break
		}
		m.now = m.delayed[0].due // an idle subscriber looks as soon as one is due
	}
	m.now = now
	return out
}

func (m *model) handOut() (out []int) {
	for m.open < m.prefetch {
		for len(m.delayed) > 0 && !m.delayed[0].due.After(m.now) {
			n := m.delayed[0].n
			m.order[n] = 0
			m.ready, m.delayed = append(m.ready, n), m.delayed[1:]
		}
		var n int
		switch {
		case len(m.back) > 0:
			n, m.back = m.back[0], m.back[1:]
		case len(m.ready) > 0:
			n, m.ready = m.ready[0], m.ready[1:]
		default:
			return out
		}
		if m.order[n] == 0 {
			m.next++
			m.order[n] = m.next
		}
		m.open++
		out = append(out, n)
	}
	return out
}

func (m *model) settle(n int, v messaging.Verdict) {
	m.open--
	switch v.Kind {
	case messaging.Ack:
	case messaging.Retry:
		if !v.KeepAttempt {
			m.attempt[n]++
		}
		if v.After > 0 {
			m.delayed = append(m.delayed, delayed{n, m.now.Add(v.After)})
			slices.SortFunc(m.delayed, func(a, b delayed) int { return cmp.Or(a.due.Compare(b.due), m.order[a.n]-m.order[b.n]) })
		} else {
			m.order[n] = 0
			m.ready = append(m.ready, n)
		}
	case messaging.DeadLetter:
		m.dead = append(m.dead, n)
	case messaging.Release:
		m.back = append(m.back, n)
		slices.SortFunc(m.back, func(a, b int) int { return m.order[a] - m.order[b] })
	}
}

func TestGroupBehavesAsItsModel(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testModel(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func testModel(t *testing.T, rng *rand.Rand) {
	t.Helper()
	const prefetch = 3
	b := newBroker(t, memory.Config{})
	defer func() { _ = b.Close(t.Context()) }()
	m := &model{prefetch: prefetch, now: time.Now(), attempt: map[int]int{}, order: map[int]int{}}
	s := subscribe(t, b, "g", prefetch, nil)
	open := map[int]arrival{}
	published := 0
	for step := range 500 {
		if rng.IntN(5) == 0 && len(open) == 0 { // another subscriber takes over
			s.stop()
			s = subscribe(t, b, "g", prefetch, nil)
		}
		switch rng.IntN(4) {
		case 0:
			publish(t, b, numbered(published))
			m.attempt[published] = 1
			m.ready = append(m.ready, published)
			published++
		case 1:
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
		default:
			if len(open) == 0 {
				continue
			}
			nums := make([]int, 0, len(open))
			for n := range open {
				nums = append(nums, n)
			}
			slices.Sort(nums)
			n := nums[rng.IntN(len(nums))]
			v := messaging.Verdict{
				Kind: messaging.Kind(rng.IntN(4)), KeepAttempt: rng.IntN(2) == 0, After: time.Duration(rng.IntN(3)) * 500 * time.Millisecond,
			}
			open[n].settle(t, v)
			delete(open, n)
			m.settle(n, v)
		}
		synctest.Wait()
		for _, want := range m.until(time.Now()) {
			if len(s.arrivals) == 0 {
				t.Errorf("step %d: nothing arrived, want message %d", step, want)
				return
			}
			a := s.receive()
			if got := number(a.Message); got != want || a.Attempt != m.attempt[want] {
				t.Errorf("step %d: message %d at attempt %d arrived, want %d at %d", step, got, a.Attempt, want, m.attempt[want])
				return
			}
			open[want] = a
		}
		s.none()
	}
	var dead []int
	for _, d := range b.DeadLetters("t", "g") {
		dead = append(dead, number(d))
	}
	if !slices.Equal(dead, m.dead) {
		t.Errorf("dead letters = %v, want %v", dead, m.dead)
	}
}
