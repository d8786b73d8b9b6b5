package bulkhead

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrFull is what every [*FullError] is, for errors.Is.
var ErrFull = errors.New("bulkhead: full")

var (
	errNoFunc     = errors.New("bulkhead: nil function: pass the call to guard")
	errUnfinished = errors.New("bulkhead: the call panicked or called runtime.Goexit")
)

// retryAfter is what a rejected call is told. Slots come free when other calls
// end, and nobody knows when that is; a second is the least that the Retry-After
// header can say, and long for a queue of calls.
const retryAfter = time.Second

// FullError says that a Bulkhead rejected a call: it was not made. It is
// [ErrFull]. Rejections share one value, so that they cost no allocation.
type FullError struct {
	// Name is the bulkhead's.
	Name string
	// Waited is how long the call waited in the queue: Config.Wait, or 0 where
	// the queue was full too.
	Waited time.Duration
}

// Error returns one line with the name of the bulkhead.
func (e *FullError) Error() string {
	if e.Waited > 0 {
		return fmt.Sprintf("%s: full, call rejected after %v in the queue, retry after %v", label(e.Name), e.Waited, retryAfter)
	}
	return fmt.Sprintf("%s: full, call rejected, retry after %v", label(e.Name), retryAfter)
}

// Is reports whether target is [ErrFull].
func (e *FullError) Is(target error) bool { return target == ErrFull }

// Rejected returns true: the call was refused before it reached the dependency.
// Breakers ignore such an error, and retry policies do not repeat it unless they
// are asked to.
func (e *FullError) Rejected() bool { return true }

// RetryAfter returns one second: a guess, since slots come free when other calls
// end.
func (e *FullError) RetryAfter() time.Duration { return retryAfter }

// endedError is the cause of a context that ended before its call got a slot.
// The dependency had no part in that, so a breaker must not count the deadline
// that passed in the queue.
type endedError struct {
	name  string
	cause error
}

func (b *Bulkhead) ended(ctx context.Context) error {
	return &endedError{b.config.Name, context.Cause(ctx)}
}

func (e *endedError) Error() string {
	return fmt.Sprintf("%s: call not made, its context ended first: %v", label(e.name), e.cause)
}

func (e *endedError) Unwrap() error  { return e.cause }
func (e *endedError) Rejected() bool { return true }

// label returns how errors begin.
func label(name string) string {
	if name == "" {
		return "bulkhead"
	}
	return fmt.Sprintf("bulkhead %q", name)
}
