// Package memhttp serves HTTP over in-memory pipes, so that a test of a client
// and a server can run inside a testing/synctest bubble, where a real socket
// would keep virtual time from moving.
package memhttp

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Server is an HTTP server that only its own Transport can reach.
type Server struct {
	// Transport dials the server, whatever the host of a request. It keeps
	// connections alive, speaks HTTP/1.1, and may be used by several goroutines.
	Transport *http.Transport

	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

// New starts a server for h and stops it when the test ends.
func New(t testing.TB, h http.Handler) *Server {
	t.Helper()
	s := &Server{server: &http.Server{Handler: h}, conns: make(chan net.Conn), done: make(chan struct{})}
	s.Transport = &http.Transport{DialContext: s.dial}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = s.server.Serve(s)
	}()
	t.Cleanup(func() {
		s.Transport.CloseIdleConnections()
		_ = s.server.Close()
		<-stopped
	})
	return s
}

func (s *Server) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case s.conns <- server:
		return client, nil
	case <-s.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements [net.Listener] for the server's own use.
func (s *Server) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]; New calls it when the test ends.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// Addr implements [net.Listener].
func (s *Server) Addr() net.Addr { return &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)} }
