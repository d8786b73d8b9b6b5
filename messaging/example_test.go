package messaging_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

type placed struct {
	OrderID int `json:"orderId"`
}

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
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"},
		messaging.Typed(messaging.JSON{}, func(_ context.Context, o placed, d *messaging.Delivery) error {
			fmt.Println("mail for order", o.OrderID, "of type", d.Type)
			stop()
			return nil
		}))
	go func() {
		<-c.Ready()
		payload, _ := json.Marshal(placed{OrderID: 456})
		if err := broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", payload)); err != nil {
			fmt.Println(err)
		}
	}()
	fmt.Println("ended with", c.Run(ctx))
	// Output:
	// mail for order 456 of type OrderPlaced
	// ended with <nil>
}

// consume publishes one message and runs a Consumer until it is settled.
func consume(cfg messaging.ConsumerConfig, h messaging.Handler, mw ...messaging.Middleware) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.OnSettle = func(s messaging.Settled) {
		fmt.Println(s.Verdict.Kind, s.Verdict.Reason)
		stop()
	}
	c, err := messaging.NewConsumer(broker, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, h, mw...)
	go func() {
		<-c.Ready()
		if err := broker.Publish(ctx, "t", messaging.NewMessage("T", []byte(`{"orderId":`))); err != nil {
			fmt.Println(err)
		}
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
}

// An error that no further attempt can mend sets the message aside at once.
func ExamplePermanent() {
	consume(messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
		return messaging.Permanent(errors.New("there is no such customer"))
	})
	// Output: dead_letter permanent
}

// What cannot be decoded never reaches the function.
func ExampleTyped() {
	consume(messaging.ConsumerConfig{}, messaging.Typed(messaging.JSON{}, func(context.Context, placed, *messaging.Delivery) error {
		return nil
	}))
	// Output: dead_letter decode
}

// A handler that knows when to come back says so.
func ExampleAfter() {
	consume(messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
		return messaging.After(errors.New("closed until tomorrow"), 1<<40)
	})
	// Output: retry
}

// The first middleware listed is the outermost.
func ExampleMiddleware() {
	say := func(name string) messaging.Middleware {
		return func(next messaging.Handler) messaging.Handler {
			return func(ctx context.Context, d *messaging.Delivery) error {
				fmt.Println("before", name)
				defer fmt.Println("after", name)
				return next(ctx, d)
			}
		}
	}
	consume(messaging.ConsumerConfig{}, func(context.Context, *messaging.Delivery) error {
		fmt.Println("handler")
		return nil
	}, say("first"), say("second"))
	// Output:
	// before first
	// before second
	// handler
	// after second
	// after first
	// ack
}

// One invalid message does not keep the others of the call from being taken.
func ExampleBatchError() {
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	// A group exists once it has subscribed.
	_ = broker.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })

	err = broker.Publish(context.Background(), "t", messaging.NewMessage("T", nil), messaging.Message{Type: "T"})
	var batch *messaging.BatchError
	if errors.As(err, &batch) {
		for i, err := range batch.Errs {
			fmt.Println(i, errors.Is(err, messaging.ErrInvalid))
		}
	}
	// Output:
	// 0 false
	// 1 true
}

// Many messages for one round trip: done is told of each when the broker has
// answered, and Flush waits for the last.
func ExampleAsyncPublisher() {
	ctx, stop := context.WithCancel(context.Background())
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	async, err := messaging.NewAsyncPublisher(broker, messaging.AsyncConfig{MaxInFlight: 100})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error)
	go func() { ended <- async.Run(ctx) }()

	for _, topic := range []string{"orders", "orders"} {
		m := messaging.NewMessage("OrderPlaced", []byte(`{"orderId":456}`))
		err := async.Publish(ctx, topic, m, func(err error) {
			fmt.Println("unroutable:", errors.Is(err, messaging.ErrUnroutable))
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("flushed:", async.Flush(ctx))
	stop()
	fmt.Println("ended with", <-ended)
	// Output:
	// unroutable: true
	// unroutable: true
	// flushed: <nil>
	// ended with <nil>
}
