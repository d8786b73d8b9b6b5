package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// A service publishes an event, and another charges for it. It has no output,
// because it needs a RabbitMQ.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	b, err := rabbitmq.New(rabbitmq.Config{URL: os.Getenv("AMQP_URL"), Source: "/orders"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = b.Close(context.WithoutCancel(ctx)) }()

	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{MaxAttempts: 5})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle(messaging.Subscription{Topic: "orders", Group: "billing"}, func(ctx context.Context, d *messaging.Delivery) error {
		fmt.Printf("charge for %s, attempt %d\n", d.Payload, d.Attempt)
		return nil // acknowledges; an error retries
	})
	go func() {
		<-c.Ready()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := b.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", []byte(`{"orderId":456}`)))
		if errors.Is(err, messaging.ErrNotConfirmed) {
			fmt.Println("it may have been stored: publish the same message again")
		}
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
}

// New reports all that is wrong with a Config at once, and connects to nothing.
func ExampleNew() {
	_, err := rabbitmq.New(rabbitmq.Config{URL: "http://localhost", Heartbeat: time.Millisecond})
	fmt.Println(err)
	// Output:
	// rabbitmq: config: URL is not of the form amqp://user:password@host:5672/vhost, with reserved characters percent-encoded; Heartbeat 1ms is outside 1s..10m
}

// A Broker that cannot be reached holds a Publish up until its context ends.
func ExampleBroker_Publish() {
	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://127.0.0.1:1/", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = b.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", nil))
	fmt.Println(errors.Is(err, context.DeadlineExceeded), errors.Is(err, messaging.ErrNotConfirmed))
	fmt.Println(b.Close(context.Background()))
	// Output:
	// true false
	// <nil>
}

// A closed Broker ends every call.
func ExampleBroker_Close() {
	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://localhost/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Close(context.Background()))
	err = b.Subscribe(context.Background(), messaging.Subscription{Topic: "orders", Group: "billing"}, nothing)
	fmt.Println(errors.Is(err, messaging.ErrClosed))
	// Output:
	// <nil>
	// true
}

// Promises tells what a program may rely on, whichever broker it runs on.
func ExampleBroker_Promises() {
	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://localhost/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	p := b.Promises()
	fmt.Println(p.Durable, p.Ordered, p.Routed, p.MaxPayload>>20)
	// Output:
	// true true true 16
}

// A subscription that is invalid is refused before the network.
func ExampleBroker_Subscribe() {
	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://localhost/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = b.Subscribe(context.Background(), messaging.Subscription{Topic: "orders"}, nothing)
	fmt.Println(errors.Is(err, messaging.ErrInvalid))
	// Output:
	// true
}

func nothing(context.Context, *messaging.Delivery, messaging.Settler) error { return nil }
