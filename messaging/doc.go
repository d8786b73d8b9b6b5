// Package messaging keeps services from waiting for each other, and from losing
// work while one of them is down: a message is published once confirmed, handled
// at least once, retried with growing delays, and set aside with the reason when
// nothing helps. The same code runs on every broker; package memory has one
// inside the process, and the packages rabbitmq, kafka and sqs are for what their
// names say.
//
//	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{})
//	…
//	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"},
//		messaging.Typed(messaging.JSON{}, func(ctx context.Context, o Order, d *messaging.Delivery) error {
//			return sendMail(ctx, o)
//		}))
//	go c.Run(ctx) // until ctx ends
//	…
//	err = broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", payload))
//
// # How it works
//
// A publisher sends a [Message] to a topic. Each group that has subscribed to
// the topic gets it once, whoever in the group handles it. A [Broker] stores,
// delays and sets aside; the one [Consumer] decides when and why, so that a
// service behaves alike on every broker. It settles each delivery by what the
// [Handler] did:
//
//	nil                             Ack: done with
//	an error                        Retry after Backoff; DeadLetter "exhausted" at MaxAttempts
//	  with RetryAfter() d           the same, and no earlier than in d; see After
//	  with Rejected() true          Retry that counts as no attempt, so never "exhausted"
//	Permanent(err)                  DeadLetter "permanent", at once
//	a payload that Typed refuses    DeadLetter "decode", at once
//	a Type that Events has not      DeadLetter "unknown-type", at once
//	panic or runtime.Goexit         as an error; the stack of a panic is logged; so
//	                                where Backoff or a method of the error does it
//	any error after ErrDrain        Release: back to the broker, as if not delivered
//	anything after ErrLost          nothing: the broker has taken the message back
//
// The first line that fits from below counts. RetryAfter and Rejected are
// methods of errors, found in what an error wraps: the errors of package breaker
// have them, so that an open breaker postpones messages and dead-letters none.
// An error that wraps several (errors.Join, more than one %w) counts as rejected
// only when all of them do, save constants of a string type such as a [Reason],
// which only name it: a failure beside a rejection was an attempt.
//
// Publish waits for the broker's answer. Where a caller should not, an
// [AsyncPublisher] gathers messages into batches and tells each one's outcome to a
// function, with a bound on what is in flight.
//
// A retry waits at the broker, not in the handler, so it holds nothing up, save
// what [ConsumerConfig].OrderedRetries asks for: then it waits in the process, and
// holds up what has its Key.
//
// The dead letters of a group keep the message byte for byte, with the headers
// [HeaderDeadReason] and following. Look at them with [DeadLetters], and move them
// back with [Redrive] once the cause is mended; both work on every broker.
//
// Handlers run in lanes, Concurrency of them for each subscription. The messages
// of one Key share a lane, one after the other; those without a Key take
// whichever lane is free. A slow handler holds up its own lane; it holds up the
// subscription only when [Subscription].Prefetch deliveries, or 256, wait behind
// it. Where deliveries are leased, as on SQS, the Consumer extends the leases of
// all that it has accepted, in rounds of at most 8 calls at one time.
//
// [Consumer.Pause] and [Consumer.Resume] stop and start one subscription,
// [Consumer.Health] says whether all that should be are established, and
// [Consumer.Stats] what they do and have done.
//
// # Guarantees
//
//   - Publish returns nil only when the broker has taken every message. An error
//     is a [*BatchError] that says which it has not.
//   - Every group receives every message that is published after it first
//     subscribed, while nobody of the group is there too. A slow group holds up
//     no other while the broker has room for its backlog.
//   - A message is acknowledged only after its handler returned nil, or after
//     its retry or dead letter is stored. When settling fails, it comes again.
//   - Messages with one Key from one publisher are handled in the order of
//     publishing and never two at one time, by each Consumer.
//   - A failing message is tried MaxAttempts times and then set aside; others
//     pass meanwhile. With OrderedRetries, it holds back the later ones of its Key
//     and no other, until it is handled or dead-lettered.
//   - What a publisher or a handler does to its copy of a message, no other
//     sees, and no later attempt.
//   - When Run is told to stop, running handlers keep a live context until
//     DrainTimeout, and no other begins.
//   - Deliveries that wait in a lane, are held or handled keep their leases: a
//     handler three times as long as the lease is invoked once.
//   - A paused subscription finishes what runs, gives back the rest and holds up
//     no other.
//
// Further guarantees, of what moves dead letters back:
//
//   - Redrive moves no message twice, and ends when it has gone round once.
//   - A Redrive that is killed, or runs beside others, loses nothing: at worst a
//     message comes twice, with the same ID.
//
// Not guaranteed: that a message is handled once. A crash or a lost connection
// between the handler's end and the acknowledgement delivers it again, and so
// does publishing again after [ErrNotConfirmed]; the ID stays the same, so let
// an inbox drop what was done before, by [Delivery.InboxID]:
//
//	h = idempotency.Inbox(guard, "orders/mail", (*messaging.Delivery).InboxID, h)
//
// Order does not survive a retry: the messages behind a failing one pass it. The
// exception is [ConsumerConfig].OrderedRetries, whose price stands there: attempts
// that a crash forgets, and messages held back that count against Prefetch. Order
// does not survive the loss of a delivery, nor does it hold between several
// Consumers of one group, unless the broker gives each key to one of them.
//
// # Defaults
//
// Concurrency 8 and Prefetch 64 suit handlers that wait for a database. Five
// attempts with delays of about 1s, 4s, 16s and 64s span the restart of a
// dependency. DrainTimeout 30s is what container platforms grant before they
// kill. Retries are not ordered, for most messages of one Key can do without, and
// a broker remembers attempts better than a process. Headers are at most 32 KiB,
// see [MaxHeaderBytes]; how large a payload may be, [Promises] says. A Redrive
// moves at most 1,000 dead letters, 100 in a second, so that what they need is not
// taken away again.
//
// # Events
//
// [Encode] makes a message from a value, by the [Codec] that [Typed] reads it
// with. A topic with events of several types, and old versions of them, has one
// handler made by [Events]. A message is a CloudEvent 1.0: adapters carry its
// attributes in headers, which is binary mode; [Structured] and
// [MarshalCloudEvent] put all of it into the payload, which is structured mode.
// The middleware [CloudEvents] unpacks that for handlers, so that they serve both.
// What lacks a Source or a Type is a message all the same, and no CloudEvent.
//
// # Composition
//
// [CloudEvents] comes first of all middleware, where it is used.
// List middleware outermost first: tracing, metrics, then the inbox, then the
// handler. Timeouts, retries, dead letters and the recovery of panics are the
// Consumer's. A handler that retries by itself holds up its lane and multiplies
// the attempts.
//
// # Errors
//
// All are a [Reason], or wrap one: compare with errors.Is. [ErrInvalid],
// [ErrTooLarge], [ErrNotFound], [ErrDenied] and [ErrTopology] are permanent; after
// [ErrRefused], [ErrUnroutable] and [ErrNotConfirmed] the same message may be
// published again. [ErrLost], [ErrDrain] and [ErrTimeout] are causes of a
// handler's context.
//
// # Concurrency
//
// Brokers and Consumers may be used by several goroutines at once. Handlers,
// codecs and hooks are called by several at once.
package messaging
