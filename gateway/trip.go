package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// timeoutError is the cause by which a trip ends at the route's Timeout. That it
// is a timeout tells the breaker a deadline from a client who left.
type timeoutError struct{}

func (timeoutError) Error() string {
	return "gateway: the upstream did not answer within the route's Timeout"
}

func (timeoutError) Timeout() bool { return true }

// late reports whether the trip has ended by the route's Timeout.
func (t *trip) late() bool {
	_, late := errors.AsType[timeoutError](context.Cause(t))
	return late
}

// trip is the way of one request to its upstream and back, and the context of
// that way. It ends by the route's Timeout only until the answer's headers have
// come, so that streams and tunnels may last, yet it names the deadline, so that
// a retry does not begin a wait that cannot pay.
type trip struct {
	context.Context //nolint:containedctx // it is a context itself
	deadline        time.Time

	route    *route
	exchange *exchange
	http1    bool // by which the client speaks
	cancel   context.CancelCauseFunc
	timer    *time.Timer    // calls expire
	expiry   sync.WaitGroup // until expire has run or cannot run any more
	answer   answer
	body     *replay     // nil where the request has none
	path     string      // that the upstream sees
	rawPath  string      // the same, escaped
	starved  atomic.Bool // the deadline found it waiting for the client's body
	tunnel   io.Closer   // the connection of a 101; nil elsewhere
	err      error       // why there is no answer

	upstream *pool // that the trip leads to
	tries    tries
}

type tripKey struct{}

// Deadline implements [context.Context].
func (t *trip) Deadline() (time.Time, bool) {
	d, ok := t.Context.Deadline()
	if !ok || t.deadline.Before(d) {
		return t.deadline, true
	}
	return d, true
}

// Value implements [context.Context].
func (t *trip) Value(key any) any {
	if key == (tripKey{}) {
		return t
	}
	return t.Context.Value(key)
}

func tripOf(ctx context.Context) *trip {
	t, _ := ctx.Value(tripKey{}).(*trip)
	return t
}

// begin starts the trip of r, whose answer goes to w.
func begin(w http.ResponseWriter, r *http.Request, x *exchange, rt *route) *trip {
	t := &trip{deadline: time.Now().Add(rt.Timeout), route: rt, upstream: rt.upstream, exchange: x, http1: r.ProtoMajor == 1, answer: answer{ResponseWriter: w}}
	t.Context, t.cancel = context.WithCancelCause(r.Context())
	t.expiry.Add(1)
	t.timer = time.AfterFunc(rt.Timeout, t.expire)
	return t
}

// expire is what happens at the deadline. A Read from the client must be broken
// off as well: the transport waits for it before it gives up.
func (t *trip) expire() {
	defer t.expiry.Done()
	t.starved.Store(t.exchange.body != nil && t.exchange.body.waiting.Load())
	t.cancel(timeoutError{})
	if t.exchange.body.unfinished() {
		_ = http.NewResponseController(t.exchange.ResponseWriter).SetReadDeadline(time.Now())
	}
}

// stop keeps expire from running. It returns false where expire has begun.
func (t *trip) stop() bool {
	stopped := t.timer.Stop()
	if stopped {
		t.expiry.Done()
	}
	return stopped
}

// finish ends the trip and whatever is still under way for it. It waits for
// expire, whose deadline must not meet the connection's next request.
func (t *trip) finish() {
	t.stop()
	t.cancel(nil)
	t.expiry.Wait()
	t.tries.end()
}
