package rabbitmq

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// deliveryLimit is how often a quorum queue returns a message before it puts
	// it among the dead letters by itself. It is a net under the Consumer, which
	// counts attempts itself, for messages that kill the process before anyone
	// can count; it stands far above what restarts and lost connections cause.
	deliveryLimit = 1000
	// noLimit is for dead letters: RabbitMQ 4 would drop them after 20 returns to
	// the queue, by someone who looks at them for one.
	noLimit = 1 << 30
)

// A target is where a message goes, and what must exist for it to get there.
type target struct {
	exchange string
	// queue is the routing key for the default exchange. It is empty where
	// exchange is set: then each message has its own.
	queue   string
	declare func(channel) error
}

func (t target) name() string { return t.exchange + "\x00" + t.queue }

// toTopic is the target of a Publish. A topic exchange lets other programs bind
// queues of their own by type of message; a group's queue takes all.
func (s *settings) toTopic(topic string) target {
	return target{exchange: topic, declare: func(ch channel) error { return declareTopic(ch, topic) }}
}

// toRung is the target of a Retry: a queue without consumers whose messages all
// live equally long, so that none waits behind a longer delay, and then return
// to the work queue.
func (s *settings) toRung(q queues, delay time.Duration) target {
	if delay == 0 {
		return target{queue: q.work, declare: func(ch channel) error { return s.declareWork(ch, q) }}
	}
	return target{queue: q.rung(delay), declare: func(ch channel) error { return s.declareRung(ch, q, delay) }}
}

// toDead is the target of a DeadLetter.
func (s *settings) toDead(q queues) target {
	return target{queue: q.dead, declare: func(ch channel) error { return s.declareDead(ch, q) }}
}

// declareGroup declares all that a group needs, before its first delivery. That
// includes the rungs: RabbitMQ 3.10 was seen to forget a quorum queue, with
// 1,000 messages that it had confirmed, when it was killed in the second after
// the queue was made. A rung made for its first message would always be so young.
func (s *settings) declareGroup(ch channel, topic string, q queues) error {
	if err := declareTopic(ch, topic); err != nil {
		return err
	}
	if err := s.declareDead(ch, q); err != nil {
		return err
	}
	if err := s.declareWork(ch, q); err != nil {
		return err
	}
	for _, delay := range s.RetryDelays {
		if err := s.declareRung(ch, q, delay); err != nil {
			return err
		}
	}
	return bindGroup(ch, topic, q)
}

// bindGroup has the group's queue receive what is published to topic.
func bindGroup(ch channel, topic string, q queues) error {
	return ch.conn.ask("bind queue "+q.work, func() error { return ch.QueueBind(q.work, "#", topic, false, nil) })
}

func declareTopic(ch channel, topic string) error {
	return ch.conn.ask("declare exchange "+topic, func() error {
		return ch.ExchangeDeclare(topic, amqp.ExchangeTopic, true, false, false, false, nil)
	})
}

func (s *settings) declareWork(ch channel, q queues) error {
	args := s.deadLettering(q.dead)
	if !s.Classic {
		args["x-delivery-limit"] = int64(deliveryLimit)
	}
	return declareQueue(ch, q.work, args)
}

func (s *settings) declareRung(ch channel, q queues, delay time.Duration) error {
	args := s.deadLettering(q.work)
	args[amqp.QueueMessageTTLArg] = delay.Milliseconds()
	return declareQueue(ch, q.rung(delay), args)
}

func (s *settings) declareDead(ch channel, q queues) error {
	args := s.queueType()
	if !s.Classic {
		args["x-delivery-limit"] = int64(noLimit)
	}
	return declareQueue(ch, q.dead, args)
}

// deadLettering returns the arguments of a queue that hands its messages on to
// next. Between quorum queues RabbitMQ keeps the message until next has it,
// provided that the queue refuses publishes rather than drop old messages when
// it is full.
func (s *settings) deadLettering(next string) amqp.Table {
	args := s.queueType()
	args["x-dead-letter-exchange"] = ""
	args["x-dead-letter-routing-key"] = next
	if !s.Classic {
		args["x-dead-letter-strategy"] = "at-least-once"
		args[amqp.QueueOverflowArg] = amqp.QueueOverflowRejectPublish
	}
	return args
}

func (s *settings) queueType() amqp.Table {
	if s.Classic {
		return amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeClassic}
	}
	return amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
}

func declareQueue(ch channel, name string, args amqp.Table) error {
	return ch.conn.ask("declare queue "+name, func() error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		return err
	})
}
