package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

func isLost(err error) bool { return errors.Is(err, messaging.ErrLost) }

func TestEachMessageHasItsOutputExactlyOnceThroughRebalances(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 6)
		m.tx.BatchSize = 50
		slow := func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			time.Sleep(time.Millisecond) // the work that a rebalance interrupts
			return m.copyOut(ctx, out, d)
		}
		stop := m.start(m.b, m.tx, slow)
		m.feed(0, 2000, 24)
		m.read(m.out, 100)
		second := m.start(txBroker(t, seeds), m.tx, slow)
		m.read(m.out, 800)
		if err := second(); err != nil {
			t.Error(err)
		}
		m.read(m.out, 2000)
		if err := stop(); err != nil {
			t.Error(err)
		}
		m.exactly(m.out, 2000)
	})
}

func TestTheHandlersContextEndsWithErrLostWhenItsPartitionMoves(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 2)
		causes := make(chan error, 10)
		inHand := make(chan struct{}, 10)
		var handled atomic.Int64
		stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			if handled.Add(1) == 1 {
				inHand <- struct{}{}
				select {
				case <-ctx.Done():
					causes <- context.Cause(ctx)
				case <-time.After(txPatience):
					causes <- errors.New("the context did not end")
				}
			}
			return m.copyOut(ctx, out, d)
		})
		m.feed(0, 40, 8)
		<-inHand
		second := m.start(txBroker(t, seeds), m.tx, m.copyOut)
		if err := <-causes; !isLost(err) {
			t.Errorf("the handler's context ended with cause %v, want ErrLost", err)
		}
		m.read(m.out, 40)
		for _, stop := range []func() error{stop, second} {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
		m.exactly(m.out, 40)
	})
}

// A tally counts payloads.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *tally) add(payload []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[string(payload)]++
	return len(c.counts)
}

func TestAGroupMovesFromSubscribeToTransactAndBackWithoutLossOrRepetition(t *testing.T) {
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 1)
		var handled tally
		ctx, cancel := context.WithCancel(t.Context())
		ready, some := make(chan struct{}), make(chan struct{})
		var settlers []messaging.Settler // of even numbers, which stay unsettled
		var mu sync.Mutex
		ended := make(chan error, 1)
		first := txBroker(t, seeds)
		go func() {
			ended <- first.Subscribe(ctx, messaging.Subscription{Topic: m.in, Group: "mill", OnReady: func() { close(ready) }},
				func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
					var i int
					_, _ = fmt.Sscan(string(d.Payload), &i)
					if i%2 == 0 {
						mu.Lock()
						settlers = append(settlers, s)
						mu.Unlock()
					} else {
						handled.add(d.Payload)
						_ = s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
					}
					if i == 29 {
						close(some)
					}
					return nil
				})
		}()
		<-ready
		m.feed(0, 30, 1)
		<-some
		// It ends as by Close, so that what is in hand is not waited for: the even
		// numbers come again, the odd ones lie between them.
		cancel()
		shut(t, first)
		if err := <-ended; err != nil && !errors.Is(err, messaging.ErrClosed) {
			t.Fatal(err)
		}

		all := make(chan struct{})
		count := func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			if handled.add(d.Payload) == 40 {
				close(all)
			}
			return m.copyOut(ctx, out, d)
		}
		stop := m.start(m.b, m.tx, count)
		m.feed(30, 40, 1)
		<-all
		m.read(m.out, 25)
		if err := stop(); err != nil {
			t.Error(err)
		}

		back := make(chan *messaging.Delivery, 10)
		ctx, cancel = context.WithCancel(t.Context())
		go func() {
			ended <- txBroker(t, seeds).Subscribe(ctx, messaging.Subscription{Topic: m.in, Group: "mill"},
				func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
					back <- d
					return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
				})
		}()
		m.feed(40, 41, 1)
		if d := <-back; string(d.Payload) != "40" || d.Redelivered {
			t.Errorf("Subscribe got %s, redelivered: %t; want the one message that Transact has not handled, for the first time", d.Payload, d.Redelivered)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for i := range 40 {
			if n := handled.counts[fmt.Sprint(i)]; n != 1 {
				t.Errorf("message %d was handled %d times, want once", i, n)
			}
		}
	})
}

// toRetry has Subscribe postpone messages of these payloads, which are numbers from
// 0 on, and returns when they are due.
func (m *mill) toRetry(after map[string]time.Duration) (dues map[string]time.Time) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	var mu sync.Mutex
	dues = map[string]time.Time{}
	b := txBroker(m.t, m.seeds)
	go func() {
		ended <- b.Subscribe(ctx, messaging.Subscription{Topic: m.in, Group: "mill", OnReady: sync.OnceFunc(func() { close(ready) })},
			func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
				mu.Lock()
				defer mu.Unlock()
				if len(dues) == len(after) {
					return errors.New("enough")
				}
				dues[string(d.Payload)] = time.Now().Add(after[string(d.Payload)])
				if err := s.Settle(lease, messaging.Verdict{Kind: messaging.Retry, After: after[string(d.Payload)]}); err != nil {
					m.t.Error(err)
				}
				if len(dues) == len(after) {
					cancel()
				}
				return nil
			})
	}()
	<-ready
	m.feed(0, len(after), 1)
	if err := <-ended; err != nil {
		m.t.Fatal(err)
	}
	return dues
}

func TestTransactTakesOverWhatWaitsInTheRetryTopics(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 1)
		// The last is longer than the longest retry topic.
		dues := m.toRetry(map[string]time.Duration{"0": 100 * time.Millisecond, "1": 300 * time.Millisecond, "2": 900 * time.Millisecond})
		attempts := map[string]int{}
		var mu sync.Mutex
		failed := false
		stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			if early := time.Until(dues[string(d.Payload)]); early > 0 {
				t.Errorf("message %s came %v early", d.Payload, early)
			}
			attempts[string(d.Payload)] = d.Attempt
			if string(d.Payload) == "0" && !failed {
				failed = true
				return errors.New("once more")
			}
			d.Key = string(d.Payload) // retry topics keep no order among themselves
			return m.copyOut(ctx, out, d)
		})
		m.read(m.out, 3)
		if err := stop(); err != nil {
			t.Error(err)
		}
		m.exactly(m.out, 3)
		for payload, want := range map[string]int{"0": 3, "1": 2, "2": 2} { // one of Subscribe's, and what failed here
			if got := attempts[payload]; got != want {
				t.Errorf("message %s came at attempt %d, want %d", payload, got, want)
			}
		}
	})
}

func TestTransactAndSubscribeShareAGroup(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 4)
	var handled tally
	all := make(chan struct{})
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if err := m.copyOut(ctx, out, d); err != nil {
			return err
		}
		if handled.add(d.Payload) == 400 {
			close(all)
		}
		return nil
	})
	c, err := messaging.NewConsumer(txBroker(t, m.seeds), messaging.ConsumerConfig{Logger: testLog()})
	if err != nil {
		t.Fatal(err)
	}
	c.Handle(messaging.Subscription{Topic: m.in, Group: "mill"}, func(_ context.Context, d *messaging.Delivery) error {
		if handled.add(d.Payload) == 400 {
			close(all)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-c.Ready()
	m.feed(0, 400, 32)
	<-all
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
