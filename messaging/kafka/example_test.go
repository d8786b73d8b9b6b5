package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// A service publishes an event, and another charges for it. It has no output,
// because it needs a Kafka.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	b, err := kafka.New(kafka.Config{Seeds: strings.Split(os.Getenv("KAFKA_ADDRS"), ","), Source: "/orders"})
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
	_, err := kafka.New(kafka.Config{Seeds: []string{"localhost"}, RebalanceTimeout: time.Millisecond})
	fmt.Println(err)
	// Output:
	// kafka: config: Seeds entry "localhost" is not of the form host:port; RebalanceTimeout 1ms is outside 1s..10m
}

// A Broker that cannot be reached holds a Publish up until its context ends.
func ExampleBroker_Publish() {
	b, err := kafka.New(kafka.Config{Seeds: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler)})
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

// A group receives what is published from its first Subscribe on. The Kafka here
// is a fake inside the process.
func ExampleBroker_Subscribe() {
	fake, err := kfake.NewCluster()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer fake.Close()
	b, err := kafka.New(kafka.Config{Seeds: fake.ListenAddrs(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	sub := messaging.Subscription{Topic: "orders", Group: "billing", OnReady: func() {
		go func() { _ = b.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", []byte(`{"orderId":456}`))) }()
	}}
	err = b.Subscribe(ctx, sub, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		fmt.Printf("%s %s\n", d.Type, d.Payload)
		defer cancel()
		return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
	})
	fmt.Println(err, b.Close(context.Background()))
	// Output:
	// OrderPlaced {"orderId":456}
	// <nil> <nil>
}

// A closed Broker ends every call.
func ExampleBroker_Close() {
	b, err := kafka.New(kafka.Config{Seeds: []string{"localhost:9092"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Close(context.Background()))
	err = b.Publish(context.Background(), "orders", messaging.NewMessage("OrderPlaced", nil))
	fmt.Println(errors.Is(err, messaging.ErrClosed))
	// Output:
	// <nil>
	// true
}

// Promises tells what a program may rely on, whichever broker it runs on.
func ExampleBroker_Promises() {
	b, err := kafka.New(kafka.Config{Seeds: []string{"localhost:9092"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	p := b.Promises()
	fmt.Println(p.Durable, p.Ordered, p.Routed, p.MaxPayload)
	// Output:
	// true true false 983040
}
