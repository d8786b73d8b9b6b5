package faults

import (
	"sync"
	"testing"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// All these faults share one node. What disturbs only its own flow runs at once;
// what concerns the whole node runs alone, after that.
func TestNothingIsLostThoughTheBrokerIsInTrouble(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.RabbitMQ())
	type fault struct {
		name string
		run  func(*testing.T, *services.Node)
	}
	t.Run("at once", func(t *testing.T) {
		// Not by t.Parallel, which allows as many as there are cores: these faults
		// mostly wait.
		room := make(chan struct{}, 6)
		var running sync.WaitGroup
		defer running.Wait()
		for _, f := range []fault{
			{"while the network is cut every 2s", network(cuts)},
			{"while the network is a black hole", network(holds(both))},
			{"while nothing gets to the broker", network(holds(up))},
			{"while nothing comes from the broker", network(holds(down))},
			{"when the queue of another group is deleted", deletedQueue},
			{"when the only queue is deleted", deletedEmptyQueue},
			{"when the exchange is deleted", deletedExchange},
			{"when arguments conflict, which is told at once", conflicts},
			{"when the password is wrong, which is told at once", wrongPassword},
			{"when permissions are revoked and granted again", permissions},
			{"when a consumer with 50 running handlers stops", on(shutdown)},
			{"when handlers outlast the drain timeout", on(drainTimeout)},
			{"and no goroutine or connection is left over 100 cycles", cycles},
		} {
			room <- struct{}{}
			running.Go(func() {
				defer func() { <-room }()
				t.Run(f.name, func(t *testing.T) { f.run(t, node) })
			})
		}
	})
	for _, f := range []fault{
		{"while memory runs short", memoryAlarm},
		{"when a handler outlasts consumer_timeout", consumerTimeout},
	} {
		t.Run(f.name, func(t *testing.T) { f.run(t, node) })
	}
}

// on runs a test of any server on a RabbitMQ.
func on(test func(*testing.T, flowConfig)) func(*testing.T, *services.Node) {
	return func(t *testing.T, node *services.Node) { test(t, flowConfig{url: node.URL()}) }
}
