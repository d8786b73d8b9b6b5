package smoke_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/examples/orderflow/smoke"
	"github.com/parley-go/parley/examples/orderflow/system"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// check runs the script; its error says which invariant does not hold.
func check(t *testing.T, cfg system.Config) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	totals, err := smoke.Run(t.Context(), cfg)
	t.Logf("%+v", totals)
	if err != nil {
		t.Error(err)
	}
	if err == nil != totals.OK || totals.Lost != 0 {
		t.Errorf("totals = %+v with error %v, want them to agree and nothing lost", totals, err)
	}
}

func TestInvariantsHoldThroughAnOutageOfInventory(t *testing.T) {
	check(t, system.Config{})
}

// Not the topic of a flow that may be running beside the tests.
const topic = "orders-smoke"

func TestInvariantsHoldOverRabbitMQ(t *testing.T) {
	check(t, system.Config{Broker: need.Address(t, services.RabbitMQ()), Topic: topic})
}

func TestInvariantsHoldOverKafka(t *testing.T) {
	check(t, system.Config{Broker: "kafka://" + need.Address(t, services.Kafka()), Topic: topic})
}

func TestInvariantsHoldOverSQS(t *testing.T) {
	check(t, system.Config{Broker: "sqs" + strings.TrimPrefix(need.Address(t, services.SQS()), "http"), Topic: topic})
}

// SQS has no such test: ElasticMQ keeps nothing over a restart.
func TestInvariantsHoldWhenTheBrokerGoesAndComesBack(t *testing.T) {
	t.Run("RabbitMQ", func(t *testing.T) { restarts(t, need.Node(t, services.RabbitMQ()), "") })
	t.Run("Kafka", func(t *testing.T) { restarts(t, need.Node(t, services.Kafka()), "kafka://") })
}

func restarts(t *testing.T, node *services.Node, scheme string) {
	ctx := context.WithoutCancel(t.Context())
	broker := scheme + node.URL()
	// The first run declares the queues. RabbitMQ 3.10 does not yet have a quorum
	// queue safe on disk in its first moments: killed then, it comes back with a
	// queue that has no leader and never answers.
	check(t, system.Config{Broker: broker})

	for name, end := range map[string]func() error{
		"stopped": func() error { return node.Stop(ctx) },
		"killed":  node.Kill,
	} {
		t.Run(name, func(t *testing.T) {
			var once sync.Once
			restarted := make(chan error, 1)
			restart := func() {
				if err := end(); err != nil {
					restarted <- err
					return
				}
				restarted <- node.Start(ctx)
			}
			// The broker goes when the breaker opens, which is in the middle of
			// the script.
			check(t, system.Config{Broker: broker, OnBreaker: func(breaker.Change) { once.Do(func() { go restart() }) }})
			if err := <-restarted; err != nil {
				t.Error(err)
			}
		})
	}
}
