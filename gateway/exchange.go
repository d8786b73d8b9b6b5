package gateway

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// exchange is one request and its answer: the ResponseWriter that everything
// behind the gateway writes to, the context of it all, and what the access log
// will say.
type exchange struct {
	http.ResponseWriter
	context.Context //nolint:containedctx // it is a context itself
	origin
	started time.Time
	id      [1]string   // an array, to be the value of a header
	body    *clientBody // nil where the request has none

	status  int
	written atomic.Int64           // bytes of the body, or of a tunnel towards the client
	moved   atomic.Int64           // when bytes last moved in either direction, since started
	tunnel  atomic.Pointer[tunnel] // the hijacked connection; nil elsewhere
	tunnels *tunnels               // of the gateway; nil in an exchange that no gateway knows
	url     url.URL                // of the request within
	log     slog.Handler           // of its route; nil before that is found
	split   bool                   // the route has several upstreams

	mu    sync.Mutex
	story       // guarded by mu: middleware may forward twice at once
	over  bool  // guarded by mu: no trip begins any more
	trips *trip // guarded by mu: those that have not ended, linked by next
	live  sync.WaitGroup
}

// story is what the access log tells of the trips; of several the last word counts.
type story struct {
	upstream string
	target   string
	attempts int
	fallback bool
	err      error // why the upstream's answer is not the client's
}

// tell adds to the story.
func (x *exchange) tell(add func(*story)) {
	x.mu.Lock()
	add(&x.story)
	x.mu.Unlock()
}

func newExchange(w http.ResponseWriter, r *http.Request, e *edge) *exchange {
	x := &exchange{ResponseWriter: w, Context: r.Context(), started: time.Now(), origin: e.trusted.origin(r)}
	x.id[0] = requestID(r.Header, x.proxied)
	if r.Body != nil && r.Body != http.NoBody {
		x.body = &clientBody{ReadCloser: r.Body, x: x}
	}
	return x
}

type exchangeKey struct{}

// Value implements [context.Context].
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return x.Context.Value(key)
}

// exchangeOf returns the exchange that r belongs to: one of its own, which no log
// will know, where a middleware of the route has replaced the request's context
// by one that does not come from it.
func exchangeOf(w http.ResponseWriter, r *http.Request) *exchange {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return newExchange(w, r, new(edge))
}

// move notes that bytes have moved.
func (x *exchange) move() { x.moved.Store(int64(time.Since(x.started))) }

// silence is for how long none have.
func (x *exchange) silence() time.Duration {
	return time.Since(x.started) - time.Duration(x.moved.Load())
}

// enter makes t a trip of the exchange, unless that is over.
func (x *exchange) enter(t *trip) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false
	}
	x.live.Add(1)
	t.next, x.trips = x.trips, t
	return true
}

// leave is what a trip does at its end.
func (x *exchange) leave(t *trip) {
	x.mu.Lock()
	for at := &x.trips; *at != nil; at = &(*at).next {
		if *at == t {
			*at = t.next
			break
		}
	}
	x.mu.Unlock()
	x.live.Done()
}

// end ends what middleware has left behind: a trip that it waits for no longer,
// as [http.TimeoutHandler] does, would use the connection when it belongs to the
// next request already.
func (x *exchange) end() {
	x.mu.Lock()
	x.over = true
	var left []*trip
	for t := x.trips; t != nil; t = t.next {
		left = append(left, t)
	}
	x.mu.Unlock()
	for _, t := range left {
		t.abort(context.Canceled)
	}
	if len(left) > 0 {
		x.outlast()
	}
	x.live.Wait()
	x.body.stop(stopped)
}

// outlast waits until what has been aborted has ended. A deadline would end a
// Write to the client at once, but most middleware that leaves something behind
// has let it write elsewhere, and its own answer still has to be sent.
func (x *exchange) outlast() {
	cut := make(chan struct{})
	timer := time.AfterFunc(lingerTimeout, func() {
		defer close(cut)
		_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Now())
	})
	x.live.Wait()
	if !timer.Stop() {
		<-cut // the deadline must not meet the connection's next request
	}
}

// WriteHeader implements [http.ResponseWriter].
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	n, err := x.ResponseWriter.Write(p)
	if n > 0 {
		x.written.Add(int64(n))
		x.move()
	}
	return n, err
}

// Unwrap lets [http.ResponseController] reach the server's own writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// Flush implements [http.Flusher] for handlers that ask for it by assertion.
func (x *exchange) Flush() { _ = x.FlushError() }

// FlushError is what [http.ResponseController] calls.
func (x *exchange) FlushError() error {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack implements [http.Hijacker].
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	x.status = http.StatusSwitchingProtocols
	t := &tunnel{Conn: conn, early: buffered.Reader, x: x}
	x.tunnel.Store(t)
	if !x.tunnels.add(t) {
		_ = conn.Close() // Close has begun since the request came
	}
	return t, buffered, nil
}

// close ends what the gateway knows of a tunnel, once its handler has returned.
func (x *exchange) close() {
	if t := x.tunnel.Load(); t != nil {
		x.tunnels.remove(t)
	}
}
