package rabbitmq_test

import (
	"context"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestOnLostIsCalledEachTimeASubscriptionIsInterrupted(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	p, via := newProxy(t)
	b := newBroker(t, rabbitmq.Config{URL: via, RetryDelays: rungs[:1]})
	events := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- b.Subscribe(ctx, messaging.Subscription{
			Topic: topic, Group: "g",
			OnReady: func() { events <- "ready" },
			OnLost:  func(err error) { events <- "lost: " + err.Error() },
		}, into(make(chan *messaging.Delivery, 10), messaging.Verdict{}))
	}()
	expect := func(want string) {
		t.Helper()
		if got := receive(t, events); !strings.Contains(got, want) {
			t.Fatalf("the subscription is %q, want %q", got, want)
		}
	}
	expect("ready")
	for range 3 {
		p.Cut()
		expect("lost: rabbitmq: subscription of g to " + topic + " interrupted: ")
		expect("ready")
	}
	if err := a.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(topic+".g", false, false, false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	expect("the queue was deleted")
	expect("ready")
	cancel()
	if err := receive(t, ended); err != nil {
		t.Errorf("Subscribe() = %v, want nil", err)
	}
	if len(events) != 0 {
		t.Errorf("the subscription is %q at its end, want no more calls", <-events)
	}
}

func TestOnLostIsNotCalledBeforeASubscriptionStands(t *testing.T) {
	t.Parallel()
	b := newBroker(t, rabbitmq.Config{URL: "amqp://127.0.0.1:1/"}) // nobody answers there
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := b.Subscribe(ctx, messaging.Subscription{
		Topic: "t", Group: "g",
		OnLost: func(err error) { t.Errorf("OnLost(%v) was called, and nothing was lost", err) },
	}, into(nil, messaging.Verdict{})); err != nil {
		t.Errorf("Subscribe() = %v, want nil", err)
	}
}
