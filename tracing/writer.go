package tracing

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// A writer notes the status that a handler answers with.
type writer struct {
	http.ResponseWriter
	status   int // 0 until the header is written
	hijacked bool
}

// WriteHeader implements [http.ResponseWriter].
func (w *writer) WriteHeader(status int) {
	// Several informational answers may precede the final one; 101 is final.
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// WriteString implements [io.StringWriter].
func (w *writer) WriteString(s string) (int, error) {
	w.begin()
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom implements [io.ReaderFrom], so that the server may still hand a file
// to the kernel.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, src)
}

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin notes the status that net/http sends when none was written.
func (w *writer) begin() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

// final returns the status of the answer, 0 if none was seen. A handler that
// completed without one is answered for by net/http.
func (w *writer) final(completed bool) int {
	if completed && !w.hijacked {
		w.begin()
	}
	return w.status
}

// flush also reports what http.ResponseController asks for.
func (w *writer) flush() error {
	w.begin()
	if f, ok := w.ResponseWriter.(interface{ FlushError() error }); ok {
		return f.FlushError()
	}
	w.ResponseWriter.(http.Flusher).Flush()
	return nil
}

// hijack hands the connection to the handler; what status it writes there, if it
// speaks HTTP at all, is not seen any more.
func (w *writer) hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	w.hijacked = w.hijacked || err == nil
	return conn, rw, err
}

// newWriter wraps w in a type that can do what w can: handlers find out by type
// assertion whether they may stream or take the connection over. HTTP/1 has both,
// HTTP/2 can flush and push.
func newWriter(w http.ResponseWriter) (*writer, http.ResponseWriter) {
	_, flusher := w.(http.Flusher)
	_, hijacker := w.(http.Hijacker)
	_, pusher := w.(http.Pusher)
	switch {
	case flusher && hijacker:
		f := &flushHijackWriter{writer{ResponseWriter: w}}
		return &f.writer, f
	case flusher && pusher:
		f := &flushPushWriter{writer{ResponseWriter: w}}
		return &f.writer, f
	case flusher:
		f := &flushWriter{writer{ResponseWriter: w}}
		return &f.writer, f
	case hijacker:
		h := &hijackWriter{writer{ResponseWriter: w}}
		return &h.writer, h
	}
	plain := &writer{ResponseWriter: w}
	return plain, plain
}

// The methods of the types below implement [http.Flusher], [http.Hijacker] and
// [http.Pusher], and FlushError for [http.ResponseController].

type flushWriter struct{ writer }

func (w *flushWriter) Flush() { _ = w.flush() }

func (w *flushWriter) FlushError() error { return w.flush() }

type hijackWriter struct{ writer }

func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

type flushHijackWriter struct{ writer }

func (w *flushHijackWriter) Flush() { _ = w.flush() }

func (w *flushHijackWriter) FlushError() error { return w.flush() }

func (w *flushHijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

type flushPushWriter struct{ writer }

func (w *flushPushWriter) Flush() { _ = w.flush() }

func (w *flushPushWriter) FlushError() error { return w.flush() }

func (w *flushPushWriter) Push(target string, opts *http.PushOptions) error {
	return w.ResponseWriter.(http.Pusher).Push(target, opts)
}
