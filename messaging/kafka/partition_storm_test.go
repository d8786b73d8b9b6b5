package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A crowd are receivers of a desk that come, refuse, fail and go by chance.
type crowd struct {
	*desk
	mu       sync.Mutex
	r        *rand.Rand
	calm     bool             // all is accepted and done with
	accepted map[string][]int // by key, in order of the first time
	faults   []string
}

// chance reports true n times in a hundred, save when all is calm.
func (c *crowd) chance(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.calm && c.r.IntN(100) < n
}

// receive is the deliver of everyone.
func (c *crowd) receive(m *messaging.Delivery, h messaging.Settler) error {
	if c.chance(3) {
		runtime.Goexit()
	}
	refuse := c.chance(10)
	c.mu.Lock()
	if !refuse {
		id, _ := strconv.Atoi(m.ID)
		if ids := c.accepted[m.Key]; !slices.Contains(ids, id) {
			c.accepted[m.Key] = append(ids, id)
		}
	}
	c.mu.Unlock()
	if refuse {
		return errFull
	}
	v := messaging.Verdict{Kind: messaging.Ack}
	if c.chance(10) {
		v.Kind = messaging.Release
	}
	slow := c.chance(50)
	go func() {
		if slow {
			time.Sleep(5 * time.Millisecond)
		}
		_ = h.Settle(context.Background(), v) // which may be lost by now
		_ = h.Settle(context.Background(), messaging.Verdict{Kind: messaging.Retry})
		_ = h.Extend(context.Background(), time.Second)
	}()
	return nil
}

// visit is a Subscribe that ends by itself after a while, or when deliver does.
func (c *crowd) visit(prefetch int, stay time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), stay)
	defer cancel()
	s := c.seatWithin(ctx, prefetch, c.receive)
	select {
	case <-ctx.Done():
		if err := s.drain(); err != nil {
			c.mu.Lock()
			c.faults = append(c.faults, fmt.Sprint("drain: ", err))
			c.mu.Unlock()
		}
	case <-s.failed:
	}
	s.fail(nil)
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.seats = slices.DeleteFunc(c.m.seats, func(o *seat) bool { return o == s })
	c.m.fed()
}

func TestWhateverReceiversDoAllIsDoneOnceInOrderByKeyAndNothingStaysInHand(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const n = 400
			c := &crowd{desk: newDesk(t, n), r: rand.New(rand.NewPCG(seed, round)), accepted: map[string][]int{}}
			for i, rec := range c.p.queue {
				rec.Key = [][]byte{nil, []byte("a"), []byte("b")}[i%3]
			}
			c.begin()
			var visits sync.WaitGroup
			for range 1 + c.r.IntN(3) {
				visits.Go(func() {
					for range 30 {
						c.mu.Lock()
						prefetch, stay := 1+c.r.IntN(80), time.Duration(1+c.r.IntN(100))*time.Millisecond
						c.mu.Unlock()
						c.visit(prefetch, stay)
					}
				})
			}
			visits.Wait()
			c.mu.Lock()
			c.calm = true
			c.mu.Unlock()
			c.visit(64, time.Minute)
			synctest.Wait()
			c.m.mu.Lock()
			if at, _ := c.p.window.mark(); at != n || c.p.open != 0 || len(c.p.again)+len(c.p.queue) > 0 {
				t.Errorf("round %d: the mark is %d with %d in hand, %d to come again and %d queued, want %d and none", round, at, c.p.open, len(c.p.again), len(c.p.queue), n)
			}
			c.m.mu.Unlock()
			for key, ids := range c.accepted {
				if key != "" && !slices.IsSorted(ids) {
					t.Errorf("round %d: of key %q were accepted %v, want no one before its predecessor", round, key, ids)
				}
			}
			if len(c.accepted[""])+len(c.accepted["a"])+len(c.accepted["b"]) != n {
				t.Errorf("round %d: not all of %d were accepted", round, n)
			}
			for _, fault := range c.faults {
				t.Errorf("round %d: %s", round, fault)
			}
			c.end()
		})
	}
}
