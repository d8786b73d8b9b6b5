package main

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/mempubsub"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

// payload is the body of every message in these rows.
const payload = 256

// messagingRows compares brokers inside the process: messages published to
// messages acknowledged, in order. The bars are those against watermill in the mode
// that keeps order; its default mode does not, and is only shown. The floor is what
// no broker can do without that tells the publisher: a channel, and an answer.
func messagingRows() ([]row, func()) {
	if !wanted("messaging/") {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var rows []row
	for _, c := range []struct {
		name       string
		publishers int
		least      float64
	}{{"messaging/memory_one_key", 1, 4}, {"messaging/memory_16_publishers", 16, 5}} {
		ours := viaMemory(ctx, &running, c.publishers)
		rows = append(rows,
			row{name: c.name, ours: ours, peer: "watermill_gochannel_in_order", them: viaGoChannel(ctx, true, c.publishers), least: c.least, race: true},
			row{name: c.name, ours: ours, peer: "watermill_gochannel", them: viaGoChannel(ctx, false, c.publishers), race: true},
			row{name: c.name, ours: ours, peer: "gocloud_mempubsub", them: viaMempubsub(ctx, c.publishers), race: true},
			row{name: c.name, ours: ours, peer: "floor_channel_and_ack", them: viaChannel(ctx, c.publishers), race: true},
			row{name: c.name + "_consumer", ours: viaMemoryConsumer(ctx, &running, c.publishers), peer: "watermill_gochannel_in_order", them: viaGoChannel(ctx, true, c.publishers), race: true},
		)
	}
	return rows, func() { cancel(); running.Wait() }
}

// keyed returns a message for each publisher.
func keyed(publishers int) []messaging.Message {
	msgs := make([]messaging.Message, publishers)
	for p := range msgs {
		msgs[p] = messaging.NewMessage("Measured", make([]byte, payload))
		msgs[p].Key = strconv.Itoa(p)
	}
	return msgs
}

func viaMemory(ctx context.Context, running *sync.WaitGroup, publishers int) loop {
	b := must(memory.New(memory.Config{}))
	t, ready := newTally(), make(chan struct{})
	running.Go(func() {
		_ = b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g", OnReady: func() { close(ready) }},
			func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
				defer t.acked()
				return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
			})
	})
	<-ready
	msgs := keyed(publishers)
	return t.carry(publishers, func(p int) { check(b.Publish(ctx, "t", msgs[p])) })
}

// viaMemoryConsumer adds the Consumer, which most programs use.
func viaMemoryConsumer(ctx context.Context, running *sync.WaitGroup, publishers int) loop {
	b := must(memory.New(memory.Config{}))
	t := newTally()
	c := must(messaging.NewConsumer(b, messaging.ConsumerConfig{
		Logger: slog.New(slog.DiscardHandler), OnSettle: func(messaging.Settled) { t.acked() },
	}))
	c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, func(context.Context, *messaging.Delivery) error { return nil })
	running.Go(func() { _ = c.Run(ctx) })
	<-c.Ready()
	msgs := keyed(publishers)
	return t.carry(publishers, func(p int) { check(b.Publish(ctx, "t", msgs[p])) })
}

// viaGoChannel gives watermill's broker a buffer as large as parley's backlog where
// it uses one.
func viaGoChannel(ctx context.Context, inOrder bool, publishers int) loop {
	b := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: inOrder, OutputChannelBuffer: 10_000}, watermill.NopLogger{})
	t, msgs := newTally(), must(b.Subscribe(ctx, "t"))
	go func() {
		for m := range msgs {
			m.Ack()
			t.acked()
		}
	}()
	body := make([]byte, payload)
	return t.carry(publishers, func(int) { check(b.Publish("t", message.NewMessage("1", body))) })
}

func viaMempubsub(ctx context.Context, publishers int) loop {
	topic := mempubsub.NewTopic()
	s := mempubsub.NewSubscription(topic, time.Minute)
	t := newTally()
	go func() {
		for {
			m, err := s.Receive(ctx)
			if err != nil {
				return
			}
			m.Ack()
			t.acked()
		}
	}()
	body := make([]byte, payload)
	return t.carry(publishers, func(int) { check(topic.Send(ctx, &pubsub.Message{Body: body})) })
}

// viaChannel is a bare channel whose receiver answers each message.
func viaChannel(ctx context.Context, publishers int) loop {
	type carried struct {
		body []byte
		ack  chan struct{}
	}
	c, t := make(chan carried, 1024), newTally()
	go func() {
		for {
			select {
			case m := <-c:
				m.ack <- struct{}{}
				t.acked()
			case <-ctx.Done():
				return
			}
		}
	}()
	body := make([]byte, payload)
	return t.carry(publishers, func(int) {
		m := carried{append([]byte(nil), body...), make(chan struct{}, 1)}
		c <- m
		<-m.ack
	})
}
