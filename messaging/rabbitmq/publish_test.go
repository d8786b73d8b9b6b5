package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestPublishTellsEachUnroutableMessageFromItsNeighbours(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	bound, unbound := a.topic("g"), a.topic()
	b := newBroker(t, rabbitmq.Config{})
	a.declare(b, bound, "g")
	ctx := within(t, patience)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for range 10 {
				var err error
				if i%2 == 0 {
					if err = b.Publish(ctx, bound, numbered(3)...); err != nil {
						t.Errorf("Publish() to a group = %v, want nil", err)
					}
					continue
				}
				err = b.Publish(ctx, unbound, numbered(3)...)
				batch, ok := errors.AsType[*messaging.BatchError](err)
				if !ok {
					t.Errorf("Publish() to nobody = %v, want a BatchError", err)
					continue
				}
				for _, err := range batch.Errs {
					if !errors.Is(err, messaging.ErrUnroutable) {
						t.Errorf("Publish() to nobody = %v, want ErrUnroutable for each message", err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := a.count(bound + ".g"); n != 50*10*3 {
		t.Errorf("%d messages are stored, want %d", n, 50*10*3)
	}
}

func TestOneBadPublishAmongManyFailsAlone(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	good, bad := a.topic("g"), a.topic()
	a.declare(newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]}), good, "g")
	// RabbitMQ closes the channel over a message to an internal exchange, and with
	// it answers for none of those that share the channel.
	if err := a.do(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(bad, "topic", true, false, true, false, nil)
	}); err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, rabbitmq.Config{Passive: true})
	ctx := within(t, patience)
	if err := b.Publish(ctx, good, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	const publishers, rounds = 50, 20
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for range rounds {
				if err := b.Publish(ctx, good, numbered(1)...); err != nil {
					t.Errorf("Publish() of a good message = %v, want nil", err)
				}
			}
		})
		if p == publishers/2 {
			wg.Go(func() {
				if err := b.Publish(ctx, bad, numbered(1)...); !errors.Is(err, messaging.ErrDenied) || !strings.Contains(err.Error(), bad) {
					t.Errorf("Publish() of the bad message = %v, want ErrDenied and the exchange's name", err)
				}
			})
		}
	}
	wg.Wait()
	if n := a.count(good + ".g"); n < 1+publishers*rounds { // more where an answer was lost with the channel
		t.Errorf("%d messages are stored, want at least %d", n, 1+publishers*rounds)
	}
}

func TestATargetThatRefusesAllIsToldAtOnceHoweverManyMessagesGoThere(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic()
	if err := a.do(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(topic, "topic", true, false, true, false, nil)
	}); err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, rabbitmq.Config{Passive: true})
	// So many that RabbitMQ closes the channel while they are being written.
	err := b.Publish(within(t, patience), topic, numbered(20_000)...)
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok {
		t.Fatalf("Publish() = %v, want a BatchError", err)
	}
	for i, err := range batch.Errs {
		if !errors.Is(err, messaging.ErrDenied) {
			t.Fatalf("Publish() of message %d = %v, want ErrDenied", i, err)
		}
	}
}

func TestPublishDeclaresADeletedExchangeAgain(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic, other := a.topic("g"), a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	rabbitmq.SetAstrayFor(b, time.Second)
	a.declare(b, topic, "g")
	a.declare(b, other, "g")
	ctx := within(t, patience)
	if err := b.Publish(ctx, topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	if err := a.do(func(ch *amqp.Channel) error { return ch.ExchangeDelete(topic, false, false) }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 200 {
			if err := b.Publish(ctx, other, numbered(5)...); err != nil {
				t.Errorf("Publish() to another topic meanwhile = %v, want nil", err)
			}
		}
	})
	// The exchange is there again, and no queue is bound to it.
	if err := b.Publish(ctx, topic, numbered(1)...); !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() after the exchange was deleted = %v, want ErrUnroutable", err)
	}
	wg.Wait()
	a.declare(b, topic, "g")
	if err := b.Publish(ctx, topic, numbered(1)...); err != nil {
		t.Errorf("Publish() after the group came back = %v, want nil", err)
	}
}

