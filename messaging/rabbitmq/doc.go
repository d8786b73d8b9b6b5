// Package rabbitmq is a [messaging.Broker] on RabbitMQ. It prevents the ways in
// which messages get lost, or a service gets stuck, between a program and a
// broker that are both correct: messages published into a dead connection or to
// nobody, acknowledged before their retry is safe, waiting for ever behind a
// poisonous one, and subscriptions that end in silence.
//
//	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://user:password@host:5672/"})
//	if err != nil {
//		return err
//	}
//	defer b.Close(ctx)
//	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{})
//	if err != nil {
//		return err
//	}
//	c.Handle(messaging.Subscription{Topic: "orders", Group: "billing"}, charge)
//	err = c.Run(ctx)
//
// # How it works
//
// A [Broker] keeps two connections, made when first needed and made again when
// lost: one to publish on and one to consume from, because RabbitMQ holds up the
// whole connection of a publisher when it runs short of memory or disk.
//
// All publishing goes through one channel in confirm mode. Each message is
// persistent and mandatory: RabbitMQ returns what no queue would receive, and
// confirms the rest when it is stored. Whatever is not confirmed when the
// connection goes is sent again on the next.
//
// What it declares for topic T and group G, with names of which no two groups
// share one:
//
//	T                  durable topic exchange; the routing key is the message's Type
//	T.G                the group's queue, bound with "#"
//	T.G.dlq            its dead letters
//	T.G.retry.<ms>     one queue for each retry delay
//
// A '.' in G is written '~'. A message to be retried is published to the queue
// of its delay, which has no consumers and one time to live for all its
// messages, after which RabbitMQ moves them back to T.G; so no message waits
// behind one with a longer delay. Only when this copy is confirmed, the original
// is acknowledged. Dead letters are moved likewise. All queues are quorum queues
// unless [Config].Classic says otherwise, and between quorum queues RabbitMQ moves
// messages at least once. With [Config].Passive it declares nothing, and says what is
// missing and how to make it.
//
// Acknowledgements that wait to be sent go out as one where no delivery below them is
// unsettled; a slow handler holds up no acknowledgement but its own.
//
// A subscription with DeadLetters consumes from T.G.dlq like from any other queue:
// what is read and not settled when the reader dies is there again, in its place.
// What RabbitMQ has set aside by itself gets the headers of other dead letters, with
// RabbitMQ's reason (delivery_limit, rejected) as msg-dlq-reason.
//
// ID, Type, ContentType and Time of a message are the AMQP properties
// message-id, type, content-type and timestamp. Source, Subject, Key and the
// exact Time are headers with the names of the CloudEvents AMQP binding
// (cloudEvents_source, cloudEvents_subject, cloudEvents_partitionkey and
// cloudEvents_time), and so is what exceeds the 255 bytes of a property. A message
// with ID, Type and Source is a CloudEvent 1.0 in binary mode: it also has the
// headers cloudEvents_specversion, cloudEvents_id and cloudEvents_type. The
// prefix "cloudEvents:", which that binding allows too, is read alike; extensions
// of CloudEvents become Headers of their names. The attempt travels in the header
// msg-attempt, and what is left of a long delay in msg-wait. They count only in
// messages that come over the default exchange, as retries do; whoever publishes to
// the topic cannot set them.
//
// Messages of other programs are read with what they have: headers of other types
// become text, those that no [messaging.Message] can have are left out, and a
// message without an ID gets one that is computed from its properties, headers
// and body. Two anonymous messages that are alike in all of these, and carry no
// timestamp that tells them apart, are therefore one message to an inbox: let
// such programs set message-id.
//
// # Guarantees
//
//   - Publish returns nil only for what RabbitMQ has confirmed: what is confirmed
//     is received, though connections are cut in between.
//   - Publish tells each unroutable message from its neighbours, under any number
//     of concurrent callers.
//   - A lost connection, a deleted exchange or a deleted queue is no error while
//     the context lasts; wrong credentials and conflicting settings are, at once.
//     A subscriber looks every 5s whether its exchange is still there, and makes
//     its queue again at once; until then Publish tries again, for up to 30s.
//   - Every call ends with its context, also while the broker is silent or blocks
//     publishers. An alarm costs no connection, however long it lasts.
//   - A delivery is acknowledged only after its retry or its dead letter is
//     stored. If that is refused, it is delivered again.
//   - Acknowledgements reach the broker before Subscribe returns.
//   - A retry comes back no earlier than asked, for up to a year, and is not held
//     up by others.
//   - A dead letter has the payload byte for byte, the headers of the original,
//     and headers that say why it is there. Moved back to its queue, it has all
//     its attempts again.
//   - A reader of dead letters that dies loses nothing. A dead letter is moved back
//     only once its copy is stored, as a message that was never tried.
//   - OnLost is called each time a subscription is interrupted, before it is made
//     again, and not before it has stood once.
//   - With Config.Passive nothing is made, all that is missing is named in one error,
//     and no permission to configure is needed.
//   - One bad message fails alone, though RabbitMQ closes the channel over it. A
//     target that refuses all is told at once, however many messages go there.
//   - No request waits for ever for an answer that does not come.
//   - Passwords appear in no error and no log.
//
// Not guaranteed:
//
//   - That a message arrives once. After a lost connection, or a crash between
//     the two steps of a retry, it may arrive twice with the same ID; an inbox
//     such as idempotency.Inbox makes that one effect.
//   - Order by Key between the subscribers of a group, or for messages that are
//     retried, released or redelivered.
//   - That a queue survives its first second. RabbitMQ 3.10 was seen to forget a
//     quorum queue, with what it had confirmed, when it was killed that soon
//     after the queue was made. Subscribe therefore makes all queues at once.
//   - That a message of another program whose headers all but fill a frame, of
//     128 KiB by default, can be delivered twice. RabbitMQ adds headers of its own,
//     and a frame larger than agreed ends the connection, each time, until the
//     queue sets the message aside. Only permissions keep such messages out.
//   - That classic queues keep what waits in a retry delay when the broker
//     crashes.
//
// # Defaults
//
// Delays of 1s, 5s, 30s, 2m and 10m span a restart of what a handler depends on
// in few queues. A heartbeat of 10s finds a dead connection within 15s.
// Reconnecting waits up to 200ms, doubled for each failure up to 5s, a random
// part of it each time. A request that the broker does not answer within 30s, such
// as one to a queue that has lost its leader, costs the connection, which is made
// again; the log names the request. So does a message that stays unconfirmed for
// up to 45s while the broker reads: it goes out again. Payloads are limited to
// 16 MiB, which is RabbitMQ 4's own limit. A quorum queue sets a message aside by
// itself after 1,000 returns, far more than restarts cause: it ends the round of a
// message that kills every process that receives it.
//
// # Composition
//
// [messaging.Consumer] decides on attempts, backoff and dead letters; this
// package carries that out. Wrap Publish in a breaker or a retry policy only
// with care: it already waits for the broker within its context.
//
// # Errors
//
// All are of package messaging: see [Broker.Publish] and [Broker.Subscribe].
// The text names RabbitMQ's own reason. Headers whose names belong to RabbitMQ
// (CC, BCC, x-death and its like) or to a field of the Message (cloudEvents_id and
// the other attributes) are [messaging.ErrInvalid]. Settle returns
// [messaging.ErrLost] for a delivery that the broker has taken back. RabbitMQ ends a channel on which a
// delivery stays unsettled for its consumer_timeout, 30 minutes by default; the
// lease ends, and the message comes again.
//
// # Concurrency
//
// A Broker is safe for concurrent use. It owns its goroutines until Close.
// Subscribe calls deliver, OnReady and OnLost from the goroutine that called it. A
// settler may be used from any goroutine, and never waits for the network to
// acknowledge.
package rabbitmq
