// Command messaging publishes and handles three orders, on any broker.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/rabbitmq"
	"github.com/parley-go/parley/messaging/sqs"
)

// The line to change: "amqp://guest:guest@127.0.0.1:5672/", "kafka://127.0.0.1:9092",
// or "sqs://127.0.0.1:9324" of an ElasticMQ.
const server = "memory"

type order struct{ ID int }

func open() (messaging.Broker, error) {
	switch scheme, at, _ := strings.Cut(server, "://"); scheme {
	case "amqp":
		return rabbitmq.New(rabbitmq.Config{URL: server})
	case "kafka":
		return kafka.New(kafka.Config{Seeds: []string{at}})
	case "sqs":
		return sqs.New(sqs.Config{FIFO: true, Client: awssqs.New(awssqs.Options{
			BaseEndpoint: aws.String("http://" + at), Region: "us-east-1", Credentials: aws.AnonymousCredentials{},
		})})
	}
	return memory.New(memory.Config{})
}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	broker, err := open()
	exit(err)
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{})
	exit(err)
	c.Handle(messaging.Subscription{Topic: "parley.orders", Group: "mail"}, messaging.Typed(messaging.JSON{}, func(_ context.Context, o order, d *messaging.Delivery) error {
		fmt.Println(d.Type, o.ID, "mailed")
		if o.ID == 3 { // the last, for those of one Key come in their order
			stop()
		}
		return nil
	}))
	var publishing sync.WaitGroup
	publishing.Go(func() {
		<-c.Ready() // from now on the group misses nothing
		for id := range 3 {
			m, err := messaging.Encode(messaging.JSON{}, "OrderPlaced", order{ID: id + 1})
			exit(err)
			m.Key = "customer 7"
			exit(broker.Publish(context.Background(), "parley.orders", m))
		}
	})
	exit(c.Run(ctx))
	publishing.Wait()
	exit(broker.Close(context.Background()))
}

func exit(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
