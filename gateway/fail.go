package gateway

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/parley-go/parley/internal/problem"
	"github.com/parley-go/parley/retry"
)

// statusClientGone is what the log says where the client left before its answer;
// nginx made the number common.
const statusClientGone = 499

// failure is what the gateway answers in place of an upstream.
type failure struct {
	status     int
	detail     string
	retryAfter time.Duration
	allow      string // the methods that the path has; empty elsewhere
}

// diagnose tells apart whose fault it is that r has no answer.
func diagnose(r *http.Request, t *trip, err error) failure {
	late, broken := t.late(), t.exchange.body.failure()
	silent := errors.Is(broken, os.ErrDeadlineExceeded)
	switch {
	case t.starved.Load(), silent && !late:
		return starved()
	case errors.Is(err, errHeader):
		return tooLargeHeader()
	case !late && errors.Is(r.Context().Err(), context.Canceled): // the server cancels a request whose body it stops reading, too
		return failure{status: statusClientGone}
	case broken != nil && !silent:
		return blameClient(broken)
	case late:
		return failure{status: http.StatusGatewayTimeout, detail: "the service did not answer in time; try again later"}
	}
	if f, ok := errors.AsType[interface {
		error
		Rejected() bool
	}](err); ok && f.Rejected() {
		return failure{status: http.StatusServiceUnavailable, detail: "the service is not available; try again later", retryAfter: retryAfter(err)}
	}
	if f, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && f.Timeout() || errors.Is(err, retry.ErrAttemptTimeout) {
		return failure{status: http.StatusGatewayTimeout, detail: "the service did not answer in time; try again later"}
	}
	return failure{status: http.StatusBadGateway, detail: "the service could not be reached or gave no valid answer; try again later"}
}

// blameClient tells apart how a request body failed.
func blameClient(err error) failure {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return failure{status: http.StatusRequestEntityTooLarge, detail: "the request body is too large; send less"}
	}
	return failure{status: http.StatusBadRequest, detail: "the request body is malformed; check its framing"}
}

func tooLargeHeader() failure {
	return failure{status: http.StatusRequestHeaderFieldsTooLarge, detail: "the header has too many or too large fields; send fewer"}
}

func starved() failure {
	return failure{status: http.StatusRequestTimeout, detail: "the request body did not arrive in time; send it faster"}
}

// retryAfter is how long the upstream is likely to be unavailable; one second
// where nobody knows.
func retryAfter(err error) time.Duration {
	if f, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok && f.RetryAfter() > 0 {
		return f.RetryAfter()
	}
	return time.Second
}

// write answers the client. One who has left gets the status alone, for the sake
// of the middleware that counts.
func (f failure) write(w http.ResponseWriter, r *http.Request) {
	if f.status == statusClientGone {
		w.WriteHeader(f.status)
		return
	}
	if f.status == http.StatusRequestEntityTooLarge && r.ProtoMajor == 1 {
		// The server would else read the rest of the body before it answers. Over
		// HTTP/2 the field would end the connection, and all its other requests.
		w.Header().Set("Connection", "close")
	}
	if f.allow != "" {
		w.Header().Set("Allow", f.allow)
	}
	problem.Write(w, problem.Problem{Status: f.status, Detail: f.detail, RetryAfter: f.retryAfter})
}
