package rabbitmq_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/messagingtest"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestBrokerKeepsItsPromises(t *testing.T) {
	for name, classic := range map[string]bool{"with quorum queues": false, "with classic queues": true} {
		t.Run(name, func(t *testing.T) {
			serverURL(t)
			messagingtest.Run(t, func(t *testing.T) messaging.Broker {
				o := &observed{admin: newAdmin(t), groups: map[[2]string]bool{}}
				t.Cleanup(o.forget)
				b, err := rabbitmq.New(rabbitmq.Config{
					URL: serverURL(t), Classic: classic, RetryDelays: rungs[:4], Logger: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatalf("New() = %v, want nil", err)
				}
				o.Broker = b
				return o
			})
		})
	}
}

// observed is a Broker that can show its dead letters, and knows what it has
// declared.
type observed struct {
	*rabbitmq.Broker
	admin *admin

	mu     sync.Mutex
	groups map[[2]string]bool
}

func (o *observed) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	o.note(topic, "")
	return o.Broker.Publish(ctx, topic, msgs...)
}

func (o *observed) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	o.note(s.Topic, s.Group)
	return o.Broker.Subscribe(ctx, s, deliver)
}

func (o *observed) note(topic, group string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.groups[[2]string{topic, group}] = true
}

// forget deletes what was declared.
func (o *observed) forget() {
	for g := range o.groups {
		if g[1] != "" {
			o.admin.deleteGroup(g[0], g[1])
		}
		_ = o.admin.do(func(ch *amqp.Channel) error { return ch.ExchangeDelete(g[0], false, false) })
	}
}

// DeadLetters implements messagingtest.DeadLetterReader: it consumes the dead
// letters as another group would, and gives them back.
func (o *observed) DeadLetters(ctx context.Context, topic, group string, n int) ([]messaging.Message, error) {
	var msgs []messaging.Message
	err := o.admin.do(func(ch *amqp.Channel) error {
		deliveries, err := ch.ConsumeWithContext(ctx, topic+"."+group+".dlq", "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		for len(msgs) < n {
			select {
			case d := <-deliveries:
				msgs = append(msgs, rabbitmq.Decode(&d))
			case <-ctx.Done():
				return nil
			}
		}
		select { // a moment for more than there should be
		case d := <-deliveries:
			msgs = append(msgs, rabbitmq.Decode(&d))
		case <-time.After(moment):
		}
		return nil
	})
	return msgs, err
}
