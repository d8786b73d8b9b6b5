package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
	"github.com/parley-go/parley/tracing"
)

const (
	// callers is how many goroutines publish, each waiting for its confirmation.
	callers = 256
	// ahead is how many messages a consumer may hold, for every side.
	ahead = 256
)

// rabbitmqRows compares clients of one RabbitMQ: messages confirmed and
// acknowledged, persistent, through durable quorum queues. The bars are those
// against amqp091-go itself, written by hand as its documentation has it, which
// publishes mandatory messages too but forgets what comes back.
func rabbitmqRows() ([]row, func()) {
	if !wanted("rabbitmq/") {
		return nil, func() {}
	}
	url := os.Getenv("PARLEY_RABBITMQ_URL")
	if url == "" {
		fmt.Println("rabbitmq/ skipped: PARLEY_RABBITMQ_URL is not set, and make bench could not start RabbitMQ either")
		return nil, func() {}
	}
	conn, err := amqp.Dial(url)
	if err != nil {
		fmt.Println("rabbitmq/ skipped: PARLEY_RABBITMQ_URL is set, and nobody answers there:", err)
		return nil, func() {}
	}
	s := &server{url: url, conn: conn, suffix: "-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	ours, raw := s.viaParley("bench-parley", nil), s.viaRaw("bench-raw")
	return []row{
		{name: "rabbitmq/confirmed_and_acked", ours: ours, peer: "raw_amqp091", them: raw, least: .9, race: true},
		{name: "rabbitmq/traced_and_metered", ours: s.viaParley("bench-traced", newTracer()), peer: "raw_amqp091", them: raw, least: .8, race: true},
		{name: "rabbitmq/confirmed_and_acked", ours: ours, peer: "wagslane", them: s.viaWagslane("bench-wagslane"), race: true},
		{name: "rabbitmq/confirmed_and_acked", ours: ours, peer: "watermill_amqp", them: s.viaWatermill("bench-watermill"), race: true},
		{name: "rabbitmq/confirmed_and_acked", ours: ours, peer: "gocloud_rabbitpubsub", them: s.viaGocloud("bench-gocloud"), race: true},
	}, s.end
}

// A server is the RabbitMQ that all clients share, and what they leave on it.
type server struct {
	ctx     context.Context
	cancel  context.CancelFunc
	url     string
	conn    *amqp.Connection
	suffix  string // makes names of this run
	running sync.WaitGroup
	closers []func()
	queues  []string
	topics  []string
}

// end stops the clients and deletes what they made.
func (s *server) end() {
	s.cancel()
	for _, c := range s.closers {
		c()
	}
	s.running.Wait()
	ch := must(s.conn.Channel())
	for _, q := range s.queues {
		_ = must(ch.QueueDelete(q, false, false, false))
	}
	for _, t := range s.topics {
		check(ch.ExchangeDelete(t, false, false))
	}
	_ = s.conn.Close()
}

// topology makes an exchange and a quorum queue for a client that makes none of
// its own, or another kind.
func (s *server) topology(name string) (topic, queue string) {
	topic = name + s.suffix
	queue = topic + ".g"
	ch := must(s.conn.Channel())
	defer ch.Close()
	check(ch.ExchangeDeclare(topic, "topic", true, false, false, false, nil))
	_ = must(ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}))
	check(ch.QueueBind(queue, "#", topic, false, nil))
	s.topics, s.queues = append(s.topics, topic), append(s.queues, queue)
	return topic, queue
}

// viaRaw is amqp091-go by hand: all callers share one channel, and each waits for
// its own confirmation.
func (s *server) viaRaw(name string) loop {
	topic, queue := s.topology(name)
	out, in := must(amqp.Dial(s.url)), must(amqp.Dial(s.url))
	pub, sub := must(out.Channel()), must(in.Channel())
	check(pub.Confirm(false))
	returns := pub.NotifyReturn(make(chan amqp.Return, callers))
	go func() {
		for range returns {
		}
	}()
	check(sub.Qos(ahead, 0, false))
	deliveries := must(sub.Consume(queue, "", false, false, false, false, nil))
	t := newTally()
	s.running.Go(func() {
		for d := range deliveries {
			check(d.Ack(false))
			t.acked()
		}
	})
	s.closers = append(s.closers, func() { _, _ = out.Close(), in.Close() })
	body := make([]byte, payload)
	return t.carry(callers, func(int) {
		c := must(pub.PublishWithDeferredConfirm(topic, "Measured", true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}))
		if !c.Wait() {
			check(fmt.Errorf("%s: refused", name))
		}
	})
}

// viaParley is the Consumer over the Broker, as most programs use them. With a
// tracer, both sides make spans and settled messages are counted.
func (s *server) viaParley(name string, tracer *tracing.Tracer) loop {
	topic := name + s.suffix
	b := must(rabbitmq.New(rabbitmq.Config{URL: s.url, Logger: slog.New(slog.DiscardHandler)}))
	t := newTally()
	config := messaging.ConsumerConfig{Logger: slog.New(slog.DiscardHandler)}
	var publisher messaging.Publisher = b
	handler := func(context.Context, *messaging.Delivery) error { t.acked(); return nil }
	if tracer != nil {
		counts := make([]atomic.Int64, 4)
		config.OnSettle = func(e messaging.Settled) { counts[e.Verdict.Kind].Add(1) }
		publisher, handler = tracer.Publisher(b), tracer.Handler(handler)
	}
	c := must(messaging.NewConsumer(b, config))
	c.Handle(messaging.Subscription{Topic: topic, Group: "g", Prefetch: ahead}, handler)
	ended := make(chan struct{})
	go func() { defer close(ended); check(c.Run(s.ctx)) }()
	<-c.Ready()
	q := topic + ".g"
	s.topics = append(s.topics, topic)
	s.queues = append(s.queues, q, q+".dlq", q+".retry.1000", q+".retry.5000", q+".retry.30000", q+".retry.120000", q+".retry.600000")
	s.closers = append(s.closers, func() { <-ended; check(b.Close(context.Background())) })
	body := make([]byte, payload)
	return t.carry(callers, func(int) { check(publisher.Publish(s.ctx, topic, messaging.NewMessage("Measured", body))) })
}

// newTracer returns a Tracer whose spans are all sampled, and dropped when they
// would be sent.
func newTracer() *tracing.Tracer {
	provider := sdk.NewTracerProvider(sdk.WithSampler(sdk.AlwaysSample()), sdk.WithBatcher(discard{}))
	return must(tracing.New(tracing.Config{Provider: provider}))
}

type discard struct{}

func (discard) ExportSpans(context.Context, []sdk.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                        { return nil }
