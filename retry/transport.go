package retry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/parley-go/parley/internal/retryafter"
)

// Transport returns a RoundTripper that sends each request through next under
// the policy; nil next is [http.DefaultTransport]. It is safe for concurrent
// use if next is.
//
// Repeated are GET, HEAD, OPTIONS, TRACE, PUT and DELETE (the idempotent methods
// of RFC 9110 §9.2.2), any request with an Idempotency-Key or X-Idempotency-Key
// header, and any request whose connection could not be dialled, since then
// nothing was sent. A body must be replayable through GetBody, which
// [http.NewRequest] sets for bodies in memory; any other body is sent once.
//
// Retried are errors of next, save a failed certificate verification and what a
// Policy never retries, and the statuses 429, 502, 503 and 504. A Policy with
// Retryable decides itself about errors and, as [*StatusError], about 429 and
// every 5xx but 501. Other responses are never retried.
//
// Retry-After (RFC 9110 §10.2.3) is waited for, and the backoff's wait on top, so
// that clients who were told the same do not come back together. Where it asks
// for more than MaxRetryAfter or than the request's deadline leaves, the response
// is returned at once. Whenever retrying ends on a response, the caller gets that
// response as it is, with its body open and a nil error. Every other response is
// drained, up to 64 KiB and 50 ms, and closed, before the wait.
//
// The request is not modified and its body is closed exactly once. The first
// attempt sends the request itself, later ones a copy whose context carries
// their number.
//
// Unless the policy has a Budget, each host, by the URL, has a budget of its own
// with the defaults of [BudgetConfig]; hosts after the first 1,024 share one.
func (p Policy) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	t := &transport{policy: p, next: next}
	if p.Budget == nil {
		t.hosts = newHostBudgets()
	}
	return t
}

// StatusError is what Retryable and the hooks of a Policy see of a response that
// may be retried. The caller of a RoundTripper meets it only inside an [*Error],
// where the request ended after the response had been discarded.
type StatusError struct {
	// Response is the response. OnRetry may read its body, which is discarded
	// next; Retryable must not, since the caller may yet get it.
	Response *http.Response
}

// Error returns the status in words.
func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("retry: response status %d %s", e.Response.StatusCode, http.StatusText(e.Response.StatusCode)))
}

// RetryAfter returns how long the response asks to stay away, 0 where it does
// not ask.
func (e *StatusError) RetryAfter() time.Duration {
	d, _ := retryafter.Parse(e.Response.Header, time.Now())
	return d
}

// errNoResponse is the failure of a RoundTripper that breaks its contract.
var errNoResponse = errors.New("retry: the RoundTripper below returned neither a response nor an error")

type transport struct {
	policy Policy
	next   http.RoundTripper
	hosts  *hostBudgets // nil where the policy has a Budget
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	p := &t.policy
	c := call{budget: p.Budget}
	if t.hosts != nil {
		c.budget = t.hosts.of(req.URL)
	}
	if err := p.begin(ctx, &c); err != nil {
		closeBody(req.Body)
		return nil, err
	}
	var resp *http.Response
	var body io.ReadCloser // of the next attempt, until it is sent
	returned := false
	defer func() {
		if resp != nil && !returned { // a hook panicked: nobody else will close it
			closeBody(resp.Body)
		}
	}()
	defer func() {
		closeBody(body)
		p.end(ctx, &c)
		returned = c.reason != ErrPanicked
	}()
	send := req // the first attempt sends the request itself, and next closes its body
	c.next(ctx)
	for {
		var err error
		resp, err = t.send(send)
		failure := t.failure(resp, err)
		if failure == nil {
			c.over(resp.StatusCode < 500)
			return resp, nil
		}
		if !t.repeatable(req, err) {
			c.failed(failure)
			return p.give(ctx, &c, resp, ErrNotRetryable)
		}
		// Before anything is decided or announced, let alone the response let go
		// of: without a body there is no other attempt.
		if body, err = replay(req); err != nil {
			c.failed(fmt.Errorf("%w; request body cannot be replayed: %w", failure, err))
			return p.give(ctx, &c, resp, ErrNotRetryable)
		}
		d, stop := p.again(ctx, &c, failure)
		if stop != "" {
			return p.give(ctx, &c, resp, stop)
		}
		if stop = p.announce(ctx, &c, d); stop == ErrDeadline {
			return p.give(ctx, &c, resp, stop)
		}
		discard(resp)
		resp = nil
		if stop = p.barred(ctx, &c, d); stop == "" { // draining may have taken its time
			stop = p.wait(ctx, &c, d)
		}
		if stop != "" {
			return nil, p.err(ctx, &c, stop)
		}
		send = req.WithContext(c.next(ctx)) // a copy; headers stay shared, nobody below may change them
		send.Body, body = body, nil
	}
}

// give ends a call for the reason, with a response where the last attempt brought
// one.
func (p *Policy) give(ctx context.Context, c *call, resp *http.Response, reason Reason) (*http.Response, error) {
	if resp != nil {
		c.reason = reason
		return resp, nil
	}
	return nil, p.err(ctx, c, reason)
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] reach the
// transport below. The transport never calls it by itself: its connections
// belong to all who share it.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// send makes one attempt. AttemptTimeout ends it only until the headers have
// come; the context of the attempt then lives until the body is closed.
func (t *transport) send(req *http.Request) (*http.Response, error) {
	if t.policy.AttemptTimeout == 0 {
		return t.roundTrip(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(t.policy.AttemptTimeout, func() { cancel(ErrAttemptTimeout) })
	resp, err := t.roundTrip(req.WithContext(ctx))
	if !timer.Stop() && err == nil {
		// The headers came at the last moment, and the body will be cut off.
		closeBody(resp.Body)
		err = ErrAttemptTimeout
	}
	if err != nil {
		err = markTimeout(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = releaseAfter(resp.Body, func() { cancel(nil) })
	return resp, nil
}

// roundTrip is next.RoundTrip for a next that may break its contract: it returns
// either a response or an error.
func (t *transport) roundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	switch {
	case resp == nil && err == nil:
		return nil, errNoResponse
	case resp != nil && err != nil:
		closeBody(resp.Body)
		return nil, err
	}
	return resp, err
}

// failure returns what may be retried of an attempt's outcome as an error, nil
// where there is nothing.
func (t *transport) failure(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	switch code := resp.StatusCode; code {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	case http.StatusNotImplemented:
		return nil
	default:
		if t.policy.Retryable == nil || code < 500 || code > 599 {
			return nil
		}
	}
	return &StatusError{resp}
}

// repeatable reports whether req may be sent a second time after err, nil for a
// response.
func (t *transport) repeatable(req *http.Request, err error) bool {
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && t.policy.Retryable == nil {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	if req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != "" {
		return true
	}
	// Without a connection nothing has been sent. The operation "dial" is that
	// of net.Dialer, and "proxyconnect" what net/http makes of it where a proxy
	// was dialled; an error after the connection stood has another one.
	dial, ok := errors.AsType[*net.OpError](err)
	return ok && (dial.Op == "dial" || dial.Op == "proxyconnect")
}

// replay returns the body for another attempt.
func replay(req *http.Request) (io.ReadCloser, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req.Body, nil
	}
	return req.GetBody()
}
