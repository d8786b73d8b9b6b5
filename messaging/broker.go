package messaging

import (
	"context"
	"time"
)

// A Publisher sends messages. All methods are safe for concurrent use.
//
// Who implements it: a call returns nil only when the broker has taken
// responsibility for every message, to the degree its [Promises] state; it
// returns a [*BatchError] that says which messages were not taken and why; it
// checks every message with [Check] before it touches the network, and publishes
// those that pass though others do not; it honours ctx at every wait, and until
// ctx ends rides out a lost connection; it keeps no reference to msgs after it
// returns.
type Publisher interface {
	Publish(ctx context.Context, topic string, msgs ...Message) error
}

// A Broker carries messages between publishers and the groups that subscribe to
// a topic. Each group receives every message that is published after the group
// first subscribed; within a group, each message goes to one of the subscribers.
// All methods are safe for concurrent use.
//
// A Broker decides how: how a message is stored, delayed, moved to the dead
// letters. Whether, when and why is decided by the one [Consumer], so that
// services behave the same on every broker.
type Broker interface {
	Publisher
	// Subscribe declares what s needs and hands deliveries to deliver until ctx
	// ends. Then it takes in nothing more, waits until each delivery that was
	// accepted is settled, and returns nil. It returns an error at once when
	// going on is pointless: wrong credentials, a topology that conflicts, the
	// broker closed. A connection that comes and goes is not such an error: it
	// reconnects.
	//
	// It calls deliver from one goroutine per ordering unit, in order, and never
	// has more than s.Prefetch deliveries accepted and unsettled. When deliver
	// ends that goroutine by a panic or runtime.Goexit, what it has accepted is
	// lost to it, as with a connection, and comes again.
	Subscribe(ctx context.Context, s Subscription, deliver Deliver) error
	// Promises states what this broker guarantees.
	Promises() Promises
	// Close ends all Publish and Subscribe calls with [ErrClosed], waits for
	// them and for the Broker's goroutines until ctx ends, and frees the
	// connections. Only the first call does anything.
	Close(ctx context.Context) error
}

// Deliver takes a delivery over. It may block, which holds up only the ordering
// unit (queue, partition, group of a FIFO queue) that calls it. It owns d.
//
// lease ends, with cause [ErrLost], when the broker takes the message back (the
// connection is gone, the partition revoked): the message will come again, and
// whatever is settled after that has no effect, and [ErrLost] says so. It may also
// end, with any cause, once the delivery is settled. A non-nil result means that
// the delivery was not accepted and must be released.
type Deliver func(lease context.Context, d *Delivery, s Settler) error

// A Settler ends one delivery. The first Settle wins, later ones do nothing and
// return nil. Once the delivery is lost, unsettled, Settle does nothing and
// returns [ErrLost], each time. Its methods are safe for concurrent use.
type Settler interface {
	// Settle carries the verdict out. A Retry or DeadLetter acknowledges the
	// original only after its successor is safely stored: on an error nothing is
	// lost, and the broker delivers the message again.
	Settle(ctx context.Context, v Verdict) error
	// Extend asks the broker to leave the message alone for at least d from now.
	// It returns [ErrLost] when the broker has taken it back. Once Settle has been
	// called it does nothing and returns nil, so that it undoes no Retry or Release.
	// Brokers whose leases do not expire return nil.
	Extend(ctx context.Context, d time.Duration) error
}

// A Verdict says what is to become of a delivery.
type Verdict struct {
	// Kind says what to do.
	Kind Kind
	// After is the least delay before a Retry is delivered again.
	After time.Duration
	// KeepAttempt leaves Delivery.Attempt as it is at a Retry: what the handler
	// depends on refused the work before it began, so no attempt was made. A
	// broker that CountsRelease may raise it all the same.
	KeepAttempt bool
	// Attempt is how many attempts came to nothing before a DeadLetter, where the
	// Consumer made some of them by itself, see ConsumerConfig.OrderedRetries. 0
	// means Delivery.Attempt.
	Attempt int
	// Reason is why a DeadLetter was set aside: one of the Reason… constants, or
	// a word of the caller's. It becomes the header msg-dlq-reason.
	Reason string
	// Err is what went wrong; its text, cut to 1 KiB, becomes the header
	// msg-dlq-error.
	Err error
}

// Kind is what a [Verdict] asks for.
type Kind int

const (
	// Ack means that the message was handled, or deliberately skipped; forget it.
	Ack Kind = iota
	// Retry means to deliver it again after Verdict.After, with Attempt one higher
	// (save for KeepAttempt), and let others pass meanwhile.
	Retry
	// DeadLetter means to move it to the dead letters of its group, byte for byte.
	DeadLetter
	// Release means to give it back as if it had not been delivered; Attempt stays.
	Release
)

// String returns the name of k in lower case, as logs and metrics use it.
func (k Kind) String() string {
	switch k {
	case Ack:
		return "ack"
	case Retry:
		return "retry"
	case DeadLetter:
		return "dead_letter"
	case Release:
		return "release"
	}
	return "unknown"
}

// Reasons for which the Consumer dead-letters a message.
const (
	ReasonExhausted   = "exhausted"    // the last allowed attempt failed
	ReasonPermanent   = "permanent"    // the handler returned a Permanent error
	ReasonDecode      = "decode"       // the payload could not be decoded
	ReasonUnknownType = "unknown-type" // Events has no entry for the message's Type
)

// A Subscription names what a group of consumers receives.
type Subscription struct {
	// Topic is what is published to; Group is who shares the work. Both are
	// required: 1 to 128 characters of letters, digits, '-', '_' and '.',
	// beginning with a letter or digit.
	Topic, Group string
	// Prefetch is the number of deliveries that may be accepted and unsettled at
	// one time in this process. Default 64, at most 65535. More hides the
	// broker's latency; fewer spreads work more evenly and leaves less to
	// redeliver after a crash.
	Prefetch int
	// DeadLetters asks for what the group has set aside, the oldest first, in place
	// of its messages: to look at dead letters, and for moving them back. The deliveries
	// carry the headers of [DeadHeaders]. Ack deletes a dead letter, Release leaves
	// it where it is, DeadLetter puts it unchanged at the end of the dead letters,
	// and Retry moves it back among the group's messages, as one that was never
	// tried and without those headers. Default false.
	DeadLetters bool
	// OnReady, if set, is called each time the subscription has been established
	// (again): what is published from then on will reach the group. It must be
	// quick, and neither block nor panic.
	OnReady func()
	// OnLost, if set, is called with the reason each time an established
	// subscription is interrupted; OnReady follows when it stands again. It must
	// be quick, and neither block nor panic.
	OnLost func(error)
}

// Promises state what a broker guarantees; the conformance suite holds each
// broker to its own, and the README's table shows them.
type Promises struct {
	// Durable: a message whose Publish returned nil survives the end of the
	// broker's process.
	Durable bool
	// Ordered: messages with one Key from one publisher reach one subscriber in
	// the order of publishing, save those that are retried or redelivered.
	Ordered bool
	// Routed: Publish returns [ErrUnroutable] for a topic to which no group has
	// ever subscribed, instead of losing the message.
	Routed bool
	// Lease is how long a delivery may stay accepted and unsettled before the
	// broker takes it back, unless Settler.Extend asks for longer; the Consumer
	// does, for what waits in a lane too. 0 means that it never expires.
	Lease time.Duration
	// CountsRelease: a Release raises Delivery.Attempt (SQS counts receives).
	CountsRelease bool
	// MaxPayload is the largest Payload in bytes; a larger one is [ErrTooLarge]
	// before the network.
	MaxPayload int
}
