package idempotency

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/parley-go/parley/internal/problem"
)

// refusal is why a request was not given to the handler, in the terms of the
// table of [Guard.Middleware]. Its text may be shown to the client; that of its
// cause may not.
type refusal struct {
	status int
	kind   string
	detail string
	cause  error
}

// Error implements error, for the Event of the refusal.
func (e *refusal) Error() string {
	if e.cause == nil {
		return "idempotency: " + e.kind
	}
	return fmt.Sprintf("idempotency: %s: %v", e.kind, e.cause)
}

// Unwrap returns the cause.
func (e *refusal) Unwrap() error { return e.cause }

// maxRetryAfter is the longest that a client is told to stay away: a heartbeat
// renews the lease again and again, and says nothing about the end of the work.
const maxRetryAfter = 30 * time.Second

// refuse answers with problem details for err.
func (h *handler) refuse(w http.ResponseWriter, err error) {
	p, kind := describe(err)
	if h.config.DocsURL != "" {
		p.Type = h.config.DocsURL + "#" + kind
		w.Header().Add("Link", "<"+h.config.DocsURL+`>; rel="describedby"; type="text/html"`)
	}
	problem.Write(w, p)
}

// describe is the table of the errors that a request with a key can meet.
func describe(err error) (p problem.Problem, kind string) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return problem.Problem{Status: r.status, Detail: r.detail}, r.kind
	}
	if r, ok := errors.AsType[*RejectedError](err); ok && r.Reason == ErrBusy {
		return problem.Problem{
			Status:     http.StatusConflict,
			Detail:     "a request with this Idempotency-Key is being processed: repeat it later, with the same key",
			RetryAfter: min(r.After, maxRetryAfter),
		}, "in-progress"
	}
	switch {
	case errors.Is(err, ErrMismatch):
		return problem.Problem{
			Status: http.StatusUnprocessableEntity,
			Detail: "this Idempotency-Key was used for another request: make a new key for a new request",
		}, "key-reused"
	case errors.Is(err, errInterrupted):
		return problem.Problem{
			Status:     http.StatusServiceUnavailable,
			Detail:     "the request was interrupted before it was answered: repeat it later, with the same key",
			RetryAfter: time.Second,
		}, "interrupted"
	case errors.Is(err, ErrNotStored):
		return problem.Problem{
			Status: http.StatusConflict,
			Detail: "the first request with this Idempotency-Key was processed, and its response was not kept: do not repeat it",
		}, "response-not-stored"
	}
	return problem.Problem{
		Status:     http.StatusServiceUnavailable,
		Detail:     "it could not be found out whether this Idempotency-Key was used, so the request was not processed: repeat it later, with the same key",
		RetryAfter: time.Second,
	}, "store-unavailable"
}

// keyHelp says what a key looks like.
func (h *handler) keyHelp() string {
	form := "up to 255 visible ASCII characters without quote and comma, or a quoted string"
	if h.config.Strict {
		form = "a quoted string of up to 255 characters"
	}
	return "send one Idempotency-Key header with " + form + ", such as a UUID"
}
