package breaker

import (
	"context"
	"errors"
	"slices"
)

// Outcome is what a finished call says about the dependency.
type Outcome uint8

const (
	// Success means that the dependency did its work, if only by saying no.
	Success Outcome = iota
	// Failure means that the dependency did not do its work. Any value that is
	// no constant of this package counts as Failure.
	Failure
	// Ignored means that the call says nothing about the dependency: it counts
	// neither way, and a probe frees its slot for another one.
	Ignored
)

// String returns the outcome as a word, fit to be a label of a metric.
func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Ignored:
		return "ignored"
	default:
		return "failure"
	}
}

// DefaultClassify is what a Config without Classify does. In this order:
//
//	nil                                             Success
//	err, or one it wraps, has Rejected() and does   Ignored, the call never got there
//	ctx was cancelled                               Ignored, the caller left
//	err is a *StatusError                           as ClassifyStatus says
//	any other error                                 Failure
//
// Whether the caller left is read from ctx and not from err, since a context
// that was cancelled with a cause shows up as that cause. A deadline of ctx that
// passes while the call runs is a Failure: a dependency that never answers shows
// itself in no other way. A context counts as ended by its deadline if its error
// is [context.DeadlineExceeded] or its cause has a method Timeout() bool that
// returns true. See [IgnoreDeadlines] for callers who choose their own deadlines.
func DefaultClassify(ctx context.Context, err error) Outcome {
	switch {
	case err == nil:
		return Success
	case rejected(err), cancelled(ctx):
		return Ignored
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		return ClassifyStatus(s.code())
	}
	return Failure
}

// IgnoreDeadlines is a Config.Classify that differs from [DefaultClassify] in
// one point: a call whose context has ended for any reason is Ignored. It is for
// services whose callers, as strangers, choose the deadlines: they could open
// the breaker for everybody by leaving no time. It needs a timeout of the
// service's own inside the guarded function, or it will not notice a dependency
// that never answers.
func IgnoreDeadlines(ctx context.Context, err error) Outcome {
	if err != nil && ctx != nil && ctx.Err() != nil {
		return Ignored
	}
	return DefaultClassify(ctx, err)
}

// rejected reports whether err, or anything that it wraps, says that the call
// never reached the dependency, as the errors of breakers, bulkheads and limiters
// do. Retry policies read it the same way: one that says no hides no other.
func rejected(err error) bool {
	for err != nil {
		if r, ok := err.(interface{ Rejected() bool }); ok && r.Rejected() {
			return true
		}
		switch u := err.(type) { //nolint:errorlint // this is the walk through what err wraps
		case interface{ Unwrap() error }:
			err = u.Unwrap()
		case interface{ Unwrap() []error }:
			return slices.ContainsFunc(u.Unwrap(), rejected)
		default:
			return false
		}
	}
	return false
}

// cancelled reports whether ctx has ended, other than by a deadline.
func cancelled(ctx context.Context) bool {
	if ctx == nil || ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return false
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](context.Cause(ctx))
	return !ok || !t.Timeout()
}
