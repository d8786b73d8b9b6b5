package retry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/parley-go/parley/internal/attempt"
)

// Hedging says when [Hedge] starts further attempts beside one that is slow. It
// is a plain value like [Policy]; the zero Hedging starts one more after 100 ms.
type Hedging struct {
	// Name appears in errors and in the hook; name the dependency. Default: none.
	Name string

	// MaxAttempts bounds the attempts of one call, the first included.
	// Default 2, at most 100. Negative is a fault.
	MaxAttempts int

	// Delay is the wait before each further attempt. Set it near the 95th
	// percentile of the operation's latency, so that about one call in twenty is
	// hedged. Default 100 ms. Negative is a fault.
	Delay time.Duration

	// Retryable reports whether other attempts may go on after an error. An
	// error that may not ends the call. [Permanent] errors, rejected calls and
	// errors of a policy below never may. It is called by the goroutine that
	// called Hedge. Default: every other error may.
	Retryable func(error) bool

	// Budget bounds the further attempts of all calls that share it. Without
	// one, a dependency that has become slow gets MaxAttempts times the load.
	// Default: none.
	Budget *Budget

	// OnDone is called once at the end of each call that began, with the number
	// of attempts that were started. Default: none.
	OnDone func(context.Context, Result)
}

const (
	defaultHedges     = 2
	maxHedges         = 100
	defaultHedgeDelay = 100 * time.Millisecond
)

// Validate reports every fault of h in one error that is [ErrPolicy], or nil.
// Hedge checks by itself.
func (h Hedging) Validate() error {
	var faults []string
	if h.MaxAttempts < 0 {
		faults = append(faults, fmt.Sprintf("MaxAttempts %d is negative", h.MaxAttempts))
	}
	if h.MaxAttempts > maxHedges {
		faults = append(faults, fmt.Sprintf("MaxAttempts %d is more than %d", h.MaxAttempts, maxHedges))
	}
	if h.Budget.unmade() {
		faults = append(faults, "Budget is not of NewBudget or NewThrottle")
	}
	if faults = negative(faults, "Delay", h.Delay); len(faults) > 0 {
		return &Error{Name: h.Name, Reason: ErrPolicy, Last: errors.New(strings.Join(faults, "; "))}
	}
	return nil
}

// Hedge calls op and, while no attempt has succeeded, calls it again beside the
// attempts that run: each Delay, and at once when one fails. The first success
// wins. It is the hedged request of "The Tail at Scale" (Dean and Barroso, 2013)
// with the rules of gRPC proposal A6. Hedge only what is idempotent.
//
// The contexts of the other attempts end with the cause [ErrLost], and Hedge
// returns when all of them have returned: op must heed its context, and no
// goroutine outlives the call. Results that came too late are handed to discard;
// where discard is nil and T is *http.Response, their bodies are closed.
//
// The winner's context ends when Hedge returns, save where T is *http.Response:
// there it ends with the body. Any other result must not depend on it.
//
// No further attempt starts once the Budget is spent, when ctx would end within
// the wait for it, and after an error of a rejected call, of a policy below, or
// with a negative RetryAfter or one of more than 1 minute; those that run may
// still win. A positive RetryAfter is the wait before the next attempt, unless
// another one fails meanwhile without asking for one. Inside a retry of a policy
// further out there is one attempt.
//
// Hedge returns the winner's result and nil, the operation's own error where
// that is not to be retried, or an [*Error]. A panic of op is raised again in
// the caller, as [*PanicError]; runtime.Goexit ends the caller's goroutine too.
func Hedge[T any](ctx context.Context, h Hedging, op func(context.Context) (T, error), discard func(T)) (T, error) {
	err := h.Validate()
	if err == nil && op == nil {
		err = &Error{Name: h.Name, Reason: ErrPolicy, Last: errors.New("the operation is nil")}
	}
	if err != nil {
		var none T
		return none, err
	}
	r := race[T]{
		hedging: &h, op: op, discard: discard,
		limit: or(h.MaxAttempts, defaultHedges), delay: or(h.Delay, defaultHedgeDelay),
		reason: ErrPanicked, // until it is known better: end runs on every way out
	}
	if attempt.From(ctx) > 1 {
		r.limit, r.nested = 1, true
	}
	start := time.Now()
	defer func() { r.end(ctx, start) }()
	return r.run(ctx)
}

// PanicError is what [Hedge] panics with when op has panicked on a goroutine of
// its own.
type PanicError struct {
	Value any    // that op panicked with
	Stack []byte // of the goroutine of op
}

// Error returns the value and the stack of op's goroutine, so that the trace of
// a crash shows both.
func (e *PanicError) Error() string {
	return fmt.Sprintf("retry: hedged operation panicked: %v\n\n%s", e.Value, e.Stack)
}

// Unwrap returns the value where op panicked with an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
