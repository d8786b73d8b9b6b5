package memory_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

const lease = 10 * time.Second

func TestUnsettledDeliveryIsTakenBackAndComesAgainWhenItsLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: lease})
		if got := b.Promises().Lease; got != lease {
			t.Errorf("Promises().Lease = %v, want %v", got, lease)
		}
		sub := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(1))
		first := sub.receive()
		time.Sleep(lease / 2)
		publish(t, b, numbered(2))
		second := sub.receive()
		again := sub.receive()
		if took := again.at.Sub(first.at); took != lease || number(again.Message) != 1 || !again.Redelivered || again.Attempt != 1 {
			t.Errorf("message %d came after %v, Redelivered %t, Attempt %d; want 1 after %v, true, 1", number(again.Message), took, again.Redelivered, again.Attempt, lease)
		}
		if got := context.Cause(first.lease); !errors.Is(got, messaging.ErrLost) {
			t.Errorf("the lease ended with %v, want ErrLost", got)
		}
		if second.lease.Err() != nil || again.lease.Err() != nil {
			t.Error("another lease ended too, want that of this delivery alone")
		}
		for _, err := range []error{first.Settle(t.Context(), messaging.Verdict{}), first.Extend(t.Context(), time.Hour)} {
			if !errors.Is(err, messaging.ErrLost) {
				t.Errorf("Settle() or Extend() of the lost delivery = %v, want ErrLost", err)
			}
		}
		again.ack(t)
		second.ack(t)
		sub.none()
		sub.stop()
	})
}

func TestExtendPutsTheEndOfALeaseOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: lease})
		sub := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(1))
		a := sub.receive()
		extend := func(d time.Duration) {
			t.Helper()
			if err := a.Extend(t.Context(), d); err != nil {
				t.Errorf("Extend() = %v, want nil", err)
			}
		}
		for range 10 {
			time.Sleep(lease - 1)
			extend(lease)
		}
		extend(time.Second) // does not shorten
		extend(-time.Hour)
		began := time.Now()
		again := sub.receive()
		if took := again.at.Sub(began); took < lease || took > lease+lease/32 {
			t.Errorf("it was taken back %v after the last Extend, want in %v", took, lease)
		}
		a = again
		extend(math.MaxInt64)
		time.Sleep(1000 * time.Hour)
		sub.none()
		a.ack(t)
		extend(time.Second) // settled: to no effect
		sub.stop()
	})
}

func TestLongExtensionOfOneDeliveryLeavesTheOthersTheirLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: lease})
		sub := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(1))
		long := sub.receive()
		if err := long.Extend(t.Context(), time.Hour); err != nil {
			t.Errorf("Extend() = %v, want nil", err)
		}
		time.Sleep(2 * lease) // so that the hour is what is waited for
		publish(t, b, numbered(2))
		short := sub.receive()
		if again := sub.receive(); again.at.Sub(short.at) != lease || number(again.Message) != 2 {
			t.Errorf("message %d came again after %v, want 2 after %v", number(again.Message), again.at.Sub(short.at), lease)
		} else {
			again.ack(t)
		}
		long.ack(t)
		sub.stop()
	})
}

func TestLostDeliveriesComeAgainInTheirOrder(t *testing.T) {
	for _, prefetch := range []int{50, 1000} { // some wait behind it, none does
		t.Run(fmt.Sprintf("prefetch %d", prefetch), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, memory.Config{Lease: lease})
				sub := subscribe(t, b, "g", prefetch, nil)
				for n := range 60 {
					publish(t, b, numbered(n))
				}
				for range min(60, prefetch) {
					sub.receive()
				}
				sub.none()
				for n := range 60 {
					a := sub.receive()
					if number(a.Message) != n {
						t.Fatalf("message %d came where %d was next", number(a.Message), n)
					}
					a.ack(t)
				}
				sub.stop()
			})
		})
	}
}

func TestLeaseEndsWhenItsDeliveryIsSettledAndNothingComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: lease})
		sub := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(1))
		a := sub.receive()
		a.ack(t)
		if got := context.Cause(a.lease); got == nil || errors.Is(got, messaging.ErrLost) {
			t.Errorf("the lease of what was settled ended with %v, want another cause than ErrLost", got)
		}
		time.Sleep(time.Hour)
		sub.none()
		sub.stop()
	})
}

func TestSubscribeReturnsWhenTheLastLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: lease})
		sub := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(1))
		a := sub.receive()
		sub.stop() // fails when Subscribe returns an error, and deadlocks when it does not
		if took := time.Since(a.at); took != lease {
			t.Errorf("Subscribe() returned after %v, want %v", took, lease)
		}
		next := subscribe(t, b, "g", 0, nil)
		next.receive().ack(t)
		next.stop()
	})
}

func TestCloseEndsLeasesThatWouldExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, memory.Config{Lease: lease})
		sub := subscribe(t, b, "g", 0, nil)
		publish(t, b, numbered(1))
		a := sub.receive()
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if got := context.Cause(a.lease); !errors.Is(got, messaging.ErrLost) {
			t.Errorf("the lease ended with %v, want ErrLost", got)
		}
		if err := <-sub.done; !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Subscribe() = %v, want ErrClosed", err)
		}
		time.Sleep(time.Hour) // no timer is left that would do anything
		if err := a.Extend(t.Context(), time.Second); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Extend() = %v, want ErrLost", err)
		}
	})
}

// On all processors, each delivery is settled about when its lease is over.
func TestEachMessageIsAcknowledgedOnceThoughLeasesEndMeanwhile(t *testing.T) {
	const total = 300
	b := newBroker(t, memory.Config{Lease: 2 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var acked, lost atomic.Int64
	ready := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		var settling sync.WaitGroup
		defer settling.Wait()
		err := b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g", OnReady: func() { close(ready) }},
			func(_ context.Context, d *messaging.Delivery, s messaging.Settler) error {
				wait := time.Duration(number(d.Message)%5) * time.Millisecond
				if d.Redelivered {
					wait /= 2 // so that it ends at some time
				}
				settling.Go(func() {
					<-time.After(wait)
					switch err := s.Settle(ctx, messaging.Verdict{}); {
					case errors.Is(err, messaging.ErrLost):
						lost.Add(1)
					case err != nil:
						t.Errorf("Settle() = %v, want nil or ErrLost", err)
					case acked.Add(1) == total:
						cancel()
					}
				})
				return nil
			})
		if err != nil {
			t.Errorf("Subscribe() = %v, want nil", err)
		}
	})
	<-ready
	for n := range total {
		publish(t, b, numbered(n))
	}
	running.Wait()
	if acked.Load() != total || lost.Load() == 0 {
		t.Errorf("%d messages were acknowledged and %d deliveries lost, want %d and some", acked.Load(), lost.Load(), total)
	}
}