func TestPublishReportsANackAsRefused(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("full")
	b := newBroker(t, rabbitmq.Config{})
	err := a.do(func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare(topic, "topic", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(topic+".full", true, false, false, false, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"}); err != nil {
			return err
		}
		return ch.QueueBind(topic+".full", "#", topic, false, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, patience)
	for range 5 { // the limit is soft by a message or two
		if err = b.Publish(ctx, topic, numbered(1)...); err != nil {
			break
		}
	}
	if !errors.Is(err, messaging.ErrRefused) {
		t.Errorf("Publish() to a full queue = %v, want ErrRefused", err)
	}
}

func TestPublishRefusesBeforeTheNetwork(t *testing.T) {
	t.Parallel()
	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://127.0.0.1:1/"}) // nobody answers there
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	good := messaging.NewMessage("T", nil)
	odd := messaging.NewMessage("T", nil)
	odd.Headers = map[string]string{"CC": "elsewhere"}
	large := messaging.NewMessage("T", make([]byte, b.Promises().MaxPayload+1))
	for name, c := range map[string]struct {
		topic string
		msg   messaging.Message
		want  error
	}{
		"a message without an ID":                        {"t", messaging.Message{}, messaging.ErrInvalid},
		"a message that is too large":                    {"t", large, messaging.ErrTooLarge},
		"a header by which RabbitMQ would send copies":   {"t", odd, messaging.ErrInvalid},
		"a topic name that AMQP reserves":                {"amq.topic", good, messaging.ErrInvalid},
		"an empty topic":                                 {"", good, messaging.ErrInvalid},
		"a topic name that is not one in other brokers ": {"a/b", good, messaging.ErrInvalid},
	} {
		if err := b.Publish(ctx, c.topic, c.msg); !errors.Is(err, c.want) {
			t.Errorf("Publish() of %s = %v, want %v", name, err, c.want)
		}
	}
	if err := b.Publish(ctx, "t"); err != nil {
		t.Errorf("Publish() of nothing = %v, want nil", err)
	}
	if err := b.Close(ctx); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	if err := b.Publish(ctx, "t", good); !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Publish() after Close = %v, want ErrClosed", err)
	}
	if err := b.Close(ctx); err != nil {
		t.Errorf("second Close() = %v, want nil", err)
	}
}

func TestPublishWithoutABrokerEndsWithItsContextAndTellsWhy(t *testing.T) {
	t.Parallel()
	b := newBroker(t, rabbitmq.Config{URL: "amqp://guest:hush@127.0.0.1:1/"})
	stop := errors.New("shutting down")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, stop)
	defer cancel()
	err := b.Publish(ctx, "t", numbered(1)...)
	if !errors.Is(err, stop) || errors.Is(err, messaging.ErrNotConfirmed) {
		t.Errorf("Publish() = %v, want the cause of its context, and not ErrNotConfirmed: nothing was sent", err)
	}
	if !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "hush") {
		t.Errorf("Publish() = %v, want the address that does not answer, and no password", err)
	}
}

func TestCloseEndsPublish(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	a.declare(b, topic, "g")
	var wg sync.WaitGroup
	started := make(chan struct{}, 1000)
	for range 20 {
		wg.Go(func() {
			for {
				err := b.Publish(context.Background(), topic, numbered(10)...)
				select {
				case started <- struct{}{}:
				default:
				}
				if err != nil {
					if !errors.Is(err, messaging.ErrClosed) {
						t.Errorf("Publish() = %v, want ErrClosed", err)
					}
					return
				}
			}
		})
	}
	for range 20 {
		receive(t, started)
	}
	if err := b.Close(within(t, patience)); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	wg.Wait()
}

func TestPublisherMayReuseWhatItPublished(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	got := make(chan *messaging.Delivery, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
	m := messaging.Message{Headers: map[string]string{}, Payload: make([]byte, 2)}
	for i := range 100 {
		m.ID = fmt.Sprintf("%02d", i)
		m.Headers["n"] = m.ID
		copy(m.Payload, m.ID)
		if err := b.Publish(within(t, patience), topic, m); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
	}
	for range 100 {
		if d := receive(t, got); d.Headers["n"] != d.ID || string(d.Payload) != d.ID {
			t.Errorf("message %s has header %s, payload %s", d.ID, d.Headers["n"], d.Payload)
		}
	}
}
