package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"
)

// How long is waited for what.
const (
	readyCap = time.Minute            // a server that was started
	greetCap = 3 * time.Second        // one conversation
	pause    = 100 * time.Millisecond // between two
)

// await returns the version of the server at hostport when it has greeted us. It
// fails when ctx ends, after readyCap, or when gone is closed, which says that
// the server has ended.
func await(ctx context.Context, s Service, hostport string, gone <-chan struct{}) (version string, err error) {
	err = poll(ctx, gone, func(ctx context.Context) (err error) {
		version, err = s.hello(ctx, hostport)
		return err
	})
	return version, err
}

// poll tries until it succeeds.
func poll(ctx context.Context, gone <-chan struct{}, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyCap, fmt.Errorf("not ready within %v", readyCap))
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return errors.New("ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// hello has one conversation with the server at hostport.
func (s Service) hello(ctx context.Context, hostport string) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, greetCap)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", hostport)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	// Ends a read or write when ctx ends, whichever way it does.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	return s.greet(conn)
}

// freePort returns a port of 127.0.0.1 that nobody listens on. It lies below the
// range from which systems take the ports of outgoing connections: from that
// range one of them could take it before the server does, even our own attempt
// to reach the server, which would then be connected to itself.
func freePort(ctx context.Context) (port int, err error) { return freePorts(ctx, 1) }

// freePorts returns the first of n such ports in a row.
func freePorts(ctx context.Context, n int) (port int, err error) {
	for range 100 {
		port = 20000 + rand.IntN(10000-n)
		if err = free(ctx, port, n); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func free(ctx context.Context, port, n int) error {
	for i := range n {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", loopback(port+i))
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// loopback is the address at which every server of the tests listens.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
