package retry

import "time"

// Permanent marks err as not worth another attempt, whatever the policy's
// Retryable says; Permanent(nil) is nil. The mark is found through wrapping, by
// every policy on the way out, and is otherwise transparent: text, errors.Is and
// errors.As are those of err.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// After marks err with the time that the dependency asked to be left alone: the
// wait before the next attempt is at least d, see MaxRetryAfter. A negative d counts as 0 for a
// Policy and stops further attempts of a [Hedge]; After(nil, d) is nil. Errors
// of other packages say the same by a method RetryAfter() time.Duration.
func After(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &afterError{err, d}
}

type afterError struct {
	error
	after time.Duration
}

func (e *afterError) Unwrap() error             { return e.error }
func (e *afterError) RetryAfter() time.Duration { return e.after }

// The methods by which an error says something, or what it wraps.
type (
	rejecter interface{ Rejected() bool }
	delayer  interface{ RetryAfter() time.Duration }
	wrapper  interface{ Unwrap() error }
	joined   interface{ Unwrap() []error }
)

// facts are what an error says about whether, and when, to try again. Four
// fields are what the compiler passes in registers; they are asked for at every
// failure.
type facts struct {
	permanent bool          // marked by Permanent
	givenUp   bool          // a policy below has tried already
	rejected  bool          // the dependency was never reached
	after     time.Duration // what RetryAfter said; 0 where nothing did
}

// final reports whether the error itself rules out another attempt, whatever a
// policy's Retryable thinks of it.
func (f facts) final(retryRejected bool) bool {
	return f.givenUp || f.permanent || f.rejected && !retryRejected
}

// factsOf reads err and all that it wraps, as errors.As would but in one walk
// and without its generic assertions: this is most of what a failed attempt
// costs. Of several RetryAfter methods the outermost counts.
func factsOf(err error) facts {
	// Nearly every error ends here: one look-up says that it has none of these
	// methods, and saves the four of the walk.
	switch err.(type) { //nolint:errorlint // the walk looks at what err wraps
	case *Error, *permanentError, rejecter, delayer, wrapper, joined:
		var w walk
		w.read(err)
		return w.facts
	}
	return facts{}
}

// walk collects the facts of an error from the outside in.
type walk struct {
	facts
	asked bool // a RetryAfter method has answered
}

func (w *walk) read(err error) {
	for err != nil {
		switch e := err.(type) { //nolint:errorlint // this is the walk through what err wraps
		case *Error:
			// A policy below that was cut off, by our AttemptTimeout for one, has
			// not given up.
			if e == nil || e.Reason != ErrCanceled {
				w.givenUp = true
				return
			}
		case *permanentError:
			w.permanent = true
		}
		if r, ok := err.(rejecter); ok && r.Rejected() {
			w.rejected = true
		}
		if d, ok := err.(delayer); ok && !w.asked {
			w.asked, w.after = true, d.RetryAfter()
		}
		switch u := err.(type) { //nolint:errorlint // see above
		case wrapper:
			err = u.Unwrap()
		case joined:
			for _, err := range u.Unwrap() {
				w.read(err)
			}
			return
		default:
			return
		}
	}
}
