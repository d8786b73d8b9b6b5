package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// dialTimeout bounds Config.Dial and the TLS handshake after it. Without
// Config.Dial the client's own default is the same.
const dialTimeout = 10 * time.Second

// dial connects to a broker by c.Dial, with TLS on top where c asks for it.
func (c *Config) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.Dial(ctx, network, addr)
	if err != nil {
		// The client tries again what is marked so; a dialer of the user's may mark
		// its errors otherwise, or not at all.
		if !undialled(err) {
			err = &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return nil, err
	}
	if c.TLS == nil {
		return conn, nil
	}
	conf := c.TLS.Clone()
	if conf.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		conf.ServerName = host
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// undialled reports whether err says that a broker was not reached. The client
// counts such errors as not worth another try, unless they are timeouts: where it
// tries again by itself it asks for them apart.
func undialled(err error) bool {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return true
	}
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}
