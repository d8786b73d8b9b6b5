package messaging

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// MaxHeaderBytes bounds the names and values of a message's headers, all
	// together, its attributes (ID, Type, Source, Subject, Key, ContentType)
	// included. Brokers carry these in frames of 128 KiB (AMQP's default) or
	// less, beside what parley adds.
	MaxHeaderBytes = 32 << 10
	maxName        = 128
)

// Check returns nil when every message may be published to topic, and a
// [*BatchError] that says for each one what is wrong with it otherwise. It is
// for those who implement a [Publisher]: they publish the messages whose entry
// is nil, for a nil entry tells the caller that a message was taken. limit is
// [Promises].MaxPayload.
func Check(topic string, limit int, msgs []Message) error {
	topicErr := checkName("topic", topic)
	var errs []error
	for i := range msgs {
		err := topicErr
		if err == nil {
			err = checkMessage(&msgs[i], limit)
		}
		if err != nil {
			if errs == nil {
				errs = make([]error, len(msgs))
			}
			errs[i] = err
		}
	}
	if errs != nil {
		return &BatchError{Errs: errs}
	}
	return topicErr
}

func checkMessage(m *Message, limit int) error {
	if m.ID == "" {
		return fmt.Errorf("%w: the message has no ID: make messages with NewMessage, and publish the same one again after an error", ErrInvalid)
	}
	if !isDatable(m.Time) {
		return fmt.Errorf("%w: Time is in the year %d, outside 0..9999, and cannot be written in RFC 3339 form", ErrInvalid, m.Time.UTC().Year())
	}
	size := 0
	for _, a := range [...]struct{ name, value string }{
		{"ID", m.ID}, {"Type", m.Type}, {"Source", m.Source}, {"Subject", m.Subject}, {"Key", m.Key}, {"ContentType", m.ContentType},
	} {
		if err := checkText(a.name, a.value); err != nil {
			return err
		}
		size += len(a.value)
	}
	for name, value := range m.Headers {
		if err := checkName("header", name); err != nil {
			return err
		}
		if ownedName(name) {
			return fmt.Errorf("%w: the header name %q belongs to brokers and their adapters, see Message.Headers: choose another", ErrInvalid, name)
		}
		if err := checkText(name, value); err != nil {
			return err
		}
		size += len(name) + len(value)
	}
	if size > MaxHeaderBytes {
		return fmt.Errorf("%w: attributes and headers take %d bytes, the limit is %d", ErrTooLarge, size, MaxHeaderBytes)
	}
	if len(m.Payload) > limit {
		return fmt.Errorf("%w: the payload has %d bytes, the limit is %d", ErrTooLarge, len(m.Payload), limit)
	}
	return nil
}

// checkText keeps out what some broker's header cannot carry.
func checkText(name, value string) error {
	if !utf8.ValidString(value) {
		return fmt.Errorf("%w: %s is not UTF-8: encode binary values, in base64 for one", ErrInvalid, name)
	}
	if strings.IndexByte(value, 0) >= 0 {
		return fmt.Errorf("%w: %s contains NUL", ErrInvalid, name)
	}
	return nil
}

// checkName keeps names to what every broker takes for its queues, topics and
// headers, so that a program can move from one to another.
func checkName(what, name string) error {
	bad := len(name) == 0 || len(name) > maxName
	for i := 0; i < len(name) && !bad; i++ {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		bad = !alnum && (i == 0 || c != '-' && c != '_' && c != '.')
	}
	if bad {
		return fmt.Errorf("%w: the %s name %q must be 1 to %d letters, digits, '-', '_' or '.', beginning with a letter or digit",
			ErrInvalid, what, clip(name, maxName), maxName)
	}
	return nil
}

// ownedName reports whether some broker or adapter sets the header by itself, or
// acts on it: RabbitMQ copies a message to the queues that CC names. Refused
// everywhere, it cannot get lost on one broker and arrive on another.
func ownedName(name string) bool {
	switch name = strings.ToLower(name); name {
	case "cc", "bcc", "x-death", "x-delivery-count", "x-acquired-count":
		return true
	}
	for _, prefix := range [...]string{"cloudevents_", "ce_", "ce-", "x-first-death-", "x-last-death-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// clip shortens s to at most n bytes without cutting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// CheckSubscription returns s with its defaults, or an [ErrInvalid] that says
// all that is wrong with it. It is for those who implement a [Broker].
func CheckSubscription(s Subscription) (Subscription, error) {
	var faults []string
	for _, n := range [...]struct{ what, name string }{{"topic", s.Topic}, {"group", s.Group}} {
		if err := checkName(n.what, n.name); err != nil {
			faults = append(faults, strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
		}
	}
	if s.Prefetch < 0 || s.Prefetch > 65535 {
		faults = append(faults, fmt.Sprintf("Prefetch %d is outside 0..65535", s.Prefetch))
	}
	if faults != nil {
		return s, fmt.Errorf("%w: subscription: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	if s.Prefetch == 0 {
		s.Prefetch = 64
	}
	return s, nil
}
