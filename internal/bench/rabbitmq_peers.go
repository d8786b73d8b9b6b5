package main

import (
	"errors"

	"github.com/ThreeDotsLabs/watermill"
	watermillamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	wagslane "github.com/wagslane/go-rabbitmq"
	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/rabbitpubsub"
)

// The peers below are set up as well as their options allow: confirmations,
// persistent messages, a quorum queue, as much in flight as the others.

func (s *server) viaWagslane(name string) loop {
	topic, queue := s.topology(name)
	conn := must(wagslane.NewConn(s.url, wagslane.WithConnectionOptionsLogger(silent{})))
	pub := must(wagslane.NewPublisher(conn, wagslane.WithPublisherOptionsConfirm, wagslane.WithPublisherOptionsLogger(silent{})))
	pub.NotifyReturn(func(wagslane.Return) {})
	consumer := must(wagslane.NewConsumer(conn, queue, wagslane.WithConsumerOptionsQueueNoDeclare,
		wagslane.WithConsumerOptionsQOSPrefetch(ahead), wagslane.WithConsumerOptionsLogger(silent{})))
	t := newTally()
	s.running.Go(func() {
		check(consumer.Run(func(wagslane.Delivery) wagslane.Action { t.acked(); return wagslane.Ack }))
	})
	s.closers = append(s.closers, func() { consumer.Close(); pub.Close(); _ = conn.Close() })
	body := make([]byte, payload)
	return t.carry(callers, func(int) {
		confirms := must(pub.PublishWithDeferredConfirmWithContext(s.ctx, body, []string{"Measured"}, wagslane.WithPublishOptionsExchange(topic),
			wagslane.WithPublishOptionsMandatory, wagslane.WithPublishOptionsPersistentDelivery))
		if !confirms[0].Wait() {
			check(errors.New("wagslane: refused"))
		}
	})
}

// silent drops what wagslane/go-rabbitmq logs.
type silent struct{}

func (silent) Fatalf(string, ...any) {}
func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Infof(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

func (s *server) viaWatermill(name string) loop {
	topic := name + s.suffix
	config := watermillamqp.NewDurablePubSubConfig(s.url, watermillamqp.GenerateQueueNameTopicNameWithSuffix("g"))
	config.Publish.ConfirmDelivery, config.Publish.Mandatory, config.Publish.ChannelPoolSize = true, true, callers
	config.Consume.Qos.PrefetchCount = ahead
	config.Queue.Arguments = amqp.Table{"x-queue-type": "quorum"}
	sub := must(watermillamqp.NewSubscriber(config, watermill.NopLogger{}))
	pub := must(watermillamqp.NewPublisher(config, watermill.NopLogger{}))
	msgs := must(sub.Subscribe(s.ctx, topic))
	t := newTally()
	s.running.Go(func() {
		for m := range msgs {
			m.Ack()
			t.acked()
		}
	})
	s.topics, s.queues = append(s.topics, topic), append(s.queues, topic+"_g")
	s.closers = append(s.closers, func() { _, _ = sub.Close(), pub.Close() })
	body := make([]byte, payload)
	return t.carry(callers, func(int) { check(pub.Publish(topic, message.NewMessage(watermill.NewUUID(), body))) })
}

func (s *server) viaGocloud(name string) loop {
	topic, queue := s.topology(name)
	out, in := must(amqp.Dial(s.url)), must(amqp.Dial(s.url))
	pub := rabbitpubsub.OpenTopic(out, topic, nil)
	prefetch := ahead
	sub := rabbitpubsub.OpenSubscription(in, queue, &rabbitpubsub.SubscriptionOptions{PrefetchCount: &prefetch})
	t := newTally()
	s.running.Go(func() {
		for {
			m, err := sub.Receive(s.ctx)
			if err != nil {
				return
			}
			m.Ack()
			t.acked()
		}
	})
	s.closers = append(s.closers, func() { _, _ = out.Close(), in.Close() })
	body := make([]byte, payload)
	return t.carry(callers, func(int) { check(pub.Send(s.ctx, &pubsub.Message{Body: body})) })
}
