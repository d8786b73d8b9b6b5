package breaker

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/parley-go/parley/internal/retryafter"
)

// ClassifyStatus says what an HTTP status means for the dependency. 500, 502, 503,
// 504 and 429 are Failure: the server did not do its work, or asks to be left
// alone. Every other status is Success, 4xx included: the server is well and
// says that the request is not.
func ClassifyStatus(code int) Outcome {
	switch code {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Failure
	default:
		return Success
	}
}

// StatusError is the form in which a Transport shows a response with a status of
// 400 or above to Config.Classify. The caller of the Transport gets the response
// itself and a nil error. A guarded function that makes HTTP requests may return
// one, to the same effect.
type StatusError struct {
	Response *http.Response
}

// Error returns the status in words.
func (e *StatusError) Error() string {
	return fmt.Sprintf("breaker: response status %d %s", e.code(), http.StatusText(e.code()))
}

// RetryAfter returns how long the Retry-After header asks to stay away (RFC 9110
// §10.2.3), 0 if it does not.
func (e *StatusError) RetryAfter() time.Duration {
	if e.Response == nil {
		return 0
	}
	d, _ := retryafter.Parse(e.Response.Header, time.Now())
	return d
}

func (e *StatusError) code() int {
	if e.Response == nil {
		return 0
	}
	return e.Response.StatusCode
}

// Transport returns a RoundTripper that sends each request through next if b
// admits it; nil next is [http.DefaultTransport]. Else the error is an
// [*OpenError]; [http.Client] wraps it, so use errors.Is or errors.As. It is safe
// for concurrent use if next is.
//
// Errors of next are judged by Config.Classify with the context of the request,
// by default as [DefaultClassify] says; responses as [ClassifyStatus] says. A
// Retry-After header on the response that opens the breaker lengthens the open
// time. The outcome is booked when the headers have come or, with
// Config.WholeBody, when the body was read to its end, broke off or was closed.
// The request is not modified, and its body is always closed.
func (b *Breaker) Transport(next http.RoundTripper) http.RoundTripper {
	return newTransport(next, func(*http.Request) *Breaker { return b })
}

// Transport returns a RoundTripper that sends each request through next if the
// breaker of its key admits it; see [Breaker.Transport]. [Host] is a key for
// groups of strings. Without a key function every request fails.
func (g *Group[K]) Transport(next http.RoundTripper, key func(*http.Request) K) http.RoundTripper {
	if key == nil {
		return newTransport(next, nil)
	}
	return newTransport(next, func(req *http.Request) *Breaker { return g.Get(key(req)) })
}

// Host returns the host and port of a request's URL in lower case, as a key for
// [Group.Transport].
func Host(req *http.Request) string {
	if req.URL == nil {
		return ""
	}
	return strings.ToLower(req.URL.Host)
}

type transport struct {
	next http.RoundTripper
	pick func(*http.Request) *Breaker
}

func newTransport(next http.RoundTripper, pick func(*http.Request) *Breaker) *transport {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{next, pick}
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	ctx := req.Context()
	b, err := t.breaker(req)
	var p Permit
	if err == nil {
		p, err = b.Allow()
	}
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // what a RoundTripper owes; nobody wants to know
		}
		return nil, err
	}
	returned := false
	defer func() {
		p.Done(Failure) // does nothing but in a panic, since the first Done counts
		if !returned && resp != nil && resp.Body != nil {
			_ = resp.Body.Close() // a hook panicked, so nobody else will
		}
	}()
	resp, err = t.next.RoundTrip(req)
	verdict := err
	if err == nil && resp != nil && resp.StatusCode >= http.StatusBadRequest {
		verdict = &StatusError{resp}
	}
	o := b.classify(ctx, verdict)
	if o == Success && err == nil && b.set.WholeBody && streams(resp) {
		resp.Body = newBody(resp.Body, &p, func(err error) Outcome { return b.classify(ctx, err) })
	} else {
		p.done(o, verdict)
	}
	returned = true
	return resp, err
}

// breaker returns the breaker to ask about req.
func (t *transport) breaker(req *http.Request) (*Breaker, error) {
	if t.pick == nil {
		return nil, errNoKey
	}
	if ctx := req.Context(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return t.pick(req), nil
}

// CloseIdleConnections lets that of [http.Client] reach the transport below.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
