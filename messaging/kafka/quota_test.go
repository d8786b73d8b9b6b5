package kafka

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestNoMoreThanTheQuotaWaitsForKafka(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q quota
		q.free.Store(maxInFlight)
		open := make(chan struct{})
		if err := q.take(t.Context(), open, maxInFlight-1); err != nil {
			t.Fatalf("take() = %v, want nil while there is room", err)
		}
		got := make(chan error)
		go func() { got <- q.take(t.Context(), open, 2) }()
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("take() = %v though there is no room, want it to wait", err)
		default:
		}
		q.give(1)
		if err := <-got; err != nil {
			t.Errorf("take() = %v when there is room again, want nil", err)
		}

		cause := errors.New("the caller has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { got <- q.take(ctx, open, 1) }()
		synctest.Wait()
		cancel(cause)
		if err := <-got; !errors.Is(err, cause) {
			t.Errorf("take() = %v, want the cause of its context", err)
		}
		closing := make(chan struct{})
		go func() { got <- q.take(t.Context(), closing, 1) }()
		synctest.Wait()
		close(closing)
		if err := <-got; !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("take() = %v, want ErrClosed", err)
		}
		q.give(maxInFlight)
		if err := q.take(t.Context(), open, 2*maxInFlight); err != nil {
			t.Errorf("take() of more than there is = %v, want nil when nobody else has any", err)
		}
	})
}

func TestWhoWaitsForTheQuotaIsServedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q quota
		q.free.Store(maxInFlight)
		if err := q.take(t.Context(), nil, maxInFlight); err != nil {
			t.Fatalf("take() = %v, want nil", err)
		}
		got := make(chan int64, 3)
		ctx, leave := context.WithCancel(t.Context())
		for i, n := range []int64{100, 200, 5} {
			of := t.Context()
			if i == 1 {
				of = ctx
			}
			go func() {
				if q.take(of, nil, n) == nil {
					got <- n
				}
			}()
			synctest.Wait()
		}
		q.give(50)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("a small claim went ahead of a larger one before it, which could then wait for ever")
		}
		q.give(60)
		synctest.Wait()
		if len(got) != 1 || <-got != 100 {
			t.Fatal("the first in line was not served alone")
		}
		leave()
		synctest.Wait()
		if len(got) != 1 || <-got != 5 {
			t.Fatal("who stood behind one who left was not served")
		}
		if free := q.free.Load(); free != 5 {
			t.Errorf("%d bytes are free, want 5", free)
		}
	})
}

func TestNoBytesOfTheQuotaGetLost(t *testing.T) {
	var q quota
	q.free.Store(maxInFlight)
	var running sync.WaitGroup
	for i := range 64 {
		running.Go(func() {
			for range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%4)*50*time.Microsecond)
				n := int64(maxInFlight / (1 + i%5))
				if q.take(ctx, nil, n) == nil {
					q.give(n)
				}
				cancel()
			}
		})
	}
	running.Wait()
	if free, wait := q.free.Load(), q.wait.Load(); free != maxInFlight || wait != 0 || len(q.line) != 0 {
		t.Errorf("%d bytes are free and %d wait, want all and none", free, wait)
	}
}
