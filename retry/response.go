package retry

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// What a discarded response may cost: more than that is dearer than the new
// connection that closing it unread takes.
const (
	drainBytes = 64 << 10
	drainTime  = 50 * time.Millisecond
)

// discard gives the connection of resp back, if the rest of its body comes soon
// and is short, and closes the body in any case, exactly once.
func discard(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	if resp.Body == http.NoBody || resp.ContentLength > drainBytes {
		closeBody(resp.Body)
		return
	}
	closed := make(chan struct{})
	// Closing is what interrupts a Read that waits for the server.
	timer := time.AfterFunc(drainTime, func() {
		defer close(closed)
		closeBody(resp.Body)
	})
	_, _ = io.CopyN(io.Discard, resp.Body, drainBytes)
	if !timer.Stop() {
		<-closed
		return
	}
	closeBody(resp.Body)
}

// closeBody closes a body that nobody will read: its error says nothing that
// matters any more.
func closeBody(b io.Closer) {
	if b != nil {
		_ = b.Close()
	}
}

// releaseAfter returns body such that release is called once the reader is done
// with it: at its end, at an error and at Close. Release may be called more than
// once.
func releaseAfter(body io.ReadCloser, release func()) io.ReadCloser {
	if body == nil || body == http.NoBody {
		release()
		return body
	}
	// The body of 101 Switching Protocols is a connection: it is written to, and
	// its reading end may be over long before the writing one.
	if rwc, ok := body.(io.ReadWriteCloser); ok {
		return &connBody{rwc, release}
	}
	return &respBody{body, release}
}

type respBody struct {
	io.ReadCloser
	release func()
}

func (b *respBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.release()
	}
	return n, err
}

func (b *respBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

type connBody struct {
	io.ReadWriteCloser
	release func()
}

// CloseWrite closes the writing end where the connection can, as a reverse proxy
// asks of it.
func (b *connBody) CloseWrite() error {
	if c, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("retry: CloseWrite: %w", http.ErrNotSupported)
}

func (b *connBody) Close() error {
	defer b.release()
	return b.ReadWriteCloser.Close()
}
