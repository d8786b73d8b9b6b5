package main

import (
	"context"
	"strconv"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"
)

// key spreads the messages of every client over the partitions.
func key(p int) string { return strconv.Itoa(p % 64) }

// rawProduces is franz-go by hand: all callers share one client, and each waits for
// its own record. An event has the headers of CloudEvents' binding, as ours has them.
func (c *cluster) rawProduces(name string, event bool) loop {
	topic := c.topic(name)
	client := must(kgo.NewClient(kgo.SeedBrokers(c.addr), kgo.ProducerLinger(0)))
	c.closers = append(c.closers, client.Close)
	body := newBodies()
	return callersCall(func(p int) {
		r := &kgo.Record{Topic: topic, Key: []byte(key(p)), Value: body.one()}
		if event {
			r.Headers = []kgo.RecordHeader{
				{Key: "ce_specversion", Value: []byte("1.0")},
				{Key: "ce_id", Value: []byte(watermill.NewUUID())},
				{Key: "ce_source", Value: []byte(name)},
				{Key: "ce_type", Value: []byte("Measured")},
				{Key: "ce_time", Value: time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)},
				{Key: "ce_partitionkey", Value: r.Key},
			}
		}
		check(client.ProduceSync(c.ctx, r).FirstErr())
	})
}

// rawConsumes commits what it has polled when it polls again, and at the end.
func (c *cluster) rawConsumes(name string) timed {
	topic := c.topic(name)
	return fedTurns(func(acked func()) (stop func()) {
		client := must(kgo.NewClient(kgo.SeedBrokers(c.addr), kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())))
		ctx, cancel := context.WithCancel(c.ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				client.PollRecords(ctx, ahead).EachRecord(func(*kgo.Record) { acked() })
			}
		}()
		return func() {
			cancel()
			<-ended
			check(client.CommitUncommittedOffsets(c.ctx))
			client.Close()
		}
	}, c.feed(topic))
}

// feed publishes records as watermill-kafka does.
func (c *cluster) feed(topic string) func(n int) {
	client := must(kgo.NewClient(kgo.SeedBrokers(c.addr)))
	c.closers = append(c.closers, client.Close)
	header := []kgo.RecordHeader{{Key: watermillkafka.UUIDHeaderKey, Value: []byte(watermill.NewUUID())}}
	body := newBodies()
	return func(n int) {
		for i := range n {
			client.Produce(c.ctx, &kgo.Record{Topic: topic, Key: []byte(key(i)), Value: body.one(), Headers: header},
				func(_ *kgo.Record, err error) { check(err) })
		}
		check(client.Flush(c.ctx))
	}
}

// watermillProduces waits for all replicas, as the others do; its default is the
// leader alone.
func (c *cluster) watermillProduces(name string) loop {
	topic := c.topic(name)
	config := watermillkafka.DefaultSaramaSyncPublisherConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	pub := must(watermillkafka.NewPublisher(watermillkafka.PublisherConfig{
		Brokers: []string{c.addr}, OverwriteSaramaConfig: config,
		Marshaler: watermillkafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) { return m.Metadata.Get("key"), nil }),
	}, watermill.NopLogger{}))
	c.closers = append(c.closers, func() { check(pub.Close()) })
	body := newBodies()
	return callersCall(func(p int) {
		m := message.NewMessage(watermill.NewUUID(), body.one())
		m.Metadata.Set("key", key(p))
		check(pub.Publish(topic, m))
	})
}

func (c *cluster) watermillConsumes(name string) timed {
	topic := c.topic(name)
	return fedTurns(func(acked func()) (stop func()) {
		config := watermillkafka.DefaultSaramaSubscriberConfig()
		config.Consumer.Offsets.Initial = sarama.OffsetOldest
		sub := must(watermillkafka.NewSubscriber(watermillkafka.SubscriberConfig{
			Brokers: []string{c.addr}, ConsumerGroup: topic, OverwriteSaramaConfig: config,
		}, watermill.NopLogger{}))
		msgs := must(sub.Subscribe(c.ctx, topic))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for m := range msgs {
				m.Ack()
				acked()
			}
		}()
		return func() { check(sub.Close()); <-ended }
	}, c.feed(topic))
}
