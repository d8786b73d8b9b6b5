package rabbitmq_test

import (
	"context"
	"errors"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestADeletedExchangeOrQueueIsNoErrorToAPublisher(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(ch *amqp.Channel, topic string) error{
		"exchange": func(ch *amqp.Channel, topic string) error { return ch.ExchangeDelete(topic, false, false) },
		"queue": func(ch *amqp.Channel, topic string) error {
			_, err := ch.QueueDelete(topic+".g", false, false, false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdmin(t)
			topic := a.topic("g")
			b := newBroker(t, rabbitmq.Config{})
			got := make(chan *messaging.Delivery, 10)
			sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
			ctx := within(t, patience)
			if err := b.Publish(ctx, topic, numbered(1)...); err != nil {
				t.Fatalf("Publish() = %v, want nil", err)
			}
			receive(t, got)
			if err := a.do(func(ch *amqp.Channel) error { return remove(ch, topic) }); err != nil {
				t.Fatal(err)
			}
			m := messaging.NewMessage("Numbered", nil) // of the type that has arrived
			if err := b.Publish(ctx, topic, m); err != nil {
				t.Errorf("Publish() after the %s was deleted = %v, want nil", name, err)
			}
			if d := receive(t, got); d.ID != m.ID {
				t.Errorf("received %s, want %s", d.ID, m.ID)
			}
			// What never had a way is told at once, also now.
			began := time.Now()
			if err := b.Publish(ctx, unique("nobody"), numbered(1)...); !errors.Is(err, messaging.ErrUnroutable) || time.Since(began) > 5*time.Second {
				t.Errorf("Publish() to nobody = %v after %v, want ErrUnroutable at once", err, time.Since(began))
			}
			sub.stop()
		})
	}
}

func TestPublishTellsOfAGroupThatStaysAway(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	rabbitmq.SetAstrayFor(b, 2*time.Second)
	a.declare(b, topic, "g")
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	a.deleteGroup(topic, "g")

	stop := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, stop)
	defer cancel()
	if err := b.Publish(ctx, topic, numbered(1)...); !errors.Is(err, stop) || !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() = %v, want ErrUnroutable and the cause of its context", err)
	}
	for _, want := range []struct {
		what          string
		least, atMost time.Duration
	}{
		{"after a while", 2 * time.Second, patience},
		{"at once, when others have waited before", 0, time.Second},
	} {
		began := time.Now()
		err := b.Publish(within(t, patience), topic, numbered(1)...)
		if took := time.Since(began); !errors.Is(err, messaging.ErrUnroutable) || took < want.least || took > want.atMost {
			t.Errorf("Publish() = %v after %v, want ErrUnroutable %s", err, took, want.what)
		}
	}
}
