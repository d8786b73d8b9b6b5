package rabbitmq

import (
	"context"
	"time"
)

// rebindEvery is how often a subscriber makes sure of its binding.
const rebindEvery = 5 * time.Second

// keepBound binds the group's queue again from time to time, until ctx ends or
// the intake is lost. RabbitMQ tells a consumer that its queue was deleted, but
// not that the exchange was and with it the binding: the queue would stay empty
// for ever, and publishers be told that there is no group.
func (in *intake) keepBound(ctx context.Context) {
	t := time.NewTicker(rebindEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		case <-in.gone:
			return
		}
		if err := refused(in.broker.set.rebind(in.ch.conn, in.sub.Topic, in.queues)); err != nil {
			in.fail(err) // to subscribe again tells what it means
		}
	}
}
