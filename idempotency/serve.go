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
	drop    map[string]bool // canonical names of DropHeaders
	buffers *sync.Pool      // of *bytes.Buffer, for responses
}

// errNotKept releases the claim of a handler whose response is not to be kept.
var errNotKept = errors.New("idempotency: the response is not one to keep")

// errInterrupted releases the claim of a handler that gave up without answering.
var errInterrupted = errors.New("idempotency: the claim was lost before the handler wrote anything")

// ServeHTTP implements [http.Handler]. A request without a key costs one look at
// its headers.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	lines := r.Header[header]
	if len(lines) == 0 && !h.config.Required || !slices.Contains(h.config.Methods, r.Method) {
		h.next.ServeHTTP(w, r)
		return
	}
	h.serve(w, r, lines)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, lines []string) {
	ctx := r.Context()
	id, err := h.id(r, lines)
	if err == nil && isHeld(ctx, id) { // by another of these middlewares, outside
		h.next.ServeHTTP(w, r)
		return
	}
	var same, body []byte
	if err == nil {
		same, body, err = h.body(r)
	}
	if err != nil {
		h.guard.invalid(ctx, kindHTTP, err)
		h.refuse(w, err)
		return
	}
	var rec *recorder
	claim := Claim{ID: id, Fingerprint: fingerprint(r, same)}
	result, replayed, err := h.guard.run(ctx, kindHTTP, claim, h.config.Wait, func(held *hold) (Result, error) {
		rec = h.recorder(w)
		return h.record(held, rec, r, body)
	})
	switch {
	case errors.Is(err, errInterrupted):
		h.refuse(w, err)
	case rec != nil: // the handler ran, and its response stands whatever became of the record
		rec.send()
		h.recycle(rec)
	case replayed:
		if result.NotStored || replay(w, result.Data, h.drop) != nil {
			h.refuse(w, ErrNotStored)
		}
	case h.config.FailOpen && errors.Is(err, ErrUnavailable):
		h.pass(ctx, w, r, body)
	default:
		h.refuse(w, err)
	}
}

// record runs the handler and returns what to keep of its response. An error
// releases the claim.
func (h *handler) record(held *hold, rec *recorder, r *http.Request, body []byte) (Result, error) {
	defer func() {
		// A handler that panics after the client has seen its success, as a
		// reverse proxy does when the client breaks off, has had its effect.
		rec.close()
		held.happened = rec.live && h.kept(rec)
	}()
	h.pass(held, rec, r, body)
	if untouched := rec.close(); untouched && isFenced(context.Cause(held)) {
		// A handler that returns because its claim was lost looks like one that
		// answers 200 with nothing. One that returns because its caller has left
		// does too, but may have done its work.
		return Result{}, errInterrupted
	}
	if !h.kept(rec) {
		return Result{}, errNotKept
	}
	return rec.result(), nil
}

// pass runs the handler on a copy of r that has the body again.
func (h *handler) pass(ctx context.Context, w http.ResponseWriter, r *http.Request, body []byte) {
	inner := withBody(ctx, r, body)
	defer func() { r.Pattern = inner.Pattern }() // which a ServeMux inside sets for those outside
	h.next.ServeHTTP(w, inner)
}

// kept reports whether a closed recording completes the key. A response that
// does not says that the same request may have another answer later.
func (h *handler) kept(rec *recorder) bool {
	switch rec.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout,
		http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return rec.hijacked
	}
	return rec.hijacked || rec.status < 500 || h.config.ReplayAll
}

// recorder returns one with a buffer of an earlier response.
func (h *handler) recorder(w http.ResponseWriter) *recorder {
	buf, ok := h.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	rec := &recorder{ResponseWriter: w, limit: h.config.MaxStored, drop: h.drop, buf: buf}
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

// id returns what identifies the record of the request. The error is a *refusal.
func (h *handler) id(r *http.Request, lines []string) (ID, error) {
	key, err := h.key(lines)
	if err != nil {
		return ID{}, err
	}
	scope, err := h.scope(r)
	if err != nil {
		return ID{}, err
	}
	return digest(kindHTTP, scope, key), nil
}

// body reads the request's body and returns it and what stands for it in the
// comparison with the first request. The error is a *refusal.
func (h *handler) body(r *http.Request) (same, body []byte, err error) {
	body, err = readBody(r, h.config.MaxBody)
	if same = body; err == nil && (len(body) == 0 || r.MultipartForm != nil) {
		same, err = parsedBody(r)
	}
	switch {
	case errors.Is(err, errBodyTooLarge):
		return nil, nil, &refusal{
			status: http.StatusRequestEntityTooLarge, kind: "body-too-large", cause: err,
			detail: fmt.Sprintf("a request with an Idempotency-Key may have a body of up to %d bytes", h.config.MaxBody),
		}
	case errors.Is(err, errBodyGone):
		return nil, nil, &refusal{
			status: http.StatusInternalServerError, kind: "body-consumed", cause: err,
			detail: "the service read the request body before it looked at the Idempotency-Key, so the request was not processed: " +
				"what reads or parses the body must stand inside of the idempotency middleware",
		}
	case err != nil:
		return nil, nil, &refusal{
			status: http.StatusBadRequest, kind: "body-incomplete", cause: err,
			detail: "the request body broke off: send the request again, with the same Idempotency-Key",
		}
	}
	if h.config.Fingerprint != nil {
		same = h.config.Fingerprint(r, same)
	}
	return same, body, nil
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
