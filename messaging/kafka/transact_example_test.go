package kafka_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// Each order becomes one invoice, whatever crashes.
func ExampleBroker_Transact() {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders", "invoices")) // a Kafka in this process
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cluster.Close()
	broker, err := kafka.New(kafka.Config{Seeds: cluster.ListenAddrs(), Partitions: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close(context.Background())

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ready := make(chan struct{})
	go func() {
		<-ready
		if err := broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", []byte("456"))); err != nil {
			fmt.Println(err)
		}
	}()
	err = broker.Transact(ctx, kafka.Transaction{
		Topic: "orders", Group: "billing",
		OnReady: sync.OnceFunc(func() { close(ready) }),
	}, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		invoice := messaging.NewMessage("InvoiceIssued", d.Payload)
		fmt.Printf("order %s, attempt %d\n", d.Payload, d.Attempt)
		if d.Attempt == 1 {
			_ = out.Publish(ctx, "invoices", invoice)
			return messaging.After(fmt.Errorf("no number for the invoice yet"), 0) // and so there is no invoice either
		}
		defer cancel()
		return out.Publish(ctx, "invoices", invoice)
	})
	fmt.Println("ended with", err)
	// Output:
	// order 456, attempt 1
	// order 456, attempt 2
	// ended with <nil>
}
