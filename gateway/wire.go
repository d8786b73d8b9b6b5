package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
	"syscall"
	"time"
)

// wire is a connection to a target that carries one request after the other, each on
// the goroutine of who asks.
type wire struct {
	net.Conn
	in    *bufio.Reader   // of Read
	raw   syscall.RawConn // to look whether something has come
	probe func(fd uintptr) bool
	quiet bool // what probe saw

	left  int64     // that a header may still bring
	heard bool      // something has come since the request
	late  bool      // the header of the answer did not come in time
	kept  bool      // it has waited for a request before
	idle  time.Time // since when it waits, or did last
}

func newWire(conn net.Conn) *wire {
	c := &wire{Conn: conn}
	c.in = bufio.NewReader(c)
	c.probe = c.look
	if s, ok := conn.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn() // where it fails there is nothing to look at, and c is not used again
	}
	return c
}

// Read implements [io.Reader] for what reads the answers.
func (c *wire) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLongHeader
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	c.left -= int64(n)
	c.heard = c.heard || n > 0
	return n, err
}

var (
	errLongHeader = fmt.Errorf("gateway: the header of the answer is larger than %d KiB", maxAnswerHeader>>10)
	errNoAnswer   = fmt.Errorf("gateway: the target closed the connection and gave no answer: %w", io.EOF)
)

// slowHeaderError is what a request fails by at the HeaderTimeout.
type slowHeaderError struct{}

func (slowHeaderError) Error() string {
	return "gateway: the target did not answer within the upstream's HeaderTimeout"
}

func (slowHeaderError) Timeout() bool   { return true }
func (slowHeaderError) Temporary() bool { return true } // for those who look for a [net.Error]

// Is makes it what the error of [http.Transport] is to those who ask for it.
func (slowHeaderError) Is(target error) bool { return target == context.DeadlineExceeded }

// silent reports whether the target has said nothing since its last answer. It may
// have closed the connection; and what it says unasked must not be taken for the
// answer to somebody's request.
func (c *wire) silent() bool {
	if c.raw == nil {
		return false
	}
	return c.raw.Read(c.probe) == nil && c.quiet
}

// waited is how long it has waited for its request.
func (c *wire) waited() time.Duration {
	if !c.kept {
		return 0
	}
	return time.Since(c.idle)
}

// interrupt ends a Read or Write that waits, and lets all others fail. It closes, since
// nobody else may: an answer need not be read to its end, nor closed.
func (c *wire) interrupt() { _ = c.Close() }

// ask sends the head of a request and returns its answer, whose header has to come
// within patience unless that is 0.
func (c *wire) ask(req *http.Request, head []byte, trace *httptrace.ClientTrace, patience time.Duration) (resp *http.Response, err error) {
	c.left, c.heard = maxAnswerHeader, false
	_, err = c.Write(head)
	wrote(req, trace, err)
	if err != nil {
		return nil, err
	}
	if patience > 0 {
		timer := time.AfterFunc(patience, c.interrupt)
		defer func() {
			if c.late = !timer.Stop(); c.late { // the interruption comes, if it has not come yet
				resp, err = nil, slowHeaderError{}
			}
		}()
	}
	return c.answer(req, trace)
}

// answer reads up to the final answer's body.
func (c *wire) answer(req *http.Request, trace *httptrace.ClientTrace) (*http.Response, error) {
	if _, err := c.in.Peek(1); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errNoAnswer
		}
		return nil, err
	}
	if trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	for {
		resp, err := http.ReadResponse(c.in, req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 100 || resp.StatusCode > 199 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.left = math.MaxInt64
			return resp, nil
		}
		if trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
			c.left = maxAnswerHeader // how many may come is for who asked for them to say
		}
	}
}

// answer is the body of an answer: where it has been read, the wire is free for the
// next request.
type answer struct {
	io.ReadCloser // what [http.ReadResponse] gave; its Close would read on, and is not called

	ctx   context.Context //nolint:containedctx // of the request, which bounds its body
	trace *httptrace.ClientTrace
	wire  *wire
	stop  func() bool // the interruption at the end of ctx
	kept  *kept
	host  string
	last  bool // no request may follow

	err    error       // by which Read has ended
	over   atomic.Bool // the wire is not ours any more
	closed atomic.Bool
}

// Read implements [io.Reader].
func (a *answer) Read(p []byte) (int, error) {
	switch {
	case a.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case a.err != nil:
		return 0, a.err
	}
	n, err := a.ReadCloser.Read(p)
	if err != nil {
		whole := errors.Is(err, io.EOF)
		a.end(whole)
		if !whole {
			err = because(a.ctx, err)
		}
		a.err = err
	}
	return n, err
}

// Close implements [io.Closer]. A body that was not read to its end costs the
// connection. A Read that waits is ended by it.
func (a *answer) Close() error {
	a.closed.Store(true)
	a.end(false)
	return nil
}

// end gives the wire away: to those who wait for their next request if the answer was
// read whole and nothing can be left of it.
func (a *answer) end(whole bool) {
	if a.over.Swap(true) {
		return
	}
	undisturbed := a.stop()
	if !whole || !undisturbed || a.last || a.wire.in.Buffered() > 0 {
		_ = a.wire.Close()
		return
	}
	err := a.kept.put(a.host, a.wire)
	if err != nil {
		_ = a.wire.Close()
	}
	if a.trace.PutIdleConn != nil {
		a.trace.PutIdleConn(err)
	}
}
