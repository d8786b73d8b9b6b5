package idempotency

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"sync"
)

// recorder is the ResponseWriter of a handler whose response may be kept. It
// holds the body back until the response is recorded. Once the body exceeds its
// limit, or the handler flushes or hijacks, the recorder is live: it hands
// everything on and keeps nothing.
//
// It is locked only against goroutines that write after the handler has
// returned: they get an error, and what was recorded does not change.
type recorder struct {
	http.ResponseWriter
	limit int         // of the body
	outer http.Header // as it was before the handler ran; nil when empty
	drop  map[string]bool

	mu       sync.Mutex
	buf      *bytes.Buffer // guarded by mu: the encoded head, then the body
	head     int           // guarded by mu: where the body begins
	status   int           // guarded by mu: 0 before WriteHeader
	live     bool          // guarded by mu
	hijacked bool          // guarded by mu
	closed   bool          // guarded by mu
}

// errClosed is what writing after the handler has returned comes to.
var errClosed = errors.New("idempotency: the handler has returned, nothing more can be written")

// Unwrap is for [http.ResponseController], which reaches deadlines through it.
// Flush and Hijack it finds here.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter]. The status goes on at once, so
// that the server sees the headers as they are now; a server sends them with the
// first bytes of the body.
func (w *recorder) WriteHeader(status int) {
	w.mu.Lock()
	over := w.over()
	if over == nil && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.begin(status)
	}
	w.mu.Unlock()
	if over == nil {
		w.ResponseWriter.WriteHeader(status)
	}
}

// over returns why nothing can be written any more. The caller holds mu.
func (w *recorder) over() error {
	switch {
	case w.closed:
		return errClosed
	case w.hijacked:
		return http.ErrHijacked
	}
	return nil
}

// begin records status and headers, once. The caller holds mu.
func (w *recorder) begin(status int) (first bool) {
	if w.status != 0 {
		return false
	}
	w.status = status
	if !w.live {
		encodeHead(w.buf, status, w.Header(), w.outer, w.drop)
		w.head = w.buf.Len()
	}
	return true
}

// Write implements [http.ResponseWriter].
func (w *recorder) Write(p []byte) (int, error) { return write(w, p, (*bytes.Buffer).Write) }

// WriteString implements [io.StringWriter].
func (w *recorder) WriteString(s string) (int, error) {
	return write(w, s, (*bytes.Buffer).WriteString)
}

func write[P []byte | string](w *recorder, p P, add func(*bytes.Buffer, P) (int, error)) (int, error) {
	w.mu.Lock()
	if err := w.over(); err != nil {
		w.mu.Unlock()
		return 0, err
	}
	first := w.begin(http.StatusOK)
	allowed := hasBody(w.status)
	held := allowed && !w.live && w.buf.Len()-w.head+len(p) <= w.limit
	if held {
		_, _ = add(w.buf, p) // a Buffer takes all
	}
	w.mu.Unlock()
	if first {
		w.ResponseWriter.WriteHeader(http.StatusOK)
	}
	switch {
	case !allowed:
		return 0, http.ErrBodyNotAllowed
	case held:
		return len(p), nil
	}
	if err := w.goLive(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write([]byte(p))
}

// goLive hands on what was held back. From here on nothing is kept.
func (w *recorder) goLive() error {
	w.mu.Lock()
	if err := w.over(); err != nil || w.live {
		w.mu.Unlock()
		return err
	}
	w.live = true
	body := w.buf.Bytes()[w.head:]
	w.mu.Unlock()
	if len(body) == 0 {
		return nil
	}
	_, err := w.ResponseWriter.Write(body)
	return err
}

// Flush implements [http.Flusher].
func (w *recorder) Flush() { _ = w.FlushError() }

// FlushError is Flush for [http.ResponseController]. The response is streamed
// from here on.
func (w *recorder) FlushError() error {
	w.mu.Lock()
	if err := w.over(); err != nil {
		w.mu.Unlock()
		return err
	}
	w.begin(http.StatusOK)
	w.mu.Unlock()
	if err := w.goLive(); err != nil {
		return err
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack implements [http.Hijacker]. The connection is the handler's from here
// on; what passes over it is not seen.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.mu.Lock()
	over := w.over()
	w.mu.Unlock()
	if over != nil {
		return nil, nil, over
	}
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.mu.Lock()
		if !w.closed {
			w.live, w.hijacked = true, true
		}
		w.mu.Unlock()
	}
	return conn, rw, err
}

// close ends the recording: nothing that is written from now on has an effect.
// untouched reports that the handler wrote nothing at all.
func (w *recorder) close() (untouched bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	untouched = w.status == 0 && !w.hijacked
	if untouched {
		w.begin(http.StatusOK) // what the server makes of it
	}
	w.closed = true
	return untouched
}

// result returns what to keep of a closed recording.
func (w *recorder) result() Result {
	if w.live {
		return Result{NotStored: true}
	}
	return Result{Data: bytes.Clone(w.buf.Bytes())}
}

// send gives the client what was held back of a closed recording.
func (w *recorder) send() {
	if body := w.buf.Bytes()[w.head:]; !w.live && len(body) > 0 {
		_, _ = w.ResponseWriter.Write(body) // the client may be gone
	}
}

// hasBody reports whether a response with the status may have a body (RFC 9110
// §6.4.1).
func hasBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
