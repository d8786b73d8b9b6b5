package sqs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

func TestCloseEndsLeasesThoughDeliverBlocks(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{Visibility: time.Hour})
	topic := unique()
	ready, entered, ended := make(chan struct{}, 1), make(chan struct{}, 10), make(chan error, 1)
	go func() {
		ended <- b.Subscribe(context.Background(), messaging.Subscription{Topic: topic, Group: "g", OnReady: func() { ready <- struct{}{} }},
			func(lease context.Context, _ *messaging.Delivery, _ messaging.Settler) error {
				entered <- struct{}{}
				<-lease.Done()
				return context.Cause(lease)
			})
	}()
	receive(t, ready)
	publish(t, b, topic, message("", 1))
	receive(t, entered)
	if err := b.Close(within(t, 10*time.Second)); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	if err := receive(t, ended); !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Subscribe() = %v, want ErrClosed", err)
	}
}

func TestALaterSettleDoesNothingAlsoOnceClosed(t *testing.T) {
	t.Parallel()
	b := fakeBroker(t, &sqsfake.Server{}, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1))
	d := sub.receive()
	d.ack(t)
	if err := b.Close(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	if err := d.Settle(t.Context(), messaging.Verdict{}); err != nil {
		t.Errorf("Settle() of what is settled = %v, want nil", err)
	}
	if err := d.Extend(t.Context(), time.Second); err != nil {
		t.Errorf("Extend() of what is settled = %v, want nil", err)
	}
}
