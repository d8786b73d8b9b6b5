package messaging

import (
	"errors"
	"fmt"
	"time"
)

// A Reason is why an operation of this package failed. The constants are the
// targets of errors.Is:
//
//	if errors.Is(err, messaging.ErrUnroutable) { … }
type Reason string

// Error returns the reason behind the name of the package.
func (r Reason) Error() string { return "messaging: " + string(r) }

const (
	// ErrClosed means that the Broker was closed. Permanent.
	ErrClosed Reason = "broker is closed"
	// ErrInvalid means that the call was refused before the network; the text says what to
	// change. Permanent.
	ErrInvalid Reason = "invalid"
	// ErrTooLarge means that the payload or the headers exceed what the broker takes.
	// Permanent: send a reference to the data instead.
	ErrTooLarge Reason = "message too large"
	// ErrUnroutable means that no group has ever subscribed to the topic, and the broker
	// was asked to refuse such messages. Start a consumer first, or declare its
	// group.
	ErrUnroutable Reason = "no group subscribes to the topic"
	// ErrNotConfirmed means that ctx ended before the broker answered, so the message may
	// have been stored or not. Publishing it again with the same ID is safe
	// where consumers use an inbox.
	ErrNotConfirmed Reason = "not confirmed, may have been stored"
	// ErrRefused means that the broker answered that it did not store the message (a full
	// queue, an internal error). Publish again later.
	ErrRefused Reason = "refused by the broker"
	// ErrTopology means that something exists on the broker under the same name with other
	// settings. Permanent: delete it, or configure the same settings.
	ErrTopology Reason = "topology conflicts"
	// ErrNotFound means that a topic, or what a group needs, does not exist on the
	// broker, and the Broker was told to make nothing itself; or that there is no
	// such group whose dead letters could be read. Permanent: create what the text
	// names.
	ErrNotFound Reason = "not found on the broker"
	// ErrDenied means wrong credentials or a missing permission. Permanent.
	ErrDenied Reason = "access denied"
	// ErrLost is the cause with which a delivery's lease ends.
	ErrLost Reason = "delivery taken back by the broker"
	// ErrDrain is the cause with which handlers end that outlive DrainTimeout.
	ErrDrain Reason = "drain timeout"
	// ErrTimeout is the cause with which a handler's context ends after
	// ConsumerConfig.Timeout.
	ErrTimeout Reason = "handler timeout"
)

// A BatchError says which messages of a Publish were not taken. Those with a nil
// entry were.
type BatchError struct {
	// Errs has one entry for each message of the call, in order.
	Errs []error
}

// Error returns the number of failures and the first of them.
func (e *BatchError) Error() string {
	n, first := 0, error(nil)
	for _, err := range e.Errs {
		if err == nil {
			continue
		}
		if n++; first == nil {
			first = err
		}
	}
	return fmt.Sprintf("messaging: %d of %d messages not published, first: %v", n, len(e.Errs), first)
}

// Unwrap returns the failures, for errors.Is and errors.As.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Errs))
	for _, err := range e.Errs {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Permanent marks err as one that no further attempt can mend: the Consumer
// dead-letters the message at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &markedError{err: err, reason: ReasonPermanent}
}

// After marks err as one to retry no earlier than d from now. After(nil, d) is
// nil. Any error with a method RetryAfter() time.Duration is treated alike, such
// as breaker.OpenError.
func After(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &afterError{err: err, after: d}
}

type markedError struct {
	err    error
	reason string
}

func (e *markedError) Error() string { return e.err.Error() }
func (e *markedError) Unwrap() error { return e.err }

type afterError struct {
	err   error
	after time.Duration
}

func (e *afterError) Error() string             { return e.err.Error() }
func (e *afterError) Unwrap() error             { return e.err }
func (e *afterError) RetryAfter() time.Duration { return e.after }

// A readError is an error whose text was read once.
type readError struct {
	err  error
	text string
}

func (e *readError) Error() string { return e.text }
func (e *readError) Unwrap() error { return e.err }

// readable returns err with a text that logs, hooks and brokers can read, though
// its Error method should panic, as that of a nil pointer may.
func readable(err error) (e error) {
	if err == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			e = &readError{err, fmt.Sprintf("messaging: an error of type %T, whose Error method panicked: %v", err, p)}
		}
	}()
	return &readError{err, err.Error()}
}

// deadReason returns the reason for which err forbids another attempt, or "".
func deadReason(err error) string {
	if m, ok := errors.AsType[*markedError](err); ok {
		return m.reason
	}
	return ""
}
