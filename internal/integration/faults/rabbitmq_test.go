package faults

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// rabbit is the RabbitMQ of a flow.
type rabbit struct{}

func (rabbit) open(f *flow, name string) messaging.Broker {
	f.t.Helper()
	return newBroker(f.t, rabbitmq.Config{
		URL: f.cfg.via, Source: f.topic + "/" + name, Heartbeat: f.cfg.heartbeat,
		RetryDelays: []time.Duration{soon, f.cfg.late, f.cfg.later},
	})
}

func (rabbit) dead(g *group, more func(id string) bool) { g.admin().read(g.queue()+".dlq", more) }

func (rabbit) empty(g *group) {
	g.t.Helper()
	for _, queue := range []string{g.queue(), g.rung(soon), g.rung(g.cfg.late), g.rung(g.cfg.later)} {
		eventually(g.t, patience, queue+" is empty", func() bool { return g.admin().count(queue) == 0 })
	}
}

func (f *flow) admin() admin { return admin{f.t, f.cfg.url} }

func (g *group) queue() string { return g.topic + "." + g.name }

func (g *group) rung(d time.Duration) string {
	return fmt.Sprintf("%s.retry.%d", g.queue(), d.Milliseconds())
}

// newBroker returns a Broker that is closed when the test ends.
func newBroker(t testing.TB, c rabbitmq.Config) *rabbitmq.Broker {
	t.Helper()
	if c.Logger == nil {
		c.Logger = logged(t)
	}
	b, err := rabbitmq.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return closed(t, b)
}

// An admin looks at a server, and changes it, behind the Brokers' backs. It
// connects for each request, since the server comes and goes.
type admin struct {
	t   testing.TB
	url string
}

// do runs f on a channel.
func (a admin) do(f func(*amqp.Channel) error) error {
	a.t.Helper()
	c, err := amqp.Dial(a.url)
	if err != nil {
		a.t.Fatalf("connect to RabbitMQ: %v", err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err != nil {
		a.t.Fatalf("open a channel: %v", err)
	}
	return f(ch)
}

// must is do for what cannot fail.
func (a admin) must(f func(*amqp.Channel) error) {
	a.t.Helper()
	if err := a.do(f); err != nil {
		a.t.Fatal(err)
	}
}

// count returns how many messages are ready in a queue.
func (a admin) count(queue string) (n int) {
	a.t.Helper()
	a.must(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n
}

// read calls more with the message IDs of a queue, which stay there, and with ""
// from time to time, until it reports false or patience ends.
func (a admin) read(queue string, more func(id string) bool) {
	a.t.Helper()
	a.must(func(ch *amqp.Channel) error {
		deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		limit := time.After(patience)
		for more("") {
			select {
			case d, ok := <-deliveries:
				if !ok {
					a.t.Errorf("the consumer of %s was closed", queue)
					return nil
				}
				more(d.MessageId)
			case <-tick.C:
			case <-limit:
				return nil
			}
		}
		return nil
	})
}

// control administers a node.
func control(t testing.TB, n *services.Node, args ...string) string {
	t.Helper()
	out, err := n.Control(within(t, patience), args...)
	must(t, err)
	return out
}
