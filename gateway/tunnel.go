package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// bridge makes a tunnel of the two connections, and returns when it has ended.
func (p *proxy) bridge(t *trip, out *http.Request, resp *http.Response) error {
	back, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("gateway: what Wrap returned for a 101 cannot be written to")
	}
	conn, buffered, err := http.NewResponseController(t.client).Hijack()
	if err != nil {
		return fmt.Errorf("gateway: tunnel: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer t.when(t, func() { _ = back.Close() })()
	t.head(out, resp)
	h := t.client.Header()
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	resp.Header, resp.Body = h, nil // or Write would read it
	if err := errors.Join(resp.Write(buffered), buffered.Flush()); err != nil {
		return fmt.Errorf("gateway: tunnel: %w", err)
	}
	var up sync.WaitGroup
	up.Go(func() { p.pour(back, conn) })
	p.pour(conn, back)
	up.Wait()
	return nil
}

// pour copies one direction of a tunnel. Where it ends well, and the other side
// can be told so, the opposite direction goes on.
func (p *proxy) pour(to, from io.ReadWriteCloser) {
	buf := p.buffers.Get().(*[bufferSize]byte)
	defer p.buffers.Put(buf)
	_, err := io.CopyBuffer(to, from, buf[:])
	if half, ok := to.(interface{ CloseWrite() error }); err == nil && ok && half.CloseWrite() == nil {
		return
	}
	_ = to.Close()
	_ = from.Close()
}

// tunnel is a hijacked connection. Reading from it begins with the bytes that
// the client sent right behind its request, which the server has read already.
type tunnel struct {
	net.Conn
	early *bufio.Reader
	x     *exchange
}

// Read implements [net.Conn].
func (t *tunnel) Read(p []byte) (n int, err error) {
	if early := t.early.Buffered(); early > 0 {
		n, err = t.early.Read(p[:min(early, len(p))])
	} else {
		n, err = t.Conn.Read(p)
	}
	if n > 0 {
		t.x.move()
	}
	return n, err
}

// Write implements [net.Conn].
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if n > 0 {
		t.x.written.Add(int64(n))
		t.x.move()
	}
	return n, err
}

// CloseWrite passes on that one side has said all it will say, where the
// connection can.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}
