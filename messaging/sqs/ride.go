package sqs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/parley-go/parley/messaging"
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	// answerTimeout bounds one request, with the repeats that the SDK makes of it,
	// beside the time that it is asked to wait.
	answerTimeout = 30 * time.Second
)

// A request carries calls out in one batch request. It returns for each nil or what
// the service has against it; or why the request as a whole failed.
type request[E any] func(ctx context.Context, calls []*call[E]) ([]*fault, error)

// ride finishes calls: it repeats what the service could not do for the moment, until
// ctx ends because nobody waits any more. What an answer names as failed fails
// alone, and what is refused as a whole is tried one by one. Of calls in order, none is
// repeated whose successor has passed it.
func ride[E any](ctx context.Context, b *Broker, f *flight, calls []*call[E], ordered bool, do request[E]) {
	unclear := f.maybe.Load() // a request before this one may have been carried out
	for n := 0; len(calls) > 0; n++ {
		if n > 0 && pause(ctx, backoff(n)) != nil {
			finish(calls, f.why(context.Cause(ctx)))
			return
		}
		f.maybe.Store(true)
		limited, cancel := context.WithTimeoutCause(ctx, answerTimeout, errSilent)
		faults, err := do(limited, calls)
		cancel()
		if err == nil {
			calls, err = sift(calls, faults, ordered)
		} else {
			unclear = unclear || !unsent(err)
			if ctx.Err() != nil {
				finish(calls, f.why(context.Cause(ctx)))
				return
			}
			why := permanent(err)
			if len(calls) > 1 && (errors.Is(why, messaging.ErrInvalid) || errors.Is(why, messaging.ErrTooLarge)) {
				// One entry may have spoiled it for callers that know nothing of each other.
				f.maybe.Store(unclear)
				for i := range calls {
					ride(ctx, b, f, calls[i:i+1], ordered, do)
				}
				return
			}
			if why != nil {
				finish(calls, why)
				return
			}
		}
		if len(calls) > 0 {
			err = told(err)
			f.last.Store(&err)
			f.maybe.Store(unclear)
			b.set.Logger.Warn("sqs: request failed, it is made again", slog.Any("err", err))
		}
	}
}

// errSilent is the cause with which a request ends that is not answered.
const errSilent messaging.Reason = "SQS does not answer"

// sift finishes the calls that an answer has decided, and returns the others and
// why one of them was not carried out.
func sift[E any](calls []*call[E], faults []*fault, ordered bool) (again []*call[E], why error) {
	passed := map[string]bool{} // lanes of which a later call was taken
	for i := len(calls) - 1; i >= 0; i-- {
		c, f := calls[i], faults[i]
		switch {
		case f == nil:
			passed[c.lane] = true
			c.finish(nil)
		case f.reason() != nil:
			c.finish(f.reason())
		case ordered && passed[c.lane]:
			c.finish(fmt.Errorf("%w: %s: %s; it is not sent again by itself, behind what followed it", messaging.ErrRefused, f.code, f.text))
		default:
			again = append(again, c)
			why = fmt.Errorf("%w: %s: %s", messaging.ErrRefused, f.code, f.text)
		}
	}
	slices.Reverse(again)
	return again, why
}

func finish[E any](calls []*call[E], err error) {
	for _, c := range calls {
		c.finish(err)
	}
}

// backoff returns how long to wait after n failures in a row: a random part of a
// time that doubles, so that those who failed together do not come together.
func backoff(n int) time.Duration {
	d := firstPause
	for ; n > 1 && d < maxPause; n-- {
		d *= 2
	}
	d = min(d, maxPause)
	return d/2 + rand.N(d/2)
}

// pause waits for d, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
