package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
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

var (
	errIdle   = errors.New("gateway: nothing moved in either direction within the route's IdleTimeout")
	errTunnel = errors.New("gateway: the tunnel has lasted for the route's MaxTunnel")
)

// late reports whether the trip has ended by the route's Timeout.
func (t *trip) late() bool {
	_, late := errors.AsType[timeoutError](context.Cause(t))
	return late
}

// blameless reports whether an attempt that has failed says nothing of its target:
// the client did not send its body, or gave less time than the route does. Who
// may hurry the gateway must not be able to close a target for all others.
func (t *trip) blameless() bool {
	return t.starved.Load() || t.exchange.body.failure() != nil || t.hurried && t.late()
}

// trip is the way of one request to its upstream and back, and the context of
// that way. It ends by the route's Timeout only until the answer's headers have
// come, so that streams and tunnels may last, yet it names the deadline until
// then, so that a retry does not begin a wait that cannot pay. Afterwards it ends
// by silence.
type trip struct {
	context.Context //nolint:containedctx // it is a context itself
	deadline        time.Time

	route    *route
	upstream *pool
	exchange *exchange
	limits   limits    // that the client has set
	hurried  bool      // by these: it has less than the route grants
	told     [1]string // how long the first attempt has
	http1    bool      // by which the client speaks
	cancel   context.CancelCauseFunc
	client   http.ResponseWriter
	body     *replay  // nil where the request has none
	at       location // that the upstream sees
	url      url.URL  // likewise, but for the target
	trace    httptrace.ClientTrace
	hinting  sync.Mutex  // while an informational response passes, and for good once the final one has come
	telling  atomic.Bool // the client is being told of it, which may block
	tries    tries
	starved  atomic.Bool // an attempt ended while it waited for the client's body
	next     *trip       // of the same exchange
	finished bool
	first    addressed   // room for the request of the first attempt
	sent     atomic.Bool // first is in use

	answered atomic.Bool    // the headers have come
	mu       sync.Mutex     // for what follows
	timer    *time.Timer    // calls check
	over     bool           // guarded by mu: the timer is not set any more
	checks   sync.WaitGroup // until no check runs or will
}

type tripKey struct{}

// Deadline implements [context.Context].
func (t *trip) Deadline() (time.Time, bool) {
	d, ok := t.Context.Deadline()
	if !t.answered.Load() && (!ok || t.deadline.Before(d)) {
		return t.deadline, true
	}
	return d, ok
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
	t := &trip{route: rt, exchange: x, limits: limitsOf(r.Header), http1: r.ProtoMajor == 1, client: w}
	timeout := t.limits.cap(rt.Timeout)
	t.hurried = timeout < rt.Timeout
	t.deadline = time.Now().Add(timeout)
	t.Context, t.cancel = context.WithCancelCause(r.Context())
	if !x.enter(t) {
		t.exchange = newExchange(w, r, new(edge)) // nobody looks at it any more
		t.exchange.enter(t)
		t.cancel(context.Canceled)
	}
	t.checks.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock() // or check might run before timer is set
	t.timer = time.AfterFunc(timeout, t.check)
	return t
}

// check is what happens when the timer fires: the trip has lasted too long, or
// there is something later to wait for.
func (t *trip) check() {
	defer t.checks.Done()
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	again, cause := t.judge()
	if cause == nil {
		t.checks.Add(1)
		t.timer.Reset(again)
	}
	t.over = cause != nil
	t.mu.Unlock()
	if cause != nil {
		t.abort(cause)
		// A Write that waits for the client ends by its deadline alone.
		if x := t.exchange; x.tunnel.Load() == nil && (t.telling.Load() || t.answered.Load()) {
			_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Now())
		}
	}
}

// judge returns why the trip must end now, or when to ask again.
func (t *trip) judge() (again time.Duration, cause error) {
	if !t.answered.Load() {
		if again = time.Until(t.deadline); again <= 0 {
			return 0, timeoutError{}
		}
		return again, nil
	}
	if again = t.route.IdleTimeout - t.exchange.silence(); again <= 0 {
		return 0, errIdle
	}
	if t.route.MaxTunnel > 0 && t.exchange.tunnel.Load() != nil {
		left := t.route.MaxTunnel - time.Since(t.exchange.started)
		if left <= 0 {
			return 0, errTunnel
		}
		again = min(again, left)
	}
	return again, nil
}

// arrived notes that the headers have come, in time or not.
func (t *trip) arrived() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.answered.Store(true)
	t.exchange.move()
	first := t.route.IdleTimeout
	if m := t.route.MaxTunnel; m > 0 {
		first = min(first, m)
	}
	// Where the deadline is the earlier one, check finds out when to come again.
	if first < time.Until(t.deadline) && t.timer.Stop() {
		t.timer.Reset(first)
	}
	return true
}

// abort ends the trip at once. A Read that waits for the client is broken off as
// well, since the transport waits for it before it gives up.
func (t *trip) abort(cause error) {
	x := t.exchange
	if x.body.unfinished() && x.body.waiting.Load() && !t.answered.Load() {
		t.starved.Store(true)
	}
	t.cancel(cause)
	x.body.stop(broken)
	if tunnel := x.tunnel.Load(); tunnel != nil {
		_ = tunnel.SetDeadline(time.Now())
	}
}

// sheet returns room for the request of an attempt.
func (t *trip) sheet() *addressed {
	if t.sent.CompareAndSwap(false, true) {
		return &t.first
	}
	return new(addressed)
}

// send sends one attempt. Should its own time end while it waits for the client,
// that is the client's failure, and the Read has to end for the attempt to end.
func (t *trip) send(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	if body := t.exchange.body; body.unfinished() {
		defer t.when(req.Context(), func() {
			if body.waiting.Load() && !t.answered.Load() && t.Err() == nil {
				t.starved.Store(true)
				body.stop(broken)
			}
		})()
	}
	return next.RoundTrip(req)
}

// when calls f once ctx ends, unless it is told to stop before. The end of the
// trip waits for f.
func (t *trip) when(ctx context.Context, f func()) (stop func()) {
	t.checks.Add(1)
	still := context.AfterFunc(ctx, func() {
		defer t.checks.Done()
		f()
	})
	return func() {
		if still() {
			t.checks.Done()
		}
	}
}

// finish ends the trip and whatever is still under way for it. It waits for
// check, whose deadlines must not meet the connection's next request. It may be
// called again.
func (t *trip) finish() {
	if t.finished {
		return
	}
	t.finished = true
	t.mu.Lock()
	t.over = true
	if t.timer.Stop() {
		t.checks.Done()
	}
	t.mu.Unlock()
	t.cancel(nil)
	t.checks.Wait()
	if t.body != nil {
		t.body.end()
	}
	t.tries.end()
	t.exchange.leave(t)
}
