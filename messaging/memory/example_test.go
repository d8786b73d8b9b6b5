package memory_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"}, func(_ context.Context, d *messaging.Delivery) error {
		fmt.Println(d.Type)
		stop()
		return nil
	})
	go func() {
		<-c.Ready()
		if err := broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", nil)); err != nil {
			fmt.Println(err)
		}
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: OrderPlaced
}

// A topic to which no group has subscribed refuses messages instead of losing
// them.
func ExampleBroker_Publish() {
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = broker.Publish(context.Background(), "orders", messaging.NewMessage("OrderPlaced", nil))
	fmt.Println(errors.Is(err, messaging.ErrUnroutable))
	// Output: true
}

// Dead letters keep the message, and say why they are dead.
func ExampleBroker_DeadLetters() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{
		Logger:   slog.New(slog.DiscardHandler),
		OnSettle: func(messaging.Settled) { stop() },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"}, func(context.Context, *messaging.Delivery) error {
		return messaging.Permanent(errors.New("no such customer"))
	})
	go func() {
		<-c.Ready()
		if err := broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", []byte("order 456"))); err != nil {
			fmt.Println(err)
		}
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
	for _, m := range broker.DeadLetters("orders", "mail") {
		fmt.Printf("%s: %s: %s\n", m.Payload, m.Headers[messaging.HeaderDeadReason], m.Headers[messaging.HeaderDeadError])
	}
	// Output: order 456: permanent: no such customer
}
