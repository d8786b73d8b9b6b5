package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Node is a server of its own for a test that stops it, kills it and starts it
// again. It is not safe for concurrent use, save that calls of Control may
// overlap while no other does.
type Node struct {
	service   Service
	dir       string
	port      int
	version   string
	processes []*process // as launch returns them; none when the server is down
}

// Start runs the server on a free port of 127.0.0.1 with its data below dir, and
// returns when it is ready. dir must exist; PostgreSQL, which refuses to run as
// root, then runs as the user postgres, who must be able to reach it. The caller
// calls Stop at the end.
//
// ctx ends the start, not the server. Start fails when the program is not
// installed, or the server ends or is not ready within a minute.
func (s Service) Start(ctx context.Context, dir string) (*Node, error) {
	port, err := freePorts(ctx, 1+len(s.More))
	if err != nil {
		return nil, fmt.Errorf("services: %s: %w", s.Name, err)
	}
	n := &Node{service: s, dir: dir, port: port}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// URL returns the node's address as the Service's Variable holds it. It stays
// the same for the node's life.
func (n *Node) URL() string {
	all := []string{n.hostport()}
	for i := range n.service.More {
		all = append(all, loopback(n.port+1+i))
	}
	return n.service.address(strings.Join(all, ","))
}

// Version returns what the server says that it is.
func (n *Node) Version() string { return n.version }

// Start starts a server that is down, on the port and with the data it had, and
// returns when it is ready. It fails as [Service.Start] does, and when the
// server is up.
func (n *Node) Start(ctx context.Context) error {
	if len(n.processes) > 0 {
		return fmt.Errorf("services: %s is up: stop or kill it first", n.service.Name)
	}
	var err error
	if n.processes, err = n.service.launch(ctx, n.dir, n.port); err == nil {
		server := n.processes[len(n.processes)-1]
		if n.version, err = await(ctx, n.service, n.hostport(), server.gone); err == nil {
			return nil
		}
		err = withLog(err, server.log.String())
	}
	return errors.Join(fmt.Errorf("services: %s: %w", n.service.Name, err), n.Kill())
}

// Stop ends the server cleanly and returns when its processes are gone. When ctx
// ends first it kills them, and says so in the error. A server that had ended by
// itself is an error, with the end of its log; one that is down already is not.
func (n *Node) Stop(ctx context.Context) error {
	return n.end(func(p *process) error { return p.stop(ctx) })
}

// Kill ends the server with SIGKILL, as a crash would, and returns when its
// processes are gone. A server that is down already is left so.
func (n *Node) Kill() error { return n.end((*process).kill) }

// Pause freezes the server, as a machine does that hangs: its connections stay, and
// nothing answers on them, until Resume or Kill. It fails when the server is down.
func (n *Node) Pause() error { return n.signal(freeze) }

// Resume lets a server go on that Pause has frozen. It fails when the server is down.
func (n *Node) Resume() error { return n.signal(thaw) }

func (n *Node) signal(one func(*os.Process) error) error {
	if len(n.processes) == 0 {
		return fmt.Errorf("services: %s is down: start it first", n.service.Name)
	}
	server := n.processes[len(n.processes)-1]
	if err := one(server.cmd.Process); err != nil {
		return fmt.Errorf("services: %s: %w", n.service.Name, err)
	}
	return nil
}

// Control runs the program by which the server is administered, against this
// node, and returns what it prints:
//
//	_, err := node.Control(ctx, "stop_app") // rabbitmqctl stop_app
//
// It fails, with what the program printed, when the program does or ctx ends
// first; when the server is down; and for services that have no such program.
// RabbitMQ's takes a second or two to start.
func (n *Node) Control(ctx context.Context, args ...string) (string, error) {
	fail := func(err error) error {
		return fmt.Errorf("services: %s %s: %w", n.service.control, strings.Join(args, " "), err)
	}
	switch {
	case n.service.control == "":
		return "", fmt.Errorf("services: %s has no control program", n.service.Name)
	case len(n.processes) == 0:
		return "", fail(errors.New("the server is down: start it first"))
	}
	server := n.processes[len(n.processes)-1].cmd
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(server.Path), n.service.control), args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = server.Env, n.dir, stragglers
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", fail(withLog(err, strings.TrimSpace(string(out))))
	}
	return string(out), nil
}

func (n *Node) end(one func(*process) error) error {
	var errs []error
	// The server first, then what it leans on.
	for i := len(n.processes) - 1; i >= 0; i-- {
		if err := one(n.processes[i]); err != nil {
			errs = append(errs, fmt.Errorf("services: %s: %w", n.service.Name, err))
		}
	}
	n.processes = nil
	return errors.Join(errs...)
}

func (n *Node) hostport() string { return loopback(n.port) }
