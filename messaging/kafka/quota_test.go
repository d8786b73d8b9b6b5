package kafka

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/parley-go/parley/messaging"
)

func TestNoMoreThanTheQuotaWaitsForKafka(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota{free: maxInFlight}
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
