package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

const (
	// partitions is how many each topic has.
	partitions = 4
	// batch is how many messages are published in one call where that is not
	// measured.
	batch = 500
)

// kafkaRows compares clients of one Kafka. Publishers wait for all replicas that are
// in sync. Consumers process each message by itself and commit what they have
// processed; what counts is the time from the first acknowledgement of a turn to its
// last. The bars are those against franz-go by hand, which sends the same records, and
// against watermill-kafka.
func kafkaRows() ([]row, func()) {
	if !wanted("kafka/") {
		return nil, func() {}
	}
	addr := os.Getenv("PARLEY_KAFKA_ADDR")
	if addr == "" {
		fmt.Println("kafka/ skipped: PARLEY_KAFKA_ADDR is not set, and make bench could not start Kafka either")
		return nil, func() {}
	}
	client := must(kgo.NewClient(kgo.SeedBrokers(addr)))
	c := &cluster{ctx: context.Background(), addr: addr, admin: kadm.NewClient(client), suffix: "-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	if _, err := c.admin.ListBrokers(c.ctx); err != nil {
		fmt.Println("kafka/ skipped: PARLEY_KAFKA_ADDR is set, and nobody answers there:", err)
		client.Close()
		return nil, func() {}
	}
	produced, consumed := c.parleyProduces("bench-parley-out"), c.parleyConsumes("bench-parley-in")
	return []row{
		{name: "kafka/produced", ours: produced, peer: "raw_franz_go", them: c.rawProduces("bench-raw-out", true), least: .9, race: true},
		{name: "kafka/produced", ours: produced, peer: "raw_without_headers", them: c.rawProduces("bench-bare-out", false), race: true},
		{name: "kafka/produced", ours: produced, peer: "watermill_kafka", them: c.watermillProduces("bench-watermill-out"), race: true},
		{name: "kafka/consumed", oursTimed: consumed, peer: "watermill_kafka", themTimed: c.watermillConsumes("bench-watermill-in"), least: 3, race: true},
		{name: "kafka/consumed", oursTimed: consumed, peer: "raw_franz_go_group", themTimed: c.rawConsumes("bench-raw-in"), race: true},
	}, c.end
}

// A cluster is the Kafka that all clients share, and what they leave on it.
type cluster struct {
	ctx     context.Context
	addr    string
	admin   *kadm.Client
	suffix  string // makes names of this run
	closers []func()
}

// end stops the clients and deletes what they made.
func (c *cluster) end() {
	for _, f := range c.closers {
		f()
	}
	var topics []string
	for name := range must(c.admin.ListTopics(c.ctx)) {
		if strings.Contains(name, c.suffix) { // those of groups have more behind it
			topics = append(topics, name)
		}
	}
	_ = must(c.admin.DeleteTopics(c.ctx, topics...))
	c.admin.Close()
}

// topic makes a topic for a client that makes none of its own.
func (c *cluster) topic(name string) string {
	name += c.suffix
	r := must(c.admin.CreateTopic(c.ctx, partitions, 1, nil, name))
	check(r.Err)
	return name
}

// bodies are payloads that take their size on the wire, too, since clients of Kafka
// compress: no two of a batch are alike.
type bodies struct {
	noise []byte
	next  atomic.Uint32
}

func newBodies() *bodies {
	b := &bodies{noise: make([]byte, 4096*payload)}
	_, _ = rand.Read(b.noise) // which never fails
	return b
}

func (b *bodies) one() []byte {
	at := int(b.next.Add(1)) * payload % len(b.noise)
	return b.noise[at : at+payload : at+payload]
}

// published returns the message that caller p publishes.
func published(p int, body []byte) messaging.Message {
	m := messaging.NewMessage("Measured", body)
	m.Key = key(p)
	return m
}

func (c *cluster) parley(name string) *kafka.Broker {
	b := must(kafka.New(kafka.Config{Seeds: []string{c.addr}, Source: name, Partitions: partitions, ReplicationFactor: 1, Logger: slog.New(slog.DiscardHandler)}))
	c.closers = append(c.closers, func() { check(b.Close(context.Background())) })
	return b
}

func (c *cluster) parleyProduces(name string) loop {
	b, topic, body := c.parley(name), c.topic(name), newBodies()
	return callersCall(func(p int) { check(b.Publish(c.ctx, topic, published(p, body.one()))) })
}

func (c *cluster) parleyConsumes(name string) timed {
	b, topic, body := c.parley(name), name+c.suffix, newBodies()
	consume := func(acked func()) (stop func()) {
		consumer := must(messaging.NewConsumer(b, messaging.ConsumerConfig{
			Logger: slog.New(slog.DiscardHandler), OnSettle: func(messaging.Settled) { acked() },
		}))
		consumer.Handle(messaging.Subscription{Topic: topic, Group: "g", Prefetch: ahead}, func(context.Context, *messaging.Delivery) error { return nil })
		ctx, cancel := context.WithCancel(c.ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); check(consumer.Run(ctx)) }()
		<-consumer.Ready()
		return func() { cancel(); <-ended }
	}
	consume(func() {})() // makes the topic, and the group, which receives from then on
	return fedTurns(consume, func(n int) {
		for n > 0 {
			msgs := make([]messaging.Message, min(n, batch))
			for i := range msgs {
				msgs[i] = published(i, body.one())
			}
			check(b.Publish(c.ctx, topic, msgs...))
			n -= len(msgs)
		}
	})
}

// callersCall returns a loop of n calls that the callers share, each of which waits
// for one before it makes the next.
func callersCall(call func(caller int)) loop {
	t := newTally()
	return t.carry(callers, func(p int) { call(p); t.acked() })
}

// fedTurns returns a loop that has n messages fed while nobody consumes, then starts a
// consumer, and returns the time from its first acknowledgement to the last: joining
// a group takes longer than a turn, and is no part of it.
func fedTurns(consume func(acked func()) (stop func()), feed func(n int)) timed {
	return func(n int) time.Duration {
		feed(n)
		var left atomic.Int64
		left.Store(int64(n))
		var began time.Time
		all := make(chan time.Duration, 1)
		stop := consume(func() {
			switch left.Add(-1) {
			case int64(n) - 1:
				began = time.Now() // the other acknowledgements of this turn come later
			case 0:
				all <- time.Since(began)
			}
		})
		took := <-all
		stop()
		return took
	}
}
