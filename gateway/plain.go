package gateway

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"
)

// plain is the transport of an upstream. What most requests are it carries by itself,
// on the goroutine that asks: safe ones without a body, to targets that speak HTTP/1.1
// without TLS. [http.Transport] has two goroutines for each connection, and to hand
// requests to them and answers back makes forwarding cost a fifth more
// (docs/design/0003). It is [http.ReadResponse] that reads the answers, for both.
//
// All else goes to the Transport, which knows what a body, or a large header, brings
// with it: targets that answer before its end, 100 Continue, and what may be sent a
// second time.
type plain struct {
	*http.Transport
	kept  kept
	heads sync.Pool // of *[]byte
}

func newPlain(t *http.Transport) *plain {
	return &plain{
		Transport: t,
		kept:      kept{most: t.MaxIdleConnsPerHost, timeout: t.IdleConnTimeout},
		heads:     sync.Pool{New: func() any { return new([]byte) }},
	}
}

// CloseIdleConnections closes what no request uses.
func (p *plain) CloseIdleConnections() {
	p.kept.end()
	p.Transport.CloseIdleConnections()
}

// RoundTrip implements [http.RoundTripper].
func (p *plain) RoundTrip(req *http.Request) (*http.Response, error) {
	if !canProbe || p.Protocols != nil || // it is one that speaks HTTP/2
		p.MaxConnsPerHost > 0 { // it counts its own alone
		return p.Transport.RoundTrip(req)
	}
	buf := p.heads.Get().(*[]byte)
	head, ok := appendHead((*buf)[:0], req)
	defer func() {
		if *buf = head; cap(head) <= maxHead {
			p.heads.Put(buf)
		}
	}()
	if !ok || len(head) > maxHead {
		return p.Transport.RoundTrip(req)
	}
	resp, stale, err := p.attempt(req, head, p.kept.take)
	if stale {
		// A target may close a connection in the very moment in which it is used
		// again. That cannot befall a new one: what fails there has failed.
		resp, _, err = p.attempt(req, head, func(string) *wire { return nil })
	}
	return resp, err
}

// maxHead bounds the heads that are written at once, which the buffers of a connection
// have room for: a target may answer before it has read all of a larger one, and must
// be listened to meanwhile. It bounds the memory that waits for heads to come, too.
const maxHead = 16 << 10

// attempt sends req, with its head, on the connection to its host that take has, or on
// a new one. It reports whether it failed because a connection was kept for too long.
func (p *plain) attempt(req *http.Request, head []byte, take func(host string) *wire) (resp *http.Response, stale bool, err error) {
	ctx := req.Context()
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil {
		trace = new(httptrace.ClientTrace)
	}
	if trace.GetConn != nil {
		trace.GetConn(hostPort(req.URL))
	}
	c := take(req.URL.Host)
	if c == nil {
		conn, err := p.DialContext(undated{ctx}, "tcp", hostPort(req.URL))
		if err != nil {
			return nil, false, because(ctx, err)
		}
		c = newWire(conn)
	}
	// A wire that was interrupted is not used again, so that the end of this request
	// cannot reach the next one.
	a := &answer{ctx: ctx, trace: trace, wire: c, stop: context.AfterFunc(ctx, c.interrupt), kept: &p.kept, host: req.URL.Host}
	defer func() {
		if resp == nil { // also where a hook panics
			a.end(false)
		}
	}()
	if trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: c.Conn, Reused: c.kept, WasIdle: c.kept, IdleTime: c.waited()})
	}
	resp, err = c.ask(req, head, trace, p.ResponseHeaderTimeout)
	if err != nil {
		return nil, c.kept && !c.heard && !c.late, because(ctx, err)
	}
	a.ReadCloser, a.last = resp.Body, resp.Close || resp.StatusCode < 200
	if resp.Body == http.NoBody {
		a.end(true)
	} else {
		resp.Body = a
	}
	return resp, false, nil
}

// undated is a context that does not say when it will end. A dialler that knows fails
// by itself at that time, perhaps before the context has ended, and then it seems that
// the target is to blame.
type undated struct{ context.Context } //nolint:containedctx // it is a context itself

// Deadline implements [context.Context].
func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// because returns why ctx has ended, where it has: err is no more than its consequence
// then.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// hostPort is what to dial for a URL.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), "80")
}
