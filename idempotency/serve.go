package idempotency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// handler is next behind the middleware.
type handler struct {
	guard   *Guard
	config  HTTP
	next    http.Handler
	buffers *sync.Pool // of *bytes.Buffer, for responses
}

// errNotKept releases the claim of a handler whose response is not to be kept.
var errNotKept = errors.New("idempotency: the response is not one to keep")

// errInterrupted releases the claim of a handler that gave up without answering.
var errInterrupted = errors.New("idempotency: the handler's context ended before it wrote anything")

// ServeHTTP implements [http.Handler]. A request without a key costs one look at
// its headers.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	lines := r.Header[header]
	if len(lines) == 0 && !h.config.Required || !slices.Contains(h.config.Methods, r.Method) || isInside(r.Context()) {
		h.next.ServeHTTP(w, r)
		return
	}
	h.serve(w, r, lines)
}

// isInside reports whether another of these middlewares holds the request's key.
func isInside(ctx context.Context) bool {
	held, ok := ctx.Value(holdKey{}).(*hold)
	return ok && held.kind == kindHTTP
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, lines []string) {
	ctx := r.Context()
	claim, body, err := h.claim(r, lines)
	if err != nil {
		h.guard.invalid(ctx, kindHTTP, err)
		h.refuse(w, err)
		return
	}
	var rec *recorder
	result, replayed, err := h.guard.run(ctx, kindHTTP, claim, h.config.Wait, func(ctx context.Context) (Result, error) {
		rec = h.recorder(w)
		return h.record(rec, withBody(ctx, r, body))
	})
	switch {
	case errors.Is(err, errInterrupted):
		h.refuse(w, err)
	case rec != nil: // the handler ran, and its response stands whatever became of the record
		rec.send()
		h.recycle(rec)
	case replayed:
		if result.NotStored || replay(w, result.Data) != nil {
			h.refuse(w, ErrNotStored)
		}
	case h.config.FailOpen && errors.Is(err, ErrUnavailable):
		h.next.ServeHTTP(w, withBody(ctx, r, body))
	default:
		h.refuse(w, err)
	}
}

// record runs the handler and returns what to keep of its response. An error
// releases the claim.
func (h *handler) record(rec *recorder, r *http.Request) (Result, error) {
	defer rec.close() // also when the handler panics
	h.next.ServeHTTP(rec, r)
	untouched := rec.close()
	if untouched && r.Context().Err() != nil {
		// A handler that returns because its caller has left, or because its claim
		// was lost, looks like one that answers 200 with nothing.
		return Result{}, errInterrupted
	}
	if !rec.hijacked && !h.keeps(rec.status) {
		return Result{}, errNotKept
	}
	return rec.result(), nil
}

// keeps reports whether responses with the status are kept. Those that are not
// say that the same request may have another answer later.
func (h *handler) keeps(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout,
		http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status < 500 || h.config.ReplayAll
}

// recorder returns one with a buffer of an earlier response.
func (h *handler) recorder(w http.ResponseWriter) *recorder {
	buf, ok := h.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	rec := &recorder{ResponseWriter: w, limit: h.config.MaxStored, buf: buf}
	if len(w.Header()) > 0 {
		rec.outer = w.Header().Clone()
	}
	return rec
}

// recycle gives the buffer of a closed recorder to the next one. One that was
// live may still be read by a goroutine that the handler left behind.
func (h *handler) recycle(rec *recorder) {
	const largest = 64 << 10
	if !rec.live && rec.buf.Cap() <= largest {
		rec.buf.Reset()
		h.buffers.Put(rec.buf)
	}
}

// claim reads from the request whose key it has and for what. The error is a
// *refusal.
func (h *handler) claim(r *http.Request, lines []string) (Claim, []byte, error) {
	key, err := h.key(lines)
	if err != nil {
		return Claim{}, nil, err
	}
	scope, err := h.scope(r)
	if err != nil {
		return Claim{}, nil, err
	}
	body, err := readBody(r, h.config.MaxBody)
	switch {
	case errors.Is(err, errBodyTooLarge):
		return Claim{}, nil, &refusal{
			status: http.StatusRequestEntityTooLarge, kind: "body-too-large", cause: err,
			detail: fmt.Sprintf("a request with an Idempotency-Key may have a body of up to %d bytes", h.config.MaxBody),
		}
	case err != nil:
		return Claim{}, nil, &refusal{
			status: http.StatusBadRequest, kind: "body-incomplete", cause: err,
			detail: "the request body broke off: send the request again, with the same Idempotency-Key",
		}
	}
	same := body
	if h.config.Fingerprint != nil {
		same = h.config.Fingerprint(r, body)
	}
	return Claim{ID: digest(kindHTTP, scope, key), Fingerprint: fingerprint(r, same)}, body, nil
}

func (h *handler) key(lines []string) (string, error) {
	if len(lines) == 0 {
		return "", &refusal{
			status: http.StatusBadRequest, kind: "key-missing", cause: ErrKey,
			detail: "this request needs an Idempotency-Key header: make a random key, such as a UUID, and send it again whenever you repeat the request",
		}
	}
	key, ok := parseKey(lines[0], h.config.Strict)
	if !ok || len(lines) > 1 {
		return "", &refusal{status: http.StatusBadRequest, kind: "key-invalid", cause: ErrKey, detail: h.keyHelp()}
	}
	return key, nil
}

func (h *handler) scope(r *http.Request) (string, error) {
	if h.config.GlobalScope {
		return "", nil
	}
	scope, err := h.config.Scope(r)
	if err != nil || scope == "" {
		return "", &refusal{
			status: http.StatusInternalServerError, kind: "scope-unknown", cause: err,
			detail: "the service could not tell whose Idempotency-Key this is, so the request was not processed",
		}
	}
	return scope, nil
}
