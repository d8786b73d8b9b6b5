package messaging

import (
	"maps"
	"strconv"
	"time"

	"github.com/parley-go/parley/internal/uuid"
)

// A Message is what a publisher sends: a payload and the facts about it, in the
// terms of CloudEvents 1.0. It has value semantics: a publisher may change or
// reuse a Message, its Headers and its Payload once Publish has returned, and
// no subscriber sees what another does to its own copy.
type Message struct {
	// ID identifies the message for the rest of its life: over retries,
	// redeliveries and dead-lettering. [NewMessage] mints it; Publish refuses a
	// message without one, because an ID made inside Publish would differ when
	// the caller publishes again after an error, and no inbox could then tell
	// that it is the same message.
	ID string
	// Type names the kind of event, such as "OrderPlaced". Optional.
	Type string
	// Source names the service that sends, such as "/orders". Optional.
	Source string
	// Subject names what the event is about, within the source. Optional.
	Subject string
	// Time is when the event happened, in the years 0 to 9999 of UTC. Optional.
	Time time.Time
	// Key orders messages: those with the same Key are handled by one Consumer one
	// after the other, in the order in which one publisher published them, save
	// those that are redelivered, or retried without ConsumerConfig.OrderedRetries.
	// Empty means that order does not matter.
	Key string
	// ContentType is the media type of Payload, such as "application/json".
	// Optional.
	ContentType string
	// Headers are further facts, such as a trace context. Names are 1 to 128
	// characters of letters, digits, '-', '_' and '.'; values are UTF-8 without
	// NUL; all together at most [MaxHeaderBytes]. Names that begin with "msg-"
	// belong to this package, which sets them and drops them on Publish. Names
	// that brokers and their adapters use themselves are [ErrInvalid], on every
	// broker and in any case of letters: those that begin with "cloudEvents_",
	// "ce_", "ce-", "x-first-death-" or "x-last-death-", and x-death,
	// x-delivery-count, x-acquired-count, CC and BCC. Better leave all names that
	// begin with "x-" to brokers.
	Headers map[string]string
	// Payload is the body, opaque to parley. Nil and empty are the same.
	Payload []byte
}

// NewMessage returns a message of the given type with a new ID and the current
// time. The ID is a UUID of version 7, so stores that index it stay compact.
func NewMessage(typ string, payload []byte) Message {
	return Message{ID: uuid.V7(), Type: typ, Time: time.Now(), Payload: payload}
}

// Clone returns a copy that shares no memory with m.
func (m Message) Clone() Message {
	m.Headers = maps.Clone(m.Headers)
	m.Payload = append([]byte(nil), m.Payload...)
	return m
}

// A Delivery is one attempt to have a message handled.
type Delivery struct {
	Message
	// Topic and Group say which subscription receives it.
	Topic, Group string
	// Attempt counts the tries to handle the message in this group, this one
	// included: 1 is the first. Redeliveries after a crash or a lost connection
	// are not counted, because nobody knows whether the handler ran.
	Attempt int
	// Redelivered reports that the broker may have delivered the message before.
	Redelivered bool
}

// InboxID returns what an inbox is to remember the message by: its Source and ID
// together, for by CloudEvents 1.0 an ID is unique within its source only, so
// two services that number their events may send the same. It is empty when the
// ID is, and different for different pairs otherwise.
//
// A group is one of a topic, so give the inbox the name Topic + "/" + Group: two
// topics may have groups of one name, and each handles the message.
//
//	h = idempotency.Inbox(guard, "orders/mail", (*messaging.Delivery).InboxID, h)
func (d *Delivery) InboxID() string {
	if d.ID == "" {
		return ""
	}
	// The length says where Source ends, whatever is in it.
	return strconv.Itoa(len(d.Source)) + ":" + d.Source + ":" + d.ID
}
