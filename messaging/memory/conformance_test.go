package memory_test

import (
	"context"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/messagingtest"
)

// readable shows the suite the dead letters.
type readable struct{ *memory.Broker }

func (r readable) DeadLetters(_ context.Context, topic, group string, _ int) ([]messaging.Message, error) {
	return r.Broker.DeadLetters(topic, group), nil
}

func TestBrokerKeepsItsPromises(t *testing.T) {
	messagingtest.Run(t, func(t *testing.T) messaging.Broker {
		t.Helper()
		return readable{newBroker(t, memory.Config{})}
	})
}

func TestBrokerWithLeasesKeepsItsPromises(t *testing.T) {
	messagingtest.Run(t, func(t *testing.T) messaging.Broker {
		t.Helper()
		return readable{newBroker(t, memory.Config{Lease: 3 * time.Second})}
	})
}
