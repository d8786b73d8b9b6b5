package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	engineCap = 5 * time.Second // for a Docker engine to say that it runs
	pullCap   = 5 * time.Minute // for an image to arrive and its container to start
)

// compose returns the way that starts a service of the compose file in a Docker
// engine, as a project of its own and on a port that the engine picks, or we where the server
// has to know it.
func compose(file string) way {
	return func(ctx context.Context, s Service, say func(string)) (*found, error) {
		if file == "" {
			return nil, errors.New("no compose.yaml")
		}
		c := composed{file: file, name: s.Name, project: fmt.Sprintf("parley-%s-%d", s.Name, os.Getpid())}
		if err := engine(ctx); err != nil {
			return nil, err
		}
		if s.advertises {
			port, err := freePort(ctx)
			if err != nil {
				return nil, err
			}
			c.port = strconv.Itoa(port)
		}
		say(s.Name + ": starting its container")
		f, err := c.up(ctx, s)
		if err != nil {
			_ = c.down(ctx)
			return nil, err
		}
		return f, nil
	}
}

// engine returns nil if a Docker engine runs and docker has its compose command.
func engine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engineCap)
	defer cancel()
	if _, err := docker(ctx, nil, "info"); err != nil {
		return errors.New("no Docker engine runs")
	}
	if _, err := docker(ctx, nil, "compose", "version"); err != nil {
		return errors.New("docker has no compose command")
	}
	return nil
}

// A composed is one service of a compose file, in a project of its own.
type composed struct {
	file, name, project string

	// port is the port of this machine. Empty leaves the choice to the engine.
	port string
}

func (c composed) up(ctx context.Context, s Service) (*found, error) {
	pull, cancel := context.WithTimeout(ctx, pullCap)
	defer cancel()
	if _, err := c.run(pull, "up", "--detach", "--quiet-pull", c.name); err != nil {
		return nil, err
	}
	hostport, err := c.at(pull, s.Port)
	if err != nil {
		return nil, err
	}
	all := []string{hostport}
	for _, port := range s.More {
		more, err := c.at(pull, port)
		if err != nil {
			return nil, err
		}
		all = append(all, more)
	}
	version, err := await(ctx, s, hostport, nil)
	if err != nil {
		log, _ := c.run(pull, "logs", "--no-color", "--tail", strconv.Itoa(shownLines), c.name)
		return nil, withLog(fmt.Errorf("docker: %w", err), strings.TrimSpace(log))
	}
	return &found{address: s.address(strings.Join(all, ",")), version: version, how: "ready in Docker", stop: c.down}, nil
}

// at returns where the engine has published a port of the container.
func (c composed) at(ctx context.Context, port int) (hostport string, err error) {
	hostport, err = c.run(ctx, "port", c.name, strconv.Itoa(port))
	return strings.TrimSpace(hostport), err
}

// down removes the project's container, network and volumes. It does not end
// early with ctx, which may be what made it necessary.
func (c composed) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopCap)
	defer cancel()
	_, err := c.run(ctx, "down", "--volumes", "--timeout", "5")
	return err
}

func (c composed) run(ctx context.Context, args ...string) (string, error) {
	// Set also when it is empty: unset means the usual port.
	env := append(os.Environ(), "PARLEY_"+strings.ToUpper(c.name)+"_PORT="+c.port)
	return docker(ctx, env, append([]string{"compose", "--file", c.file, "--project-name", c.project}, args...)...)
}

func docker(ctx context.Context, env []string, args ...string) (output string, err error) {
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, &out, &log, time.Second
	if err := cmd.Run(); err != nil {
		return "", withLog(fmt.Errorf("docker %s: %w", args[0], err), strings.TrimSpace(log.String()))
	}
	return out.String(), nil
}
