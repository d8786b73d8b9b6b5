package memory_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

var errNoRoom = errors.New("no room")

// A crowd are subscribers of one group, and of its dead letters, that refuse, fail, are
// late and go by chance. Time goes in whole milliseconds, so that much happens at once.
type crowd struct {
	b    *memory.Broker
	late sync.WaitGroup // verdicts that are to come

	mu     sync.Mutex
	r      *rand.Rand
	calm   bool        // all is accepted and done with
	acks   map[int]int // by number, of messages that are not dead letters
	faults []string
}

func (c *crowd) fault(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// chance reports true n times in a hundred, save when all is calm.
func (c *crowd) chance(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.calm && c.r.IntN(100) < n
}

// below returns a number of milliseconds from 1 to n.
func (c *crowd) below(n int) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(1+c.r.IntN(n)) * time.Millisecond
}

// deliver is what everyone has messages delivered to, and those of a reader dead letters.
func (c *crowd) deliver(reader bool) messaging.Deliver {
	return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		n := number(d.Message)
		c.mu.Lock()
		over := c.acks[n] > 0
		c.mu.Unlock()
		if over {
			c.fault("message %d came after its Ack had counted", n)
		}
		if c.chance(3) {
			runtime.Goexit()
		}
		if c.chance(10) {
			return errNoRoom
		}
		v := messaging.Verdict{Kind: messaging.Ack}
		if reader {
			v.Kind = messaging.Retry // none is deleted
		}
		switch {
		case c.chance(20):
			v.Kind = messaging.Release
		case c.chance(20):
			v.Kind = messaging.DeadLetter
		case c.chance(20) && !reader:
			v = messaging.Verdict{Kind: messaging.Retry, After: c.below(5)}
		}
		wait := time.Duration(0)
		if c.chance(60) {
			wait = c.below(20)
		}
		c.late.Go(func() {
			time.Sleep(wait)
			c.settle(lease, n, s, v, reader)
		})
		return nil
	}
}

func (c *crowd) settle(lease context.Context, n int, s messaging.Settler, v messaging.Verdict, reader bool) {
	if c.chance(30) {
		_ = s.Extend(context.Background(), 3*time.Millisecond)
	}
	lost := lease.Err() != nil
	err := s.Settle(context.Background(), v)
	again := s.Settle(context.Background(), messaging.Verdict{Kind: messaging.Ack})
	switch {
	case lost && err == nil:
		c.fault("the %v of message %d counted after the end of the lease", v.Kind, n)
	case err != nil && !errors.Is(err, messaging.ErrLost):
		c.fault("Settle = %v, want nil or ErrLost", err)
	case !errors.Is(again, err):
		c.fault("the second Settle = %v, want what the first one returned: %v", again, err)
	}
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.Kind == messaging.Ack && !reader {
		c.acks[n]++
	}
}

// visit is a Subscribe that ends by itself after a while, or when deliver does.
func (c *crowd) visit(stay time.Duration, reader bool) {
	ctx, cancel := context.WithTimeout(context.Background(), stay)
	defer cancel()
	sub := messaging.Subscription{Topic: "t", Group: "g", Prefetch: int(c.below(40) / time.Millisecond), DeadLetters: reader}
	done := make(chan struct{})
	go func() { // which deliver may end
		defer close(done)
		if err := c.b.Subscribe(ctx, sub, c.deliver(reader)); err != nil {
			c.fault("Subscribe() = %v, want nil", err)
		}
	}()
	<-done
}

func TestWhateverSubscribersDoEachMessageIsAcknowledgedOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const n = 300
			c := &crowd{r: rand.New(rand.NewPCG(seed, round)), acks: map[int]int{}}
			c.b = newBroker(t, memory.Config{MaxBacklog: n, Lease: []time.Duration{0, 10 * time.Millisecond}[round%2]})
			declare(t, c.b, "g")
			for i := range n {
				publish(t, c.b, numbered(i))
			}
			var visits sync.WaitGroup
			for who := range 4 {
				visits.Go(func() {
					for range 30 {
						c.visit(c.below(50), who == 0)
					}
				})
			}
			visits.Wait()
			c.late.Wait()
			c.mu.Lock()
			c.calm = true
			c.mu.Unlock()
			for _, reader := range []bool{true, false} { // what is set aside comes back first
				c.visit(time.Minute, reader)
			}
			c.late.Wait()
			for i := range n {
				if c.acks[i] != 1 {
					t.Errorf("round %d: message %d was acknowledged %d times, want once", round, i, c.acks[i])
				}
			}
			if dead := c.b.DeadLetters("t", "g"); len(dead) > 0 {
				t.Errorf("round %d: %d dead letters are left, want none", round, len(dead))
			}
			for i := range n { // each has given its place back, or this would wait for ever
				publish(t, c.b, numbered(i))
			}
			for _, fault := range c.faults {
				t.Errorf("round %d: %s", round, fault)
			}
		})
	}
}
