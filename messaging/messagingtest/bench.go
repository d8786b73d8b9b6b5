package messagingtest

import (
	"context"
	"crypto/rand"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

const (
	benchBatch      = 100
	benchPublishers = 16
	benchPayload    = 256
)

// Bench measures the brokers that open returns, with payloads of 256 bytes, and
// reports messages per second as msg/s:
//
//   - publish one by one: each Publish waits for the one before;
//   - publish in batches: the same, with 100 messages in a Publish;
//   - publish from 16 goroutines: each with a key of its own;
//   - publish to ack: as from 16 goroutines, until the last message is
//     acknowledged.
//
// A subscriber acknowledges everything meanwhile, so that no backlog grows. Each
// benchmark has a Broker of its own, which Bench closes.
func Bench(b *testing.B, open func(b *testing.B) messaging.Broker) {
	b.Helper()
	for _, c := range []struct {
		name       string
		publishers int
		batch      int
		acked      bool
	}{
		{name: "publish one by one", publishers: 1, batch: 1},
		{name: "publish in batches", publishers: 1, batch: benchBatch},
		{name: "publish from 16 goroutines", publishers: benchPublishers, batch: 1},
		{name: "publish to ack", publishers: benchPublishers, batch: 1, acked: true},
	} {
		b.Run(c.name, func(b *testing.B) { bench(b, open(b), c.publishers, c.batch, c.acked) })
	}
}

func bench(b *testing.B, broker messaging.Broker, publishers, batch int, acked bool) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	topic := "bench-" + rand.Text()
	var running sync.WaitGroup
	b.Cleanup(func() {
		cancel()
		running.Wait()
		closing, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer stop()
		if err := broker.Close(closing); err != nil {
			b.Errorf("Close() = %v, want nil", err)
		}
	})
	ready, all, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var left atomic.Int64
	left.Store(int64(b.N))
	running.Go(func() {
		ended <- broker.Subscribe(ctx, messaging.Subscription{
			Topic: topic, Group: "g", Prefetch: 256, OnReady: sync.OnceFunc(func() { close(ready) }),
		}, func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
			err := s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
			if err == nil && left.Add(-1) == 0 {
				close(all)
			}
			return err
		})
	})
	wait := func(c <-chan struct{}, what string) {
		select {
		case <-c:
		case err := <-ended:
			b.Fatalf("Subscribe() = %v before %s", err, what)
		case <-time.After(2 * patience):
			b.Fatalf("%s does not happen", what)
		}
	}
	wait(ready, "the subscription")
	b.ReportAllocs()
	b.ResetTimer()
	began := time.Now()
	publishAll(b, ctx, broker, topic, publishers, batch)
	took := time.Since(began)
	if acked {
		wait(all, "the last acknowledgement")
		took = time.Since(began)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/took.Seconds(), "msg/s")
	wait(all, "the last acknowledgement")
}

// publishAll sends b.N messages.
func publishAll(b *testing.B, ctx context.Context, broker messaging.Publisher, topic string, publishers, batch int) { //nolint:revive // a testing.TB comes first
	var running sync.WaitGroup
	for p := range publishers {
		running.Go(func() {
			share := b.N / publishers
			if p < b.N%publishers {
				share++
			}
			payload := make([]byte, benchPayload)
			msgs := make([]messaging.Message, batch)
			for share > 0 {
				n := min(batch, share)
				for i := range n {
					msgs[i] = messaging.NewMessage("Measured", payload)
					msgs[i].Key = strconv.Itoa(p)
				}
				if err := broker.Publish(ctx, topic, msgs[:n]...); err != nil {
					b.Errorf("Publish() = %v, want nil", err)
					return
				}
				share -= n
			}
		})
	}
	running.Wait()
}
