// Command messaging publishes three orders and handles them, on the broker inside
// the process; with one line changed, on RabbitMQ.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

type order struct {
	ID int `json:"orderId"`
}

func embedded() (messaging.Broker, error) { return memory.New(memory.Config{}) }

func rabbit() (messaging.Broker, error) {
	return rabbitmq.New(rabbitmq.Config{URL: "amqp://guest:guest@127.0.0.1:5672/"})
}

var open = [...]func() (messaging.Broker, error){embedded, rabbit}[0] // the line to change: [1]

func main() {
	ctx, stop := context.WithCancel(context.Background())
	broker, err := open()
	if err != nil {
		log.Fatal(err)
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{Concurrency: 1})
	if err != nil {
		log.Fatal(err)
	}
	mail := func(_ context.Context, o order, d *messaging.Delivery) error {
		fmt.Println(d.Type, o.ID, "mailed")
		if o.ID == 3 {
			stop()
		}
		return nil
	}
	c.Handle(messaging.Subscription{Topic: "parley.orders", Group: "mail"}, messaging.Typed(messaging.JSON{}, mail))
	go func() {
		<-c.Ready() // from now on the group misses nothing
		for id := range 3 {
			m, err := messaging.Encode(messaging.JSON{}, "OrderPlaced", order{ID: id + 1})
			if err = errors.Join(err, broker.Publish(ctx, "parley.orders", m)); err != nil {
				log.Fatal(err)
			}
		}
	}()
	if err := errors.Join(c.Run(ctx), broker.Close(context.Background())); err != nil {
		log.Fatal(err)
	}
}
