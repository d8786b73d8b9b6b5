package rabbitmq_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

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
				return observe(t, rabbitmq.Config{Classic: classic, RetryDelays: rungs[:4]})
			})
		})
	}
}

func BenchmarkBroker(b *testing.B) {
	messagingtest.Bench(b, func(b *testing.B) messaging.Broker { return observe(b, rabbitmq.Config{RetryDelays: rungs[:1]}) })
}

// observe returns a Broker whose queues and exchanges are deleted at the end.
func observe(tb testing.TB, cfg rabbitmq.Config) messaging.Broker {
	tb.Helper()
	o := &observed{admin: newAdmin(tb), groups: map[[2]string]bool{}}
	tb.Cleanup(o.forget)
	cfg.URL, cfg.Logger = serverURL(tb), slog.New(slog.DiscardHandler)
	b, err := rabbitmq.New(cfg)
	if err != nil {
		tb.Fatalf("New() = %v, want nil", err)
	}
	o.Broker = b
	return o
}

// observed is a Broker that knows what it has declared.
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
