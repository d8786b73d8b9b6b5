package memory_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

// BenchmarkPublish measures one message from Publish to its acknowledgement.
func BenchmarkPublish(b *testing.B) {
	b.Run("one publisher, one key", func(b *testing.B) { benchPublish(b, 1) })
	b.Run("16 publishers", func(b *testing.B) { benchPublish(b, 16) })
}

func benchPublish(b *testing.B, publishers int) {
	broker, err := memory.New(memory.Config{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	ready := make(chan struct{})
	acked := 0
	all := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		_ = broker.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g", OnReady: func() { close(ready) }},
			func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
				err := s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
				if acked++; acked == b.N {
					close(all)
				}
				return err
			})
	})
	<-ready
	b.ReportAllocs()
	b.ResetTimer()
	publishAll(b, broker, publishers)
	<-all
	b.StopTimer()
	cancel()
	running.Wait()
}

// publishAll sends b.N messages of 256 bytes from several goroutines, each with a
// key of its own.
func publishAll(b *testing.B, broker messaging.Publisher, publishers int) {
	var running sync.WaitGroup
	for p := range publishers {
		running.Go(func() {
			m := messaging.NewMessage("Measured", make([]byte, 256))
			m.Key = strconv.Itoa(p)
			for i := p; i < b.N; i += publishers {
				if err := broker.Publish(b.Context(), "t", m); err != nil {
					b.Error(err)
				}
			}
		})
	}
	running.Wait()
}

// BenchmarkConsumer measures the same with a Consumer that handles them.
func BenchmarkConsumer(b *testing.B) {
	b.Run("one publisher, one key", func(b *testing.B) { benchConsumer(b, 1) })
	b.Run("16 publishers", func(b *testing.B) { benchConsumer(b, 16) })
}

func benchConsumer(b *testing.B, publishers int) {
	broker, err := memory.New(memory.Config{})
	if err != nil {
		b.Fatal(err)
	}
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	var handled sync.WaitGroup
	handled.Add(b.N)
	c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery) error {
		handled.Done()
		return nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	<-c.Ready()
	b.ReportAllocs()
	b.ResetTimer()
	publishAll(b, broker, publishers)
	handled.Wait()
	b.StopTimer()
	cancel()
	running.Wait()
}
