package retry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reason says why a call was not, or not further, retried. It is an error, so
// that errors.Is(err, retry.ErrExhausted) works, and a short word, so that
// string(reason) is fit to be a label of a metric.
type Reason string

// The reasons. The first six are those of an [*Error].
const (
	// ErrExhausted means that every attempt allowed by MaxAttempts failed.
	ErrExhausted Reason = "exhausted"

	// ErrBudget means that the Budget had no retry left. The dependency is
	// probably failing for all callers.
	ErrBudget Reason = "budget"

	// ErrDeadline means that the next wait would have outlasted the context's
	// deadline or MaxElapsed, so that it was not begun.
	ErrDeadline Reason = "deadline"

	// ErrRetryAfter means that the dependency asked for a longer wait than
	// MaxRetryAfter, which is 1 minute for a [Hedge]; or, by a negative one, for no
	// further attempt of a Hedge.
	ErrRetryAfter Reason = "retry_after"

	// ErrCanceled means that the caller's context ended. The error is also the
	// context's cause.
	ErrCanceled Reason = "canceled"

	// ErrPolicy means that the Policy or Hedging is faulty: no attempt was made.
	ErrPolicy Reason = "policy"

	// ErrNotRetryable is the Result's reason for an error that is not worth
	// another attempt. The caller gets the operation's own error.
	ErrNotRetryable Reason = "not_retryable"

	// ErrNested is the Result's reason for a failure that a policy further out
	// is already retrying. The caller gets the operation's own error.
	ErrNested Reason = "nested"

	// ErrPanicked is the Result's reason for an operation or a hook that
	// panicked or called runtime.Goexit. The panic goes on to the caller.
	ErrPanicked Reason = "panicked"

	// ErrAttemptTimeout is the cause of an attempt's context that ended because
	// of AttemptTimeout.
	ErrAttemptTimeout Reason = "attempt_timeout"

	// ErrLost is the cause of a hedged attempt's context that ended because
	// another attempt decided the call.
	ErrLost Reason = "lost"
)

// Error returns the reason in words.
func (r Reason) Error() string { return "retry: " + r.words() }

// Timeout reports whether r is [ErrAttemptTimeout]. As the cause of a context it
// tells a breaker below that the attempt ran out of time, and that it was not the
// caller who left.
func (r Reason) Timeout() bool { return r == ErrAttemptTimeout }

func (r Reason) words() string {
	switch r {
	case ErrExhausted:
		return "attempts exhausted"
	case ErrBudget:
		return "budget spent"
	case ErrDeadline:
		return "no time left for another attempt"
	case ErrRetryAfter:
		return "asked to stay away for longer than MaxRetryAfter"
	case ErrCanceled:
		return "context ended"
	case ErrPolicy:
		return "faulty policy"
	case ErrNotRetryable:
		return "not retryable"
	case ErrNested:
		return "left to the policy outside"
	case ErrPanicked:
		return "operation panicked"
	case ErrAttemptTimeout:
		return "attempt timed out"
	case ErrLost:
		return "another attempt decided the call"
	default:
		return string(r)
	}
}

// Error says that an operation failed and that retrying ended. It satisfies
// errors.Is and errors.As for Reason, for Last and, where the caller's context
// ended, for the context's cause. An [*Error] is not retried by a policy further
// out, since what it could gain has been tried, unless its Reason is ErrCanceled
// and the policy further out may go on: then its own AttemptTimeout, or the
// operation itself, had cut the policy below off.
type Error struct {
	Name     string        // the policy's
	Attempts int           // made; 0 where the context had ended before or the policy is faulty
	Waited   time.Duration // the sum of the waits between them
	Reason   Reason        // why no further attempt was made
	First    error         // of the first attempt: what went wrong before retrying added to it
	Last     error         // of the last attempt, or the faults of the policy; nil where none was made
	Recent   []error       // of the last attempts, at most 8, oldest first
	Cause    error         // context.Cause where the caller's context ended; else nil
}

// Error returns one line that begins with the package and the policy's name.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("retry")
	if e.Name != "" {
		fmt.Fprintf(&b, " %q", e.Name)
	}
	b.WriteString(": " + e.Reason.words())
	switch {
	case e.Reason == ErrPolicy:
	case e.Attempts == 0:
		b.WriteString(" before the first attempt")
	case e.Attempts == 1:
		b.WriteString(" after 1 attempt")
	default:
		fmt.Fprintf(&b, " after %d attempts", e.Attempts)
	}
	if e.Cause != nil && !errors.Is(e.Last, e.Cause) {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	if e.Last != nil {
		fmt.Fprintf(&b, ": %v", e.Last)
	}
	return b.String()
}

// Unwrap returns the last error, the reason and, where there is one, the
// context's cause.
func (e *Error) Unwrap() []error {
	if e == nil {
		return nil
	}
	errs := make([]error, 0, 3)
	if e.Last != nil {
		errs = append(errs, e.Last)
	}
	errs = append(errs, e.Reason)
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	return errs
}

// Timeout reports whether time was what ended the call: the last error or the
// context's cause was a timeout, or there was none left. It makes an Error a
// timeout for url.Error and os.IsTimeout, which do not look further.
func (e *Error) Timeout() bool {
	if e.Reason == ErrDeadline || errors.Is(e.Cause, context.DeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Last)
	return ok && t.Timeout()
}

// markTimeout adds the cause to the error of an attempt that ran into its
// timeout, since most operations only report ctx.Err().
func markTimeout(ctx context.Context, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), ErrAttemptTimeout) || errors.Is(err, ErrAttemptTimeout) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrAttemptTimeout, err)
}
