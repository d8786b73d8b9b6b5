package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// stopCap bounds how long a server may take to end cleanly.
const stopCap = 30 * time.Second

// Config is what [Run] works with beside the environment.
type Config struct {
	// Services are the services to come by. Default [All].
	Services []Service

	// Compose is the path of the compose file that holds them. Default none:
	// Docker is not tried.
	Compose string

	// Out gets a line for each service, and one before anything is installed.
	// Default [io.Discard].
	Out io.Writer
}

// Run comes by the services that the environment asks for, calls use with a
// VARIABLE=address for each of them, stops what it started, and returns what use
// returned. A service whose variable was set before is left out of env.
//
// Without calling use, Run fails when PARLEY_SERVICES or PARLEY_REQUIRE names a
// service that does not exist, when one that PARLEY_REQUIRE names cannot be had,
// and, with the cause, when ctx ends. use should return when ctx ends. A service
// that ended by itself while use ran is an error too.
func Run(ctx context.Context, c Config, use func(ctx context.Context, env []string) error) error {
	if c.Services == nil {
		c.Services = All()
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return run(ctx, c, []way{running, compose(c.Compose), own}, use)
}

func run(ctx context.Context, c Config, ways []way, use func(context.Context, []string) error) (err error) {
	selected, unknown := pick("PARLEY_SERVICES", "all", c.Services)
	required, unknown2 := pick("PARLEY_REQUIRE", "none", c.Services)
	if err := faults(append(unknown, unknown2...)); err != nil {
		return err
	}

	got := make([]*found, len(c.Services))
	missing := make([]error, len(c.Services))
	// Deferred, since use may end with a panic or, in a test, with runtime.Goexit.
	defer func() { err = errors.Join(err, c.stop(ctx, got)) }()
	c.each(func(i int, s Service, say func(string)) {
		began := time.Now()
		if got[i], missing[i] = come(ctx, s, selected, ways, say); missing[i] != nil {
			say(fmt.Sprintf("%s not started: %v", s.Name, missing[i]))
			return
		}
		say(got[i].line(s.Name, time.Since(began)))
	})

	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := lacking(c.Services, missing, required); err != nil {
		return err
	}
	return use(ctx, environ(c.Services, got))
}

// stop stops what is ours. It does not end early with ctx, which may be what
// made it necessary.
func (c Config) stop(ctx context.Context, got []*found) error {
	failed := make([]error, len(got))
	c.each(func(i int, _ Service, _ func(string)) {
		if got[i] == nil || got[i].stop == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopCap)
		defer cancel()
		failed[i] = got[i].stop(ctx)
	})
	return errors.Join(failed...)
}

// each calls f for all services at once, and prints the lines they say as they
// come.
func (c Config) each(f func(i int, s Service, say func(string))) {
	lines := make(chan string)
	var all sync.WaitGroup
	for i, s := range c.Services {
		all.Go(func() { f(i, s, func(line string) { lines <- line }) })
	}
	go func() {
		all.Wait()
		close(lines)
	}()
	for line := range lines {
		_, _ = fmt.Fprintln(c.Out, line)
	}
}

// come comes by one service. Its variable wins over PARLEY_SERVICES, since the
// tests will see it in any case.
func come(ctx context.Context, s Service, selected []string, ways []way, say func(string)) (*found, error) {
	switch {
	case os.Getenv(s.Variable) != "":
		return &found{how: "taken from " + s.Variable}, nil
	case !slices.Contains(selected, s.Name):
		return nil, fmt.Errorf("PARLEY_SERVICES=%s", os.Getenv("PARLEY_SERVICES"))
	}
	f, err := obtain(ctx, s, ways, say)
	if err == nil {
		equip(ctx, s, say)
	}
	return f, err
}

// lacking returns an error that names the required services that are missing.
func lacking(list []Service, missing []error, required []string) error {
	var all []string
	for i, s := range list {
		if missing[i] != nil && slices.Contains(required, s.Name) {
			reason, _, _ := strings.Cut(missing[i].Error(), "\n") // the log has been printed
			all = append(all, fmt.Sprintf("PARLEY_REQUIRE names %s, not started: %s", s.Name, reason))
		}
	}
	return faults(all)
}

// faults returns an error of one line that tells of them all, or nil.
func faults(all []string) error {
	if len(all) == 0 {
		return nil
	}
	return errors.New("services: " + strings.Join(all, "; "))
}

// environ returns the variables of the services that were found.
func environ(list []Service, got []*found) []string {
	var env []string
	for i, s := range list {
		if got[i] != nil && got[i].address != "" {
			env = append(env, s.Variable+"="+got[i].address)
		}
	}
	return env
}
