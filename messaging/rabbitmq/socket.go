package rabbitmq

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxPending bounds what a socket holds for a peer that does not read.
const maxPending = 256 << 10

// A socket is the net.Conn that amqp091 reads and writes. It differs in three ways.
//
// It gathers: amqp091 writes every message and acknowledgement by itself; under
// load the socket sends what came in during the last write with the next, which
// costs both ends fewer system calls.
//
// It closes when reading or writing fails. amqp091 holds the lock of a channel
// while it writes, and wants the same lock before it closes the connection: a
// write that a silent peer holds up would else hold up, for ever, the end of a
// connection that heartbeats have found dead.
//
// It watches by itself whether the broker's heartbeats come. amqp091 does so where
// it sends its own: a broker that blocks publishing reads none of them, and once
// the socket is full would seem dead while its heartbeats come.
type socket struct {
	net.Conn
	failed atomic.Pointer[error] // why reading failed
	wake   chan struct{}         // told that something is pending
	room   chan struct{}         // told that pending is empty
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	pending []byte        // guarded by mu
	silence time.Duration // how long nothing may come in, 0 for ever; guarded by mu
}

func newSocket(nc net.Conn) *socket {
	return &socket{Conn: nc, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Read implements [net.Conn].
func (s *socket) Read(p []byte) (int, error) {
	s.mu.Lock()
	if s.silence > 0 {
		_ = s.Conn.SetReadDeadline(time.Now().Add(s.silence)) // fails only where Read does
	}
	s.mu.Unlock()
	n, err := s.Conn.Read(p)
	if err != nil {
		s.failed.CompareAndSwap(nil, &err)
		_ = s.Close()
	}
	return n, err
}

// Write implements [net.Conn]. It keeps a copy of p and returns; it waits only
// while maxPending bytes are unsent. It has one caller at a time.
func (s *socket) Write(p []byte) (int, error) {
	for {
		if isClosed(s.closed) {
			return 0, net.ErrClosed
		}
		s.mu.Lock()
		fits := len(s.pending) < maxPending
		if fits {
			s.pending = append(s.pending, p...)
		}
		s.mu.Unlock()
		if fits {
			tell(s.wake)
			return len(p), nil
		}
		select {
		case <-s.room:
		case <-s.closed:
		}
	}
}

// expect has reading fail when nothing comes in for d.
func (s *socket) expect(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silence = d
	return s.Conn.SetReadDeadline(time.Now().Add(d)) // of the Read that waits already
}

// SetReadDeadline implements [net.Conn]. It does nothing: amqp091 means what
// expect does.
func (s *socket) SetReadDeadline(time.Time) error { return nil }

// SetDeadline implements [net.Conn]. amqp091 bounds the end of the connection by
// it, so that nothing moves it after that.
func (s *socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silence = 0
	return s.Conn.SetDeadline(t)
}

// Close implements [net.Conn].
func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// flush sends what is pending until the socket is closed.
func (s *socket) flush() {
	var spare []byte
	for {
		select {
		case <-s.wake:
		case <-s.closed:
			return
		}
		s.mu.Lock()
		out := s.pending
		s.pending = spare[:0]
		s.mu.Unlock()
		tell(s.room)
		if _, err := s.Conn.Write(out); err != nil {
			_ = s.Close()
			return
		}
		if spare = out; cap(spare) > 4*maxPending {
			spare = nil // one large message must not hold its memory for ever
		}
	}
}

// tell wakes whoever waits on c, or will.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
