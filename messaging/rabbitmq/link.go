package rabbitmq

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

const (
	firstDelay = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
	// stable is how long a session must have lived for its end to count as the
	// first failure rather than one more.
	stable = time.Second
)

// backoff returns how long to wait before the next try after n failures in a
// row: nothing at first, then a random part of a bound that doubles, so that the
// services of a fleet do not all return at once.
func backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	bound := maxBackoff
	if n < 6 { // 200 ms doubled five times is past the bound
		bound = min(bound, firstDelay<<(n-1))
	}
	return rand.N(bound) + 1
}

// failuresAfter counts on from n when a session ends that lived for d.
func failuresAfter(n int, d time.Duration) int {
	if d >= stable {
		return 1
	}
	return n + 1
}

// A session is something open on the broker that can be lost.
type session interface {
	// lost is closed when the session can no longer be used.
	lost() <-chan struct{}
	// shut ends the session and begins to free what it holds.
	shut()
	// cut frees it without asking the broker.
	cut()
}

// A link keeps at most one session open, for all who need it. The first to find
// none opens it; the others wait for the same attempt.
type link[S session] struct {
	broker *Broker
	what   string
	open   func(context.Context) (S, error)

	mu       sync.Mutex
	attempt  *attempt[S] // the latest; guarded by mu
	failures int         // in a row; guarded by mu
}

// An attempt is one try to open a session. Its fields are set when ready is
// closed, and do not change after that.
type attempt[S session] struct {
	ready   chan struct{}
	session S
	err     error
	since   time.Time
}

// get returns the open session. It waits for one until ctx ends or the Broker
// closes, and returns at once the errors that waiting cannot mend.
func (l *link[S]) get(ctx context.Context) (S, error) {
	var none S
	var last error
	for {
		a := l.current(ctx)
		select {
		case <-a.ready:
		case <-ctx.Done():
			return none, noSession(context.Cause(ctx), last)
		case <-l.broker.closing:
			return none, noSession(messaging.ErrClosed, last)
		}
		if a.err == nil && !isClosed(a.session.lost()) {
			return a.session, nil
		}
		if permanent(a.err) {
			return none, a.err
		}
		last = a.err
	}
}

// noSession returns cause, and tells what stood in the way until then.
func noSession(cause, last error) error {
	if last == nil {
		return cause
	}
	return fmt.Errorf("%w (no connection: %v)", cause, last) //nolint:errorlint // the call failed because it ended; last is only told
}

// current returns the attempt to wait for: the latest, or a new one when that
// failed or its session was lost.
func (l *link[S]) current(ctx context.Context) *attempt[S] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.attempt; a != nil {
		switch {
		case !isClosed(a.ready):
			return a
		case a.err != nil:
			l.failures++
		case isClosed(a.session.lost()):
			l.failures = failuresAfter(l.failures, time.Since(a.since))
		default:
			return a
		}
	}
	a := &attempt[S]{ready: make(chan struct{})}
	delay := backoff(l.failures)
	l.broker.workers.Go(func() {
		defer close(a.ready)
		l.try(ctx, a, delay)
	})
	l.attempt = a
	return a
}

// try waits for delay and opens a session. It goes on when the caller that began
// it has left, because others may wait for it.
func (l *link[S]) try(ctx context.Context, a *attempt[S], delay time.Duration) {
	ctx, cancel := l.broker.untilClosed(context.WithoutCancel(ctx))
	defer cancel()
	if a.err = pause(ctx, delay); a.err != nil {
		return
	}
	log := l.broker.set.Logger.With(slog.String("purpose", l.what))
	a.session, a.err = l.open(ctx)
	a.since = time.Now()
	switch {
	case a.err == nil:
		log.Debug("rabbitmq: connected")
	case ctx.Err() == nil:
		log.Warn("rabbitmq: cannot connect", slog.Any("err", a.err))
	}
}

// last returns the latest session once its attempt has ended, if there is one.
// It is for Close, after which no other attempt begins.
func (l *link[S]) last() (s S, ok bool) {
	l.mu.Lock()
	a := l.attempt
	l.mu.Unlock()
	if a == nil {
		return s, false
	}
	<-a.ready
	return a.session, a.err == nil
}

// pause waits for d, or returns the cause when ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
