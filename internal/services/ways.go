package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// A way is one way to come by a service. Its error is the reason why it does not
// work here. It tells say what takes long or changes the machine.
type way func(ctx context.Context, s Service, say func(string)) (*found, error)

// A found is a service that tests can use.
type found struct {
	address string // for the service's Variable
	version string
	how     string                      // for people: "ready", "reused at …"
	stop    func(context.Context) error // nil if it is not ours to stop
}

// line tells people of a service that was found.
func (f *found) line(name string, took time.Duration) string {
	words := []string{name}
	if f.version != "" {
		words = append(words, f.version)
	}
	words = append(words, f.how)
	if f.stop != nil {
		words = append(words, fmt.Sprintf("in %.1f s", took.Seconds()))
	}
	return strings.Join(words, " ")
}

// obtain returns what the first way that works has found, or every way's reason.
func obtain(ctx context.Context, s Service, ways []way, say func(string)) (*found, error) {
	var reasons []string
	for _, w := range ways {
		f, err := w(ctx, s, say)
		if err == nil {
			return f, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		reasons = append(reasons, err.Error())
	}
	return nil, errors.New(strings.Join(reasons, "; "))
}

// running is the way that uses a server which answers at the usual port.
func running(ctx context.Context, s Service, _ func(string)) (*found, error) {
	hostport := loopback(s.Port)
	version, err := s.hello(ctx, hostport)
	switch {
	case err == nil:
		all := []string{hostport}
		for _, port := range s.More {
			all = append(all, loopback(port))
		}
		return &found{address: s.address(strings.Join(all, ",")), version: version, how: "reused at " + hostport}, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, errors.New("nothing listens at " + hostport)
	}
	return nil, fmt.Errorf("what listens at %s is of no use: %w", hostport, err)
}

// own is the way that runs the server's program, installed or fetched first where
// needed.
func own(ctx context.Context, s Service, say func(string)) (*found, error) {
	if err := s.provide(ctx, say); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "parley-"+s.Name+"-")
	if err != nil {
		return nil, err
	}
	n, err := s.Start(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop := func(ctx context.Context) error { return errors.Join(n.Stop(ctx), os.RemoveAll(dir)) }
	return &found{address: n.URL(), version: n.Version(), how: "ready", stop: stop}, nil
}

// provide installs or fetches the server's program where it is missing.
func (s Service) provide(ctx context.Context, say func(string)) error {
	if _, err := s.find(); err == nil {
		return nil
	}
	if s.fetch != nil {
		return s.fetch(ctx, say)
	}
	return install(ctx, s, say)
}
