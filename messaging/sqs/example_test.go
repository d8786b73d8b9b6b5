package sqs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
)

// A service publishes an event, and another charges for it. It has no output,
// because it needs an account of AWS. Programs load cfg by config.LoadDefaultConfig
// of the SDK.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	cfg := aws.Config{Region: "eu-west-1"}
	b, err := sqs.New(sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg), Source: "/orders"})
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
		return nil // deletes it; an error retries
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

// unreachable returns a client of an address at which nothing listens.
func unreachable() *awssqs.Client {
	return awssqs.NewFromConfig(settings("http://127.0.0.1:1"))
}

// New reports all that is wrong with a Config at once, and asks for nothing.
func ExampleNew() {
	_, err := sqs.New(sqs.Config{Visibility: time.Millisecond, Wait: time.Minute})
	fmt.Println(err)
	// Output:
	// sqs: config: Client is nil: set sqs.NewFromConfig(cfg); Visibility 1ms is outside 1s..12h or not in whole seconds; Wait 1m0s is outside 1s..20s or not in whole seconds
}

// A Broker that cannot be reached holds a Publish up until its context ends.
func ExampleBroker_Publish() {
	b, err := sqs.New(sqs.Config{Client: unreachable(), Logger: slog.New(slog.DiscardHandler)})
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
	b, err := sqs.New(sqs.Config{Client: unreachable()})
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
	b, err := sqs.New(sqs.Config{Client: unreachable(), FIFO: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	p := b.Promises()
	fmt.Println(p.Durable, p.Ordered, p.Routed, p.Lease, p.CountsRelease, p.MaxPayload>>10)
	// Output:
	// true true true 30s true 190
}

// A subscription that is invalid is refused before the network.
func ExampleBroker_Subscribe() {
	b, err := sqs.New(sqs.Config{Client: unreachable()})
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
