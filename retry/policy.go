package retry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Policy says when to try an operation again and how long to wait before that.
// It is a plain value without state: copy it, change a field, share it between
// any number of goroutines. The zero Policy makes up to 3 attempts, with full
// jitter below 100 ms and then 200 ms between them.
//
// A Policy needs no constructor. [Policy.Do] reports every fault of a faulty one
// before the first attempt, and [Policy.Validate] reports them earlier.
type Policy struct {
	// Name appears in errors and hooks; name the dependency. Default: none.
	Name string

	// MaxAttempts bounds the attempts of one call, the first included.
	// Default 3. Negative is a fault.
	MaxAttempts int

	// Forever lifts the bound on attempts. Something else must end the call
	// then: without a deadline on the context, MaxElapsed or a Budget it is a
	// fault, and so is MaxAttempts beside it. Default: MaxAttempts applies.
	Forever bool

	// Backoff says how long to wait before each retry. Default [Exponential]{}.
	Backoff Backoff

	// MaxElapsed bounds the time in which attempts start, from the start of the
	// first one: none starts this late or later. It does not interrupt an
	// attempt that runs; a deadline on the context does. Default: no bound.
	// Negative is a fault.
	MaxElapsed time.Duration

	// AttemptTimeout bounds each attempt: its context ends after so long, with
	// the cause [ErrAttemptTimeout], and the failure that follows is retried.
	// It never outlasts the caller's deadline. A Transport stops counting when
	// the response headers have come, so that a streamed body may last longer.
	// Default: no bound. Negative is a fault.
	AttemptTimeout time.Duration

	// MaxRetryAfter is the longest wait that a dependency may ask for, by a
	// RetryAfter method of its error or by the Retry-After header. The backoff's
	// own wait comes on top, so that callers who were told the same do not come
	// back together. Where it asks for more, retrying stops at once. Default 1
	// minute. Negative is a fault.
	MaxRetryAfter time.Duration

	// Retryable reports whether an error is worth another attempt. It is not
	// asked about errors marked by [Permanent], about rejected calls (see
	// RetryRejected), about an [*Error] of a policy below that was not cut off, or
	// once the caller's context has ended. A Transport also asks it about responses, as
	// [*StatusError]. It runs between two attempts and may be called by several
	// goroutines. Default: every other error is.
	Retryable func(error) bool

	// RetryRejected retries calls that never reached the dependency: those whose
	// error has a method Rejected() bool that returns true, such as that of an
	// open breaker. The wait is at least the error's RetryAfter, so the call
	// stays until the breaker may admit it. Default: they are not retried.
	RetryRejected bool

	// AllowNested lets this policy retry inside an attempt of another policy
	// that is itself a retry. Three such layers turn one call into 27. Default:
	// such a policy tries once and leaves the rest to the one outside.
	AllowNested bool

	// Budget bounds the retries of all calls that share it; see [NewBudget].
	// Default: none for Do and Value; a Transport gives each host its own.
	Budget *Budget

	// OnRetry is called before each wait, with the context of the call. It must
	// be quick: the wait begins when it returns. Default: none.
	OnRetry func(context.Context, Attempt)

	// OnDone is called once at the end of each call that began, also when the
	// operation panicked. It costs two clock reads a call. Default: none.
	OnDone func(context.Context, Result)
}

const (
	defaultMaxAttempts   = 3
	defaultMaxRetryAfter = time.Minute
)

// Attempt describes a failed attempt that will be followed by another one.
type Attempt struct {
	Name   string        // the policy's
	Number int           // of the attempt that failed; 1 is the first try
	Delay  time.Duration // the wait that begins now
	Err    error         // why it failed; a *StatusError where a response is discarded, whose body may still be read
}

// Result describes a call that is over.
type Result struct {
	Name     string        // the policy's
	Attempts int           // made; 0 where the context had ended before
	Elapsed  time.Duration // from the start of the first attempt
	Reason   Reason        // why the call failed; empty where it succeeded
	Err      error         // of the last attempt; nil where it succeeded or none was made
}

// Validate reports every fault of the policy in one error that is
// [ErrPolicy], or nil. Do and Transport check by themselves; Validate is for
// who takes a Policy in a configuration and wants to refuse it at start-up.
// Whether Forever is bounded depends on each call's context and is not part of
// it.
func (p Policy) Validate() error {
	return p.fault(nil)
}

func (p *Policy) fault(more []string) error {
	faults := append(p.faults(), more...)
	if len(faults) == 0 {
		return nil
	}
	return &Error{Name: p.Name, Reason: ErrPolicy, Last: errors.New(strings.Join(faults, "; "))}
}

// check is what every call does first; it allocates only to report.
func (p *Policy) check(ctx context.Context, budget *Budget) error {
	if p.Forever && p.MaxElapsed == 0 && budget == nil {
		if _, bounded := ctx.Deadline(); !bounded {
			return p.fault([]string{"Forever needs a deadline on the context, MaxElapsed or a Budget"})
		}
	}
	if p.sound() {
		return nil
	}
	return p.fault(nil)
}

// sound says in a few nanoseconds what faults says in words.
func (p *Policy) sound() bool {
	if p.MaxAttempts < 0 || p.MaxElapsed < 0 || p.AttemptTimeout < 0 || p.MaxRetryAfter < 0 {
		return false
	}
	if p.Forever && p.MaxAttempts > 0 || p.Budget.unmade() {
		return false
	}
	if c, ok := p.Backoff.(Constant); ok {
		return c >= 0
	}
	return p.Backoff == nil || len(backoffFaults(p.Backoff)) == 0
}

func (p *Policy) faults() []string {
	var faults []string
	if p.MaxAttempts < 0 {
		faults = append(faults, fmt.Sprintf("MaxAttempts %d is negative", p.MaxAttempts))
	}
	if p.Forever && p.MaxAttempts > 0 {
		faults = append(faults, fmt.Sprintf("Forever and MaxAttempts %d contradict each other", p.MaxAttempts))
	}
	faults = negative(faults, "MaxElapsed", p.MaxElapsed)
	faults = negative(faults, "AttemptTimeout", p.AttemptTimeout)
	faults = negative(faults, "MaxRetryAfter", p.MaxRetryAfter)
	if p.Budget.unmade() {
		faults = append(faults, "Budget is not of NewBudget or NewThrottle")
	}
	return append(faults, backoffFaults(p.Backoff)...)
}

func negative(faults []string, field string, d time.Duration) []string {
	if d < 0 {
		return append(faults, fmt.Sprintf("%s %v is negative", field, d))
	}
	return faults
}

func (p *Policy) maxAttempts() int {
	if p.MaxAttempts == 0 {
		return defaultMaxAttempts
	}
	return p.MaxAttempts
}

func (p *Policy) maxRetryAfter() time.Duration {
	if p.MaxRetryAfter == 0 {
		return defaultMaxRetryAfter
	}
	return p.MaxRetryAfter
}

func (p *Policy) backoff(n int, previous time.Duration) time.Duration {
	switch b := p.Backoff.(type) {
	case nil:
		return Exponential{}.Delay(n, previous)
	case Constant: // one that does not wait retries in a few nanoseconds; the call through Backoff is a part of them
		return time.Duration(b)
	default:
		return max(b.Delay(n, previous), 0)
	}
}
