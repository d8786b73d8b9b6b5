package breaker

import (
	"errors"
	"fmt"
	"time"
)

// ErrOpen is what every [*OpenError] is, for errors.Is.
var ErrOpen = errors.New("breaker: open")

var (
	errNoFunc = errors.New("breaker: nil function: pass the call to guard")
	errNoKey  = errors.New("breaker: nil key function: pass one to Group.Transport, such as breaker.Host")
)

// OpenError says that a Breaker rejected a call: the dependency was not reached.
// It is the only error that a Breaker adds to those of the guarded function, and
// it is [ErrOpen]. Rejections share one value, so that they cost no allocation:
// all callers get the same, and none may change its fields.
type OpenError struct {
	// Name is the breaker's.
	Name string
	// State is Open, HalfOpen (as many probes are running as may) or ForcedOpen.
	State State

	breaker *Breaker
}

// Error returns one line with the name of the breaker and, where it is known,
// for how long it goes on rejecting calls, as of now.
func (e *OpenError) Error() string {
	who := "breaker"
	if e.Name != "" {
		who = fmt.Sprintf("breaker %q", e.Name)
	}
	if e.State == ForcedOpen {
		return who + ": forced open, call rejected until Reset"
	}
	if d := e.RetryAfter(); d > 0 {
		d = (d + time.Millisecond - 1).Truncate(time.Millisecond) // to be read, so to come back no earlier
		return fmt.Sprintf("%s: %v, call rejected, retry after %v", who, e.State, d)
	}
	return fmt.Sprintf("%s: %v, call rejected, retry now", who, e.State)
}

// Is reports whether target is [ErrOpen].
func (e *OpenError) Is(target error) bool { return target == ErrOpen }

// Rejected returns true: the call was refused before it reached the dependency.
// Other breakers ignore such an error, and retry policies do not repeat it
// unless they are asked to.
func (e *OpenError) Rejected() bool { return true }

// RetryAfter returns how long it takes, from now, until the breaker may admit a
// call: the rest of the open time or, while all probes run, the time until the
// first of them is given up. It is computed when asked. It is 0 when the breaker
// admits calls again, and for one that was forced open, where nobody knows.
func (e *OpenError) RetryAfter() time.Duration {
	if e.breaker == nil {
		return 0
	}
	return e.breaker.retryAfter()
}
