package bulkhead

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/parley-go/parley/internal/problem"
)

// Middleware returns a Handler that runs next with a slot of b, held until next
// returns. A request that gets none is answered with status 503, a Retry-After
// header and problem details (RFC 9457), without running next; 503 and not 429,
// since it is the service that has too much to do, not the client.
//
// An adaptive limit judges requests by their time alone. That includes the time
// in which next reads from and writes to its client, so that clients who are slow
// could lower the limit for all: keep it fixed where bodies are long.
func (b *Bulkhead) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := b.Acquire(r.Context())
		if err != nil {
			problem.Write(w, problem.Problem{
				Status:     http.StatusServiceUnavailable,
				Detail:     "The server handles as many requests as it can. Try again later.",
				RetryAfter: retryAfter,
			})
			return
		}
		defer p.Done(errUnfinished) // does nothing but in a panic, since the first Done counts
		next.ServeHTTP(w, r)
		p.Done(nil)
	})
}

// Transport returns a RoundTripper that sends each request through next with a
// slot of b; nil next is [http.DefaultTransport]. A request that gets none is not
// sent, and the error is that of [Bulkhead.Acquire]; [http.Client] wraps it, so
// use errors.Is or errors.As. It is safe for concurrent use if next is.
//
// The slot is held until the response body was read to its end, broke off or was
// closed: until then the dependency is at work, and the connection in use. A body
// that nobody closes holds its slot, as it holds its connection, for good. After
// 101 Switching Protocols the connection is the caller's; it is passed on as it
// is, and holds no slot.
//
// An adaptive limit judges requests by the time until the headers have come. The
// statuses 429 and 503 lower it, other statuses from 500 on leave it alone. The
// request is not modified, and its body is always closed.
func (b *Bulkhead) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{b, next}
}

type transport struct {
	bulkhead *Bulkhead
	next     http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	b := t.bulkhead
	p, err := b.Acquire(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // what a RoundTripper owes; nobody wants to know
		}
		return nil, err
	}
	defer p.Done(errUnfinished) // does nothing unless next or a method of its error panics
	resp, err := t.next.RoundTrip(req)
	v := b.httpVerdict(p.start, resp, err)
	p.bulkhead = nil
	if err != nil || !streams(resp) {
		b.settle(p.hold, v, true)
		return resp, err
	}
	if v != unknown {
		b.settle(p.hold, v, false)
	}
	resp.Body = &body{ReadCloser: resp.Body, bulkhead: b, hold: p.hold}
	return resp, nil
}

// CloseIdleConnections lets that of [http.Client] reach the transport below.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// httpVerdict judges a request whose headers have come, or that has failed.
func (b *Bulkhead) httpVerdict(start time.Duration, resp *http.Response, err error) verdict {
	if b.slow == 0 {
		return unknown
	}
	v := b.verdict(start, err)
	if v != good || resp == nil {
		return v
	}
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return overload
	case code >= http.StatusInternalServerError:
		return unknown
	default:
		return good
	}
}

// streams reports whether resp has a body whose end is to be waited for.
func streams(resp *http.Response) bool {
	return resp != nil && resp.Body != nil && resp.Body != http.NoBody &&
		resp.StatusCode != http.StatusSwitchingProtocols
}

// body frees the slot of a response when its body is over. Reading and closing
// may happen at the same time.
type body struct {
	io.ReadCloser
	once     sync.Once
	bulkhead *Bulkhead
	hold     hold
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

func (b *body) end() {
	b.once.Do(func() { b.bulkhead.settle(b.hold, unknown, true) })
}
