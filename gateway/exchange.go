package gateway

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// exchange is one request and its answer: the ResponseWriter that everything
// behind the gateway writes to, and what the access log will say.
type exchange struct {
	http.ResponseWriter
	started time.Time
	id      []string    // as the value of a header, which several share
	body    *clientBody // nil where the request has none

	status   int
	written  atomic.Int64 // bytes of the body, or of a tunnel towards the client
	tunnels  *tunnels     // of the gateway; nil in an exchange that no gateway knows
	tunnel   *tunnel      // what was hijacked
	hijacked bool
	upstream string
	target   string
	attempts int
	fallback bool
	err      error // why the upstream's answer is not the client's
}

func newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{ResponseWriter: w, started: time.Now(), id: []string{requestID(r.Header)}}
	if r.Body != nil && r.Body != http.NoBody {
		x.body = &clientBody{ReadCloser: r.Body}
	}
	return x
}

type exchangeKey struct{}

// exchangeOf returns the exchange that r belongs to: one of its own, which no log
// will know, where a middleware of the route has replaced the request's context
// by one that does not come from it.
func exchangeOf(w http.ResponseWriter, r *http.Request) *exchange {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{ResponseWriter: w, started: time.Now(), id: []string{requestID(r.Header)}}
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
	x.written.Add(int64(n))
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
	x.status, x.hijacked = http.StatusSwitchingProtocols, true
	x.tunnel = &tunnel{Conn: conn, early: buffered.Reader, written: &x.written}
	if !x.tunnels.add(x.tunnel) {
		_ = conn.Close() // Close has begun since the request came
	}
	return x.tunnel, buffered, nil
}

// close ends what the gateway knows of a tunnel, once its handler has returned.
func (x *exchange) close() {
	if x.tunnel != nil {
		x.tunnels.remove(x.tunnel)
	}
}

// tunnel is a hijacked connection. Reading from it begins with the bytes that
// the client sent right behind its request, which the server has read already.
type tunnel struct {
	net.Conn
	early   *bufio.Reader
	written *atomic.Int64
}

// Read implements [net.Conn].
func (t *tunnel) Read(p []byte) (int, error) {
	if n := t.early.Buffered(); n > 0 {
		return t.early.Read(p[:min(n, len(p))])
	}
	return t.Conn.Read(p)
}

// Write implements [net.Conn].
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.written.Add(int64(n))
	return n, err
}

// CloseWrite passes on that one side has said all it will say, where the
// connection can.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}
