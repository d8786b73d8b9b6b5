package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// Subscribers come and go, fail, panic and refuse, and Brokers are closed at any
// moment, while messages are published.
func TestNothingIsLostAndNothingStaysBehindWhateverEndsWhen(t *testing.T) {
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	conf := kafka.Config{Seeds: seeds, Partitions: 3, RebalanceTimeout: time.Second, RetryDelays: []time.Duration{20 * time.Millisecond}}
	pub := newBroker(t, conf)
	subscribe(t, pub, messaging.Subscription{Topic: topic, Group: "g"}, nothing).stop()
	before := len(working())

	const total = 300
	var mu sync.Mutex
	acked := map[string]bool{}
	all := make(chan struct{})
	deliver := func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		settle := func(v messaging.Verdict) {
			if s.Settle(lease, v) == nil && v.Kind == messaging.Ack {
				mu.Lock()
				defer mu.Unlock()
				if acked[string(d.Payload)] = true; len(acked) == total {
					select {
					case <-all:
					default:
						close(all)
					}
				}
			}
		}
		switch rand.IntN(20) {
		case 0:
			return errors.New("not now")
		case 1:
			runtime.Goexit()
		case 2:
			settle(messaging.Verdict{Kind: messaging.Release})
		case 3:
			settle(messaging.Verdict{Kind: messaging.Retry, After: time.Duration(rand.IntN(50)) * time.Millisecond})
		case 4, 5, 6:
			go func() {
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				settle(messaging.Verdict{})
			}()
		default:
			settle(messaging.Verdict{})
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var processes sync.WaitGroup
	for range 3 {
		processes.Go(func() {
			for ctx.Err() == nil {
				b, err := kafka.New(kafka.Config{
					Seeds: seeds, Partitions: 3, RebalanceTimeout: time.Second, RetryDelays: []time.Duration{20 * time.Millisecond}, Logger: discard(),
				})
				if err != nil {
					t.Error(err)
					return
				}
				var seats sync.WaitGroup
				life, end := context.WithTimeout(ctx, time.Duration(200+rand.IntN(600))*time.Millisecond)
				for i := range 2 {
					seats.Go(func() {
						for life.Err() == nil {
							sub := messaging.Subscription{Topic: topic, Group: "g", Prefetch: 1 + 10*i}
							seat, stop := context.WithTimeout(life, time.Duration(rand.IntN(400))*time.Millisecond)
							_ = b.Subscribe(seat, sub, deliver)
							stop()
						}
					})
				}
				<-life.Done()
				if rand.IntN(2) == 0 {
					seats.Wait()
				}
				shut(t, b)
				seats.Wait()
				end()
			}
		})
	}
	for n := range total {
		m := messaging.NewMessage("m", fmt.Append(nil, n))
		m.Key = fmt.Sprint(n % 7)
		publish(t, pub, topic, m)
	}
	select {
	case <-all:
	case <-time.After(2 * patience):
		mu.Lock()
		var missing []string
		for n := range total {
			if !acked[fmt.Sprint(n)] {
				missing = append(missing, fmt.Sprint(n))
			}
		}
		mu.Unlock()
		t.Errorf("%d messages were never acknowledged: %s", len(missing), strings.Join(missing, " "))
	}
	cancel()
	processes.Wait()
	noneWorks(t, before)
}

// The same for Transact, whose outputs must be there once each, and in order.
func TestOutputsAreThereOnceAndInOrderWhateverEndsWhen(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 3)
	m.tx.MaxAttempts, m.tx.BatchSize = 1000, 20
	m.tx.Backoff = func(int) time.Duration { return time.Duration(rand.IntN(5)) * time.Millisecond }
	if err := m.start(m.b, m.tx, handleNothing)(); err != nil { // makes the group
		t.Fatal(err)
	}
	before := len(working())
	handle := func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if err := m.copyOut(ctx, out, d); err != nil {
			return err
		}
		switch rand.IntN(20) {
		case 0:
			return errors.New("not now")
		case 1:
			runtime.Goexit()
		case 2:
			panic("not so")
		case 3:
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
			}
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var processes sync.WaitGroup
	for i := range 3 {
		processes.Go(func() {
			for ctx.Err() == nil {
				b, err := kafka.New(brokerConfig(m.seeds))
				if err != nil {
					t.Error(err)
					return
				}
				tx := m.tx
				if i == 0 {
					tx.ID = "one"
				}
				life, end := context.WithTimeout(ctx, time.Duration(300+rand.IntN(900))*time.Millisecond)
				ended := make(chan error, 1)
				go func() { ended <- b.Transact(life, tx, handle) }()
				<-time.After(time.Duration(rand.IntN(1500)) * time.Millisecond)
				shut(t, b)
				if err := <-ended; err != nil && !errors.Is(err, messaging.ErrClosed) {
					t.Errorf("Transact() = %v, want nil or ErrClosed", err)
				}
				end()
			}
		})
	}
	const total = 150
	for n := 0; n < total; n += 10 {
		m.feed(n, n+10, 7)
		time.Sleep(20 * time.Millisecond)
	}
	m.read(m.out, total)
	cancel()
	processes.Wait()
	m.exactly(m.out, total)
	noneWorks(t, before)
}

// noneWorks waits until no more goroutines work than before.
func noneWorks(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for left := working(); len(left) > before; left = working() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left, want %d:\n%s", len(left), before, strings.Join(left, "\n\n"))
		}
		<-time.After(10 * time.Millisecond)
	}
}

// working returns the stacks of the goroutines that work for this package. Those of
// its clients end with them; the test has clients of its own, and so has a fake
// cluster goroutines for those that are gone.
func working() (stacks []string) {
	all := make([]byte, 16<<20)
	all = all[:runtime.Stack(all, true)]
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if strings.Contains(stack, "/messaging/kafka.(") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
