package memory_test

import (
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/messagingtest"
)

func TestBrokerKeepsItsPromises(t *testing.T) {
	messagingtest.Run(t, func(t *testing.T) messaging.Broker {
		t.Helper()
		return newBroker(t, memory.Config{})
	})
}

func BenchmarkBroker(b *testing.B) {
	messagingtest.Bench(b, func(b *testing.B) messaging.Broker {
		b.Helper()
		return newBroker(b, memory.Config{})
	})
}

func TestBrokerWithLeasesKeepsItsPromises(t *testing.T) {
	messagingtest.Run(t, func(t *testing.T) messaging.Broker {
		t.Helper()
		return newBroker(t, memory.Config{Lease: 3 * time.Second})
	})
}
