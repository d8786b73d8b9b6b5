package rabbitmq_test

import (
	"context"
	"errors"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestSubscribeBindsItsQueueAgainWhenTheExchangeIsDeleted(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	got := make(chan *messaging.Delivery, 1)
	leases := make(chan context.Context, 1)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		got <- d
		leases <- lease
		return s.Settle(lease, messaging.Verdict{})
	})
	ctx := within(t, patience)
	if err := b.Publish(ctx, topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	receive(t, got)
	first := receive(t, leases)
	if err := a.do(func(ch *amqp.Channel) error { return ch.ExchangeDelete(topic, false, false) }); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(ctx, topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	receive(t, got)
	if receive(t, leases) != first || first.Err() != nil {
		t.Error("the subscription was interrupted, want it to go on")
	}
	sub.stop()
}

func TestSubscribeReportsAnExchangeThatTookThePlaceOfItsOwn(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	ended := make(chan error, 1)
	ready := make(chan struct{}, 10)
	go func() {
		ended <- b.Subscribe(t.Context(), messaging.Subscription{Topic: topic, Group: "g", OnReady: func() { ready <- struct{}{} }}, into(nil, messaging.Verdict{}))
	}()
	receive(t, ready)
	if err := a.do(func(ch *amqp.Channel) error {
		if err := ch.ExchangeDelete(topic, false, false); err != nil {
			return err
		}
		return ch.ExchangeDeclare(topic, amqp.ExchangeFanout, true, false, false, false, nil)
	}); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, ended); !errors.Is(err, messaging.ErrTopology) {
		t.Errorf("Subscribe() = %v, want ErrTopology", err)
	}
}
