package kafka_test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
	"github.com/parley-go/parley/messaging/messagingtest"
)

func newFake(t testing.TB, opts ...kfake.Opt) []string {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

func TestBrokerKeepsItsPromises(t *testing.T) {
	t.Run("on a fake", func(t *testing.T) {
		seeds := newFake(t)
		messagingtest.Run(t, func(t *testing.T) messaging.Broker { return open(t, seeds) })
	})
	t.Run("on Kafka", func(t *testing.T) {
		seeds := []string{os.Getenv("PARLEY_KAFKA_ADDR")}
		if seeds[0] == "" {
			t.Skip("PARLEY_KAFKA_ADDR is not set")
		}
		messagingtest.Run(t, func(t *testing.T) messaging.Broker { return open(t, seeds) })
	})
}

func open(t testing.TB, seeds []string) messaging.Broker {
	b, err := kafka.New(kafka.Config{
		Seeds: seeds, Partitions: 1, Logger: testLog(),
		RetryDelays: []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testLog() *slog.Logger {
	if os.Getenv("KLOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

var _ = context.Background
