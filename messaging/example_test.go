package messaging_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

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

// With OrderedRetries the messages behind a failing one wait, if they have its Key.
func ExampleConsumerConfig_orderedRetries() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{
		OrderedRetries: true,
		Backoff:        func(int) time.Duration { return time.Millisecond },
		Logger:         slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle(messaging.Subscription{Topic: "accounts", Group: "ledger"}, func(_ context.Context, d *messaging.Delivery) error {
		fmt.Println(d.Type, "attempt", d.Attempt)
		switch {
		case d.Type == "Opened" && d.Attempt == 1:
			return errors.New("the database is restarting")
		case d.Type == "Closed":
			stop()
		}
		return nil
	})
	go func() {
		<-c.Ready()
		opened, closed := messaging.NewMessage("Opened", nil), messaging.NewMessage("Closed", nil)
		opened.Key, closed.Key = "account 7", "account 7"
		if err := broker.Publish(ctx, "accounts", opened, closed); err != nil {
			fmt.Println(err)
		}
	}()
	fmt.Println("ended with", c.Run(ctx))
	// Output:
	// Opened attempt 1
	// Opened attempt 2
	// Closed attempt 1
	// ended with <nil>
}

// newPaused returns a Consumer whose one subscription is paused.
func newPaused() (*messaging.Consumer, error) {
	broker, err := memory.New(memory.Config{})
	if err != nil {
		return nil, err
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{})
	if err != nil {
		return nil, err
	}
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"}, func(context.Context, *messaging.Delivery) error { return nil })
	return c, c.Pause("orders", "mail")
}

// A subscription may begin paused, and be resumed when what it depends on is there.
func ExampleConsumer_Pause() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	c, err := newPaused()
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-c.Ready() // which waits for no subscription that is paused
	fmt.Println("paused:", c.Stats()[0].Paused, "health:", c.Health())
	if err := c.Pause("orders", "audit"); err != nil {
		fmt.Println(err)
	}
	stop()
	fmt.Println("ended with", <-ended)
	// Output:
	// paused: true health: <nil>
	// messaging: invalid: pause: group "audit" of topic "orders" has no handler: call Handle first
	// ended with <nil>
}

// What was paused subscribes again.
func ExampleConsumer_Resume() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	established := make(chan struct{})
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
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail", OnReady: func() { close(established) }},
		func(context.Context, *messaging.Delivery) error {
			fmt.Println("handled")
			stop()
			return nil
		})
	if err := errors.Join(c.Pause("orders", "mail"), c.Resume("orders", "mail")); err != nil {
		fmt.Println(err)
	}
	go func() {
		<-established
		if err := broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", nil)); err != nil {
			fmt.Println(err)
		}
	}()
	fmt.Println("ended with", c.Run(ctx))
	// Output:
	// handled
	// ended with <nil>
}

// A readiness check reports which subscription is not established, and why.
func ExampleConsumer_Health() {
	c, err := newPaused()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Health())
	if err := c.Resume("orders", "mail"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(c.Health())
	// Output:
	// <nil>
	// messaging: the subscription of group mail to topic orders is not established: Run was not called
}

// Stats has an entry for each subscription, for metrics.
func ExampleConsumer_Stats() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, err := memory.New(memory.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{OnSettle: func(messaging.Settled) { stop() }})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"}, func(context.Context, *messaging.Delivery) error { return nil })
	go func() {
		<-c.Ready()
		if err := broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", nil)); err != nil {
			fmt.Println(err)
		}
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
	for _, s := range c.Stats() {
		fmt.Println(s.Group, "of", s.Topic, "handled", s.Handled, "lost", s.Lost, "in flight", s.InFlight)
	}
	// Output:
	// mail of orders handled 1 lost 0 in flight 0
}

// Many messages for one round trip: done is told of each when the broker has
// answered, and Flush waits for the last.
func ExampleAsyncPublisher() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
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
