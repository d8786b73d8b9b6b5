package breaker

import (
	"io"
	"net/http"
	"sync"
)

// body books the outcome of a response when its body is over. Reading and
// closing may happen at the same time; the first of them to end it counts.
type body struct {
	io.ReadCloser
	once     sync.Once
	permit   Permit
	classify func(error) Outcome
}

func newBody(rc io.ReadCloser, p *Permit, classify func(error) Outcome) *body {
	return &body{ReadCloser: rc, permit: p.move(), classify: classify}
}

// streams reports whether resp has a body whose end may be waited for. That of a
// protocol switch is a connection, to which the caller also writes.
func streams(resp *http.Response) bool {
	return resp != nil && resp.Body != nil && resp.Body != http.NoBody &&
		resp.StatusCode != http.StatusSwitchingProtocols
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.end(nil)
	default:
		b.end(err)
	}
	return n, err
}

// Close implements [io.Closer]. Whoever has read enough, such as a decoder that
// has its value, closes before the end: that is no failure.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

func (b *body) end(err error) {
	b.once.Do(func() {
		defer b.permit.Done(Failure) // if classify panics
		b.permit.done(b.classify(err), err)
	})
}
