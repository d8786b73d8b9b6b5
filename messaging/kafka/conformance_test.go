package kafka_test

import (
	"testing"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
	"github.com/parley-go/parley/messaging/messagingtest"
)

// The suite expects messages without a Key in the order of publishing, which takes
// one partition. What several change has tests of its own.
func TestBrokerKeepsItsPromises(t *testing.T) {
	t.Run("on a fake", func(t *testing.T) {
		seeds := fake(t).ListenAddrs()
		messagingtest.Run(t, func(t *testing.T) messaging.Broker { return newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1}) })
	})
	t.Run("on Kafka", func(t *testing.T) {
		seeds := server(t)
		t.Cleanup(func() { forget(t, seeds, "conformance-") })
		messagingtest.Run(t, func(t *testing.T) messaging.Broker { return newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1}) })
	})
}

func BenchmarkBroker(b *testing.B) {
	seeds := server(b)
	b.Cleanup(func() { forget(b, seeds, "bench-") })
	messagingtest.Bench(b, func(b *testing.B) messaging.Broker { return newBroker(b, kafka.Config{Seeds: seeds}) })
}
