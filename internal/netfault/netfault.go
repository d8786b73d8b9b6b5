// Package netfault breaks the network between a client and a server on purpose:
// it cuts connections, lets nothing pass one way or both, delays and loses. It
// belongs to this repository's tests; no package of the library imports it.
//
//	p, err := netfault.Listen("127.0.0.1:5672")
//	...                        // clients use p.Addr()
//	p.Hold(netfault.Both)      // a black hole
//	p.Heal()                   // what was held goes on, as TCP repeats it
//	p.Cut()                    // every connection is reset
//	err = p.Close()
//
// What is held is not lost: TCP repeats what gets no answer, so after a real
// black hole that heals, too, a stream goes on where it stopped or not at all. A
// side that closes its connection meanwhile is not noticed by the other before
// Heal.
package netfault

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Way is a direction in which bytes pass.
type Way int

const (
	// Up is from the client to the server.
	Up Way = 1 << iota
	// Down is from the server to the client.
	Down
	// Both is Up and Down.
	Both = Up | Down
)

// A Proxy passes TCP connections on to one server, and breaks them as it is told.
// Its methods are safe for concurrent use.
type Proxy struct {
	l       net.Listener
	to      string
	running sync.WaitGroup
	end     context.CancelFunc // ends what follows
	closed  <-chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu
	// stall is closed when bytes may pass again, and nil while they may; delay is
	// how long they take. Both are of the way up and of the way down, and guarded
	// by mu.
	stall [2]chan struct{}
	delay [2]time.Duration
	lose  func(sent []byte) bool // guarded by mu
}

// Listen returns a Proxy to the server at the address to. It listens on a free
// port of 127.0.0.1, and connects to the server for each client that comes.
// Close it at the end.
func Listen(to string) (*Proxy, error) {
	ctx, end := context.WithCancel(context.Background())
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		end()
		return nil, err
	}
	p := &Proxy{l: l, to: to, end: end, closed: ctx.Done(), conns: map[net.Conn]bool{}}
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(ctx, c) })
		}
	})
	return p, nil
}

// Addr returns the address at which clients find the Proxy, as host:port.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Cut resets every connection. New ones pass.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tc, ok := c.(*net.TCPConn); ok {
			_ = tc.SetLinger(0) // a reset, at once, in place of an orderly end
		}
		_ = c.Close()
	}
}

// Hold lets nothing pass that way until Heal, on new connections too, and keeps
// all connections open.
func (p *Proxy) Hold(way Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.stall {
		if way&(1<<i) != 0 && p.stall[i] == nil {
			p.stall[i] = make(chan struct{})
		}
	}
}

// Delay holds everything that goes that way up for d, each read of up to 32 KiB
// after the other, until Heal.
func (p *Proxy) Delay(way Way, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.delay {
		if way&(1<<i) != 0 {
			p.delay[i] = d
		}
	}
}

// Lose drops what clients send where lost reports true, until Heal. It is called
// with what one read returned, under a lock, so it must be quick and call no
// method of p. The stream goes on without those bytes.
func (p *Proxy) Lose(lost func(sent []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = lost
}

// Heal ends Hold, Delay and Lose.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = nil
	for i := range p.stall {
		if p.stall[i] != nil {
			close(p.stall[i])
		}
		p.stall[i], p.delay[i] = nil, 0
	}
}

// Close cuts every connection, takes no more, and returns when all goroutines of
// the Proxy have ended. Only the first call does anything.
func (p *Proxy) Close() error {
	p.end()
	err := p.l.Close()
	p.Heal()
	p.Cut()
	p.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve passes one connection on, until either side ends it.
func (p *Proxy) serve(ctx context.Context, client net.Conn) {
	server, err := new(net.Dialer).DialContext(ctx, "tcp", p.to)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	select {
	case <-p.closed: // Cut has been, and saw neither
		_, _ = client.Close(), server.Close()
	default:
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client, 0) })
	both.Go(func() { p.pass(client, server, 1) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

// pass copies one way: 0 is up and 1 is down.
func (p *Proxy) pass(to, from net.Conn, way int) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		stall, delay := p.stall[way], p.delay[way]
		lost := way == 0 && n > 0 && p.lose != nil && p.lose(buf[:n])
		p.mu.Unlock()
		if lost {
			continue
		}
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-p.closed:
			}
		}
		if stall != nil {
			select {
			case <-stall:
			case <-p.closed:
			}
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
