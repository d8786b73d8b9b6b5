package kafka_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/parley-go/parley/messaging"
)

// BenchmarkTransact consumes messages of 256 bytes and publishes one of 256 bytes
// for each, in transactions of so many: what exactly once costs beside it is
// BenchmarkSubscribeAndPublish.
func BenchmarkTransact(b *testing.B) {
	for _, size := range []int{1, 100, 500, 5000} {
		b.Run("batches of "+strconv.Itoa(size), func(b *testing.B) {
			m := newMill(b, server(b), 4)
			m.tx.BatchSize = size
			var handled atomic.Int64
			done := make(chan struct{})
			m.start(m.b, m.tx, handleNothing)() // makes the group its place
			m.load(b.N)
			b.ReportAllocs()
			b.ResetTimer()
			stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
				if handled.Add(1) == int64(b.N) {
					close(done)
				}
				return m.copyOut(ctx, out, d)
			})
			<-done
			if err := stop(); err != nil { // and so it is committed
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkSubscribeAndPublish does the same at least once.
func BenchmarkSubscribeAndPublish(b *testing.B) {
	m := newMill(b, server(b), 4)
	m.start(m.b, m.tx, handleNothing)()
	m.load(b.N)
	c, err := messaging.NewConsumer(m.b, messaging.ConsumerConfig{Logger: testLog(), Concurrency: 64})
	if err != nil {
		b.Fatal(err)
	}
	var handled atomic.Int64
	done := make(chan struct{})
	c.Handle(messaging.Subscription{Topic: m.in, Group: "mill", Prefetch: 1000}, func(ctx context.Context, d *messaging.Delivery) error {
		err := m.copyOut(ctx, m.b, d)
		if handled.Add(1) == int64(b.N) {
			close(done)
		}
		return err
	})
	b.ReportAllocs()
	b.ResetTimer()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-done
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// load publishes n messages of 256 bytes.
func (m *mill) load(n int) {
	m.t.Helper()
	msgs := make([]messaging.Message, 0, 1000)
	for i := range n {
		msg := messaging.NewMessage("number", make([]byte, 256))
		msg.Key = strconv.Itoa(i % 64)
		if msgs = append(msgs, msg); len(msgs) == cap(msgs) || i == n-1 {
			if err := m.b.Publish(m.t.Context(), m.in, msgs...); err != nil {
				m.t.Fatal(err)
			}
			msgs = msgs[:0]
		}
	}
}
