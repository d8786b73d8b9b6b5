package messaging

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"time"
)

// These are the facts that errors of other packages carry.
type (
	delayer interface {
		error
		RetryAfter() time.Duration
	}
	rejecter interface {
		error
		Rejected() bool
	}
)

// verdict is the one table that turns what a handler returned into what becomes
// of the message. Drained says that the handler was told to end with ErrDrain
// before it returned.
func (c *ConsumerConfig) verdict(err error, attempt int, drained bool) Verdict {
	switch reason := deadReason(err); {
	case err == nil:
		return Verdict{Kind: Ack}
	case drained:
		// Whatever the error says, it may be our doing.
		return Verdict{Kind: Release, Err: err}
	case reason != "":
		return Verdict{Kind: DeadLetter, Reason: reason, Err: err}
	}
	rejected := isRejected(err)
	if attempt >= c.MaxAttempts && !rejected {
		return Verdict{Kind: DeadLetter, Reason: ReasonExhausted, Err: err}
	}
	after := max(0, c.Backoff(attempt))
	if d, ok := errors.AsType[delayer](err); ok {
		after = max(after, d.RetryAfter())
	}
	return Verdict{Kind: Retry, After: after, KeepAttempt: rejected, Err: err}
}

// isRejected reports whether err says that no attempt was made. The outermost
// Rejected method of a chain decides. Where errors were joined, all must be
// rejected, for otherwise there was a failure too, which counts. Those of a
// string type, such as a Reason, are no failures: they name the others for
// errors.Is.
func isRejected(err error) bool {
	for err != nil {
		if r, ok := err.(rejecter); ok { //nolint:errorlint // so is this
			return r.Rejected()
		}
		switch e := err.(type) { //nolint:errorlint // this is the walk through what err wraps
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			return allRejected(e.Unwrap())
		default:
			return false
		}
	}
	return false
}

func allRejected(errs []error) bool {
	some := false
	for _, err := range errs {
		switch {
		case err == nil:
		case isRejected(err):
			some = true
		case reflect.TypeOf(err).Kind() != reflect.String:
			return false
		}
	}
	return some
}

const (
	firstBackoff = time.Second
	maxBackoff   = 10 * time.Minute
)

// backoff is the default of ConsumerConfig.Backoff. It grows by four, so that
// five attempts span a restart of what the handler depends on; the random part
// keeps messages that failed together from coming back together.
func backoff(attempt int) time.Duration {
	d := firstBackoff
	for i := 1; i < attempt && d < maxBackoff; i++ {
		d *= 4
	}
	d = min(d, maxBackoff)
	return d - rand.N(d/2)
}
