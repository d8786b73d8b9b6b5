package rabbitmq

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// answerTimeout is how long RabbitMQ has to answer a request. RabbitMQ 3.10 was
// seen to let a consumer wait for ever at a queue without a leader, on a
// connection whose heartbeats went on.
const answerTimeout = 30 * time.Second

// A channel is an AMQP channel whose requests end.
type channel struct {
	*amqp.Channel
	conn *connection
}

// open opens a channel.
func (c *connection) open() (ch channel, err error) {
	ch.conn = c
	err = c.ask("open a channel", func() (err error) {
		ch.Channel, err = c.amqp.Channel()
		return err
	})
	return ch, err
}

// close closes ch. What it reports is of use only to those who wait for an
// answer.
func (ch channel) close() error {
	return ch.conn.ask("close a channel", ch.Close)
}

// ask makes a request of the broker: what, for the log. amqp091 waits for the
// answer as long as the connection lives, so without an answer the connection is
// given up. A connection that the broker blocks is not read meanwhile; it has
// time until that ends.
func (c *connection) ask(what string, request func() error) error {
	answered := make(chan struct{})
	silent := false
	var watch sync.WaitGroup
	watch.Go(func() {
		t := time.NewTicker(c.answer)
		defer t.Stop()
		for {
			select {
			case <-answered:
				return
			case <-t.C:
			}
			if !c.blocked.Load() {
				silent = true
				c.log.Warn("rabbitmq: no answer from the broker: the connection is given up", slog.String("request", what), slog.Duration("waited", c.answer))
				c.shut()
				c.cut()
				return
			}
		}
	})
	err := request()
	close(answered)
	watch.Wait()
	if silent {
		return fmt.Errorf("rabbitmq: no answer within %v to the request to %s: look at the queue's state on the broker", c.answer, what)
	}
	return err
}
