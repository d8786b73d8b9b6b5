package rabbitmq_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestPassiveSaysAllThatIsMissingAndMakesNothing(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{Passive: true, RetryDelays: rungs[:2]})
	s := messaging.Subscription{Topic: topic, Group: "g"}
	err := b.Subscribe(within(t, patience), s, into(nil, messaging.Verdict{}))
	if !errors.Is(err, messaging.ErrNotFound) {
		t.Fatalf("Subscribe() = %v, want ErrNotFound", err)
	}
	for _, want := range []string{
		"exchange " + topic + " (a durable topic exchange)",
		"queue " + topic + ".g (a durable queue with x-dead-letter-exchange=, x-dead-letter-routing-key=" + topic + ".g.dlq, ",
		"queue " + topic + ".g.dlq (a durable queue with x-delivery-limit=1073741824, x-queue-type=quorum)",
		"queue " + topic + ".g.retry.100 (",
		"queue " + topic + ".g.retry.200 (",
		"x-message-ttl=200",
		"bind",
		"Config.Passive",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Subscribe() = %v, want it to contain %q", err, want)
		}
	}
	if err := b.Publish(within(t, patience), topic, numbered(2)...); !errors.Is(err, messaging.ErrNotFound) || !strings.Contains(err.Error(), "exchange "+topic) {
		t.Errorf("Publish() = %v, want ErrNotFound and the exchange's name", err)
	}
	if err := a.do(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(topic, "topic", true, false, false, false, nil)
	}); err == nil {
		t.Error("the exchange was made")
	}

	a.declare(newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]}), topic, "g")
	err = b.Subscribe(within(t, patience), s, into(nil, messaging.Verdict{}))
	if text := err.Error(); !errors.Is(err, messaging.ErrNotFound) || strings.Contains(text, ".dlq (") || !strings.Contains(text, ".retry.200 (") {
		t.Errorf("Subscribe() = %v, want ErrNotFound for the one queue that is missing", err)
	}
}

func TestPassiveEndsWhenItsQueueIsDeleted(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(ch *amqp.Channel, topic string) error{
		"queue": func(ch *amqp.Channel, topic string) error {
			_, err := ch.QueueDelete(topic+".g", false, false, false)
			return err
		},
		"exchange": func(ch *amqp.Channel, topic string) error { return ch.ExchangeDelete(topic, false, false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdmin(t)
			topic := a.topic("g")
			a.declare(newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]}), topic, "g")
			b := newBroker(t, rabbitmq.Config{Passive: true, RetryDelays: rungs[:1]})
			ended, ready, lost := make(chan error, 1), make(chan struct{}, 1), make(chan error, 10)
			got := make(chan *messaging.Delivery, 1)
			go func() {
				ended <- b.Subscribe(t.Context(), messaging.Subscription{
					Topic: topic, Group: "g", OnReady: func() { ready <- struct{}{} }, OnLost: func(err error) { lost <- err },
				}, into(got, messaging.Verdict{}))
			}()
			receive(t, ready)
			if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
				t.Errorf("Publish() = %v, want nil", err)
			}
			receive(t, got)
			if err := a.do(func(ch *amqp.Channel) error { return remove(ch, topic) }); err != nil {
				t.Fatal(err)
			}
			receive(t, lost)
			if err := receive(t, ended); !errors.Is(err, messaging.ErrNotFound) || !strings.Contains(err.Error(), name+" "+topic) {
				t.Errorf("Subscribe() = %v, want ErrNotFound with the name of the %s", err, name)
			}
		})
	}
}

func TestPassiveNeedsNoPermissionToConfigure(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.RabbitMQ())
	ctx := within(t, 2*time.Minute)
	// One user who makes the topology, one who publishes, one who consumes.
	for _, c := range [][]string{
		{"add_user", "publisher", "secret"},
		{"set_permissions", "publisher", "^$", "^orders$", "^$"},
		{"add_user", "consumer", "secret"},
		{"set_permissions", "consumer", "^$", `^amq\.default$`, `^orders\.g($|\.)`},
		{"add_user", "reader", "secret"},
		{"set_permissions", "reader", "^$", "^$", `^orders\.g($|\.)`},
	} {
		if _, err := node.Control(ctx, c...); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user string, passive bool) *rabbitmq.Broker {
		u, err := url.Parse(node.URL())
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			u.User = url.UserPassword(user, "secret")
		}
		return newBroker(t, rabbitmq.Config{URL: u.String(), Passive: passive, RetryDelays: rungs[:1]})
	}
	adminAt(t, node.URL()).declare(as("", false), "orders", "g")

	s := messaging.Subscription{Topic: "orders", Group: "g"}
	if err := as("consumer", false).Subscribe(ctx, s, into(nil, messaging.Verdict{})); !errors.Is(err, messaging.ErrDenied) {
		t.Errorf("Subscribe() without Passive = %v, want ErrDenied", err)
	}
	if err := as("publisher", false).Publish(ctx, "orders", numbered(1)...); !errors.Is(err, messaging.ErrDenied) {
		t.Errorf("Publish() without Passive = %v, want ErrDenied", err)
	}
	consumer := as("consumer", true)
	want := numbered(3)
	if err := as("publisher", true).Publish(ctx, "orders", want...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	dead := make(chan *messaging.Delivery, len(want))
	work := subscribe(t, consumer, s, failing(dead))
	for range want {
		if d := receive(t, dead); d.Attempt != 2 {
			t.Errorf("set aside at attempt %d, want 2", d.Attempt)
		}
	}
	work.stop()
	sub, letters := readDead(t, consumer, "orders", "g")
	for range want {
		receive(t, letters).settle(t, messaging.Retry)
	}
	sub.stop()
	back := make(chan *messaging.Delivery, len(want))
	work = subscribe(t, consumer, s, into(back, messaging.Verdict{}))
	for range want {
		receive(t, back)
	}
	work.stop()

	// Who may not write to the default exchange is told so when a retry needs it.
	if err := as("publisher", true).Publish(ctx, "orders", numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	settled := make(chan error, 10)
	work = subscribe(t, as("reader", true), s, func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
		settled <- s.Settle(lease, messaging.Verdict{Kind: messaging.Retry})
		return nil
	})
	if err := receive(t, settled); !errors.Is(err, messaging.ErrDenied) || !strings.Contains(err.Error(), "amq.default") {
		t.Errorf("Settle(Retry) without the permission = %v, want ErrDenied and the exchange's name", err)
	}
	work.stop()
}
