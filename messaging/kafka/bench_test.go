package kafka_test

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

const crowd = 256 // publishers

// crowded runs op b.N times from 256 goroutines.
func crowded(b *testing.B, op func()) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var running sync.WaitGroup
	b.ResetTimer()
	for range crowd {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				op()
			}
		})
	}
	running.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// Both sides send the same records, with a payload of 256 bytes. What stands
// between them is what this package adds: checks, a copy, bounds, and an end of the
// wait that is the caller's.
func BenchmarkPublishFrom256Goroutines(b *testing.B) {
	for name, seeds := range map[string]func() []string{
		"fake":  func() []string { return fake(b, kfake.SeedTopics(4, "bench")).ListenAddrs() },
		"kafka": func() []string { return server(b) },
	} {
		addrs := seeds()
		topic := "bench"
		if name == "kafka" {
			topic = newTopic(b, addrs)
			if _, err := admin(b, addrs).CreateTopic(b.Context(), 4, 1, nil, topic); err != nil {
				b.Fatal(err)
			}
		}
		payload := make([]byte, 256)
		_, _ = rand.Read(payload)
		b.Run(name+" parley", func(b *testing.B) {
			broker := newBroker(b, kafka.Config{Seeds: addrs})
			crowded(b, func() {
				if err := broker.Publish(context.Background(), topic, messaging.NewMessage("Measured", payload)); err != nil {
					b.Error(err)
				}
			})
		})
		b.Run(name+" raw", func(b *testing.B) {
			cl := raw(b, addrs)
			crowded(b, func() {
				m := messaging.NewMessage("Measured", payload)
				rec := &kgo.Record{Topic: topic, Value: m.Payload, Headers: []kgo.RecordHeader{
					{Key: "ce_id", Value: []byte(m.ID)}, {Key: "ce_type", Value: []byte(m.Type)}, {Key: "ce_time", Value: m.Time.UTC().AppendFormat(nil, time.RFC3339Nano)},
				}}
				if err := cl.ProduceSync(context.Background(), rec).FirstErr(); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// Everything is there already; each message is acknowledged.
func BenchmarkConsume(b *testing.B) {
	addrs := fake(b).ListenAddrs()
	broker := newBroker(b, kafka.Config{Seeds: addrs, Partitions: 4})
	topic := unique("t")
	subscribe(b, broker, messaging.Subscription{Topic: topic, Group: "g"}, nothing).stop()
	payload := make([]byte, 256)
	for left := b.N; left > 0; {
		batch := make([]messaging.Message, min(left, 1000))
		for i := range batch {
			batch[i] = messaging.NewMessage("Measured", payload)
		}
		publish(b, broker, topic, batch...)
		left -= len(batch)
	}
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	all := make(chan struct{})
	b.ResetTimer()
	begin(b, broker, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
		err := s.Settle(lease, messaging.Verdict{})
		if left.Add(-1) == 0 {
			close(all)
		}
		return err
	})
	<-all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
