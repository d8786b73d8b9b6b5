package rabbitmq

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
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

// A target is where a message goes: an exchange, or a queue that the default
// exchange leads to. It has to exist before that.
type target struct {
	place
	args amqp.Table // of a queue
}

// A place names a target.
type place struct {
	exchange string
	// queue is the routing key for the default exchange. It is empty where
	// exchange is set: then each message has its own.
	queue string
}

func (p place) String() string {
	if p.queue != "" {
		return "queue " + p.queue
	}
	return "exchange " + p.exchange
}

// toTopic is the target of a Publish. A topic exchange lets other programs bind
// queues of their own by type of message; a group's queue takes all.
func toTopic(topic string) target { return target{place: place{exchange: topic}} }

// toWork is the queue from which a group consumes.
func (s *settings) toWork(q queues) target {
	args := s.deadLettering(q.dead)
	if !s.Classic {
		args["x-delivery-limit"] = int64(deliveryLimit)
	}
	return target{place{queue: q.work}, args}
}

// toRung is the target of a Retry: a queue without consumers whose messages all
// live equally long, so that none waits behind a longer delay, and then return
// to the work queue.
func (s *settings) toRung(q queues, delay time.Duration) target {
	if delay == 0 {
		return s.toWork(q)
	}
	args := s.deadLettering(q.work)
	args[amqp.QueueMessageTTLArg] = delay.Milliseconds()
	return target{place{queue: q.rung(delay)}, args}
}

// toDead is the target of a DeadLetter. Who reads it acknowledges what he took, as
// with any other queue, so that nothing is lost with him.
func (s *settings) toDead(q queues) target {
	args := s.queueType()
	if !s.Classic {
		args["x-delivery-limit"] = int64(noLimit)
	}
	return target{place{queue: q.dead}, args}
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

// groupOf returns all that a group needs, before its first delivery. That
// includes the rungs: RabbitMQ 3.10 was seen to forget a quorum queue, with
// 1,000 messages that it had confirmed, when it was killed in the second after
// the queue was made. A rung made for its first message would always be so young.
func (s *settings) groupOf(topic string, q queues) []target {
	group := []target{toTopic(topic), s.toDead(q), s.toWork(q)}
	for _, delay := range s.RetryDelays {
		group = append(group, s.toRung(q, delay))
	}
	return group
}

// ensureGroup makes sure that what a subscription needs exists. Dead letters are
// those of a group that has subscribed before: a name that nobody has used makes
// no queue that would lie about for ever.
func (s *settings) ensureGroup(ch channel, sub messaging.Subscription, q queues) error {
	if sub.DeadLetters {
		ok, err := s.toDead(q).exists(ch.conn)
		if err == nil && !ok {
			err = fmt.Errorf("%w: queue %s: a group exists from its first Subscribe without DeadLetters", messaging.ErrNotFound, q.dead)
		}
		return err
	}
	group := s.groupOf(sub.Topic, q)
	if s.Passive {
		err := missing(ch.conn, group)
		if errors.Is(err, messaging.ErrNotFound) {
			err = fmt.Errorf("%w; bind %s to exchange %s with the routing key \"#\"", err, q.work, sub.Topic)
		}
		return err
	}
	for _, t := range group {
		if err := t.declare(ch); err != nil {
			return err
		}
	}
	return bindGroup(ch, sub.Topic, q)
}

// bindGroup has the group's queue receive what is published to topic.
func bindGroup(ch channel, topic string, q queues) error {
	return ch.conn.ask("bind queue "+q.work, func() error { return ch.QueueBind(q.work, "#", topic, false, nil) })
}

// rebind makes sure that the group still receives what is published to topic, as
// far as it can be seen where nothing may be made.
func (s *settings) rebind(conn *connection, topic string, q queues) error {
	if s.Passive {
		return s.ensure(conn, toTopic(topic))
	}
	ch, err := conn.open()
	if err == nil {
		err = toTopic(topic).declare(ch)
	}
	if err == nil {
		err = bindGroup(ch, topic, q)
	}
	if err != nil {
		return err
	}
	return ch.close()
}

// ensure makes sure that t exists.
func (s *settings) ensure(conn *connection, t target) error {
	if s.Passive {
		return missing(conn, []target{t})
	}
	// A channel of its own keeps a refusal from the messages of others.
	ch, err := conn.open()
	if err != nil {
		return err
	}
	if err := t.declare(ch); err != nil {
		return err
	}
	return ch.close()
}

func (t target) declare(ch channel) error {
	return ch.conn.ask("declare "+t.String(), func() error {
		if t.queue == "" {
			return ch.ExchangeDeclare(t.exchange, amqp.ExchangeTopic, true, false, false, false, nil)
		}
		_, err := ch.QueueDeclare(t.queue, true, false, false, false, t.args)
		return err
	})
}

// missing returns an error that names all of targets that do not exist, and how
// each has to be made.
func missing(conn *connection, targets []target) error {
	var faults []string
	for _, t := range targets {
		ok, err := t.exists(conn)
		if err != nil {
			return err
		}
		if !ok {
			faults = append(faults, t.String()+" ("+t.recipe()+")")
		}
	}
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w, and Config.Passive leaves it to others to make it: %s", messaging.ErrNotFound, strings.Join(faults, "; "))
}

// exists asks the broker for t, for which no permission is needed. A no closes the
// channel, so each question has its own.
func (t target) exists(conn *connection) (bool, error) {
	ch, err := conn.open()
	if err != nil {
		return false, err
	}
	err = conn.ask("look for "+t.String(), func() error {
		if t.queue == "" {
			return ch.ExchangeDeclarePassive(t.exchange, amqp.ExchangeTopic, true, false, false, false, nil)
		}
		_, err := ch.QueueDeclarePassive(t.queue, true, false, false, false, nil)
		return err
	})
	if e, ok := errors.AsType[*amqp.Error](err); ok && e.Server && e.Code == amqp.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, ch.close()
}

// recipe says how to make t.
func (t target) recipe() string {
	if t.queue == "" {
		return "a durable topic exchange"
	}
	args := make([]string, 0, len(t.args))
	for _, name := range slices.Sorted(maps.Keys(t.args)) {
		args = append(args, fmt.Sprintf("%s=%v", name, t.args[name]))
	}
	return "a durable queue with " + strings.Join(args, ", ")
}
