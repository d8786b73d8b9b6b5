package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
)

// addressed is a request and its URL, in one piece.
type addressed struct {
	http.Request
	url url.URL
}

// address makes out the copy of req that goes to the target, under the name of host
// if that is not empty.
func (i *Instance) address(out *addressed, req *http.Request, host string) *http.Request {
	*out = addressed{*req, *req.URL}
	u := &out.url
	u.Scheme, u.Host = i.url.Scheme, i.url.Host
	if i.url.Path != "" {
		// Both are escaped if one is, so that the two forms go on to agree.
		if u.RawPath != "" || i.url.RawPath != "" {
			u.RawPath = i.url.EscapedPath() + u.EscapedPath()
		}
		u.Path = i.url.Path + u.Path
	}
	out.URL, out.Host = u, host
	return &out.Request
}

// classify is the default of a gateway's breakers.
func classify(ctx context.Context, err error) breaker.Outcome {
	o := breaker.DefaultClassify(ctx, err)
	if _, stray := errors.AsType[*strayError](err); stray {
		return breaker.Ignored
	}
	if s, ok := errors.AsType[*breaker.StatusError](err); ok && s.Response != nil && o == breaker.Failure {
		return outcomeOf(ctx, s.Response.StatusCode)
	}
	return o
}

// outcomeOf says what a status tells about the target. What one client has
// brought about must not close the way for the others: a 429 is an answer to it
// about its own requests, and a 504 may mean no more than that it was in a hurry.
func outcomeOf(ctx context.Context, status int) breaker.Outcome {
	switch status {
	case http.StatusTooManyRequests:
		return breaker.Success
	case http.StatusGatewayTimeout:
		if t := tripOf(ctx); t != nil && t.hurried {
			return breaker.Ignored
		}
	}
	return breaker.ClassifyStatus(status)
}

var errNothing = errors.New("gateway: what Wrap returned gave neither a response nor an error")

// strayError is what an attempt returns that was cancelled by another request. The
// transport gives back the connection of an answer without a body before the
// request learns of it; is that request cancelled just then, it closes the
// connection under the next one. Nobody's target is to blame, and a retry helps.
type strayError struct{ err error } // not to be unwrapped: this request was not cancelled

func (e *strayError) Error() string {
	return "gateway: the connection was closed by the end of another request: " + e.err.Error()
}

// tooLargeForTarget is what net/http says, and says in no other way, where the
// header is larger than an HTTP/2 target has announced that it takes.
const tooLargeForTarget = "request header list larger than peer's advertised limit"

var errHeader = errors.New("gateway: the header is larger than the target takes; nothing was sent")

// ends reports whether err is what ends requests.
func ends(err error) bool {
	_, late := errors.AsType[timeoutError](err)
	return late || errors.Is(err, context.Canceled) || errors.Is(err, retry.ErrLost) || errors.Is(err, errIdle)
}

// innermost stands right before what Wrap made of the transport. It notes what
// is really sent, tells the breaker when it was the client who failed, and makes
// up for what Wrap owes by the contract of a RoundTripper.
type innermost struct {
	target string
	next   http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (i *innermost) RoundTrip(req *http.Request) (*http.Response, error) {
	t := tripOf(req.Context())
	t.exchange.tell(func(s *story) { s.attempts, s.target = s.attempts+1, i.target })
	resp, err := t.send(req, i.next)
	if err != nil && t.blameless() {
		return nil, &clientFailure{err}
	}
	if err != nil && strings.Contains(err.Error(), tooLargeForTarget) {
		return nil, &clientFailure{errHeader}
	}
	if err != nil && req.Context().Err() == nil && ends(err) {
		return nil, &strayError{err}
	}
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errNothing
	}
	if resp.Body == nil { // which those above would trip over
		resp.Body = http.NoBody
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	return resp, nil
}
