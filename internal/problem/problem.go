// Package problem writes the error answers of parley's HTTP handlers: RFC 9457
// problem details, never cached, with nothing of the request echoed.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Problem is one error answer.
type Problem struct {
	// Type identifies the kind of problem, as a URI. Empty means about:blank.
	Type string `json:"type,omitempty"`
	// Title is the kind in a few words. Empty means the text of Status.
	Title string `json:"title"`
	// Status is the HTTP status code.
	Status int `json:"status"`
	// Detail says what happened and what to do next.
	Detail string `json:"detail,omitempty"`
	// RetryAfter, when positive, becomes the Retry-After header, rounded up to
	// whole seconds so that a client never comes back too early.
	RetryAfter time.Duration `json:"-"`
}

// Write sends p as application/problem+json.
func Write(w http.ResponseWriter, p Problem) {
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body, _ := json.Marshal(p) // strings and an int always marshal
	h := w.Header()
	// A handler may have set these for the body that it did not get to send.
	h.Del("Content-Encoding")
	h.Del("Etag")
	h.Del("Last-Modified")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(Seconds(p.RetryAfter), 10))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client may be gone; there is nobody left to tell
}

// Seconds rounds d up to whole seconds, at least 1: the unit of Retry-After
// (RFC 9110 §10.2.3), where rounding down would invite the client too early.
func Seconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return max(s, 1)
}
