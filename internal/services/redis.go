package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Redis is a Redis server without a password, which keeps nothing on disk: what
// it holds ends with its process. The variable holds host:port.
func Redis() Service {
	return Service{
		Name:     "redis",
		Variable: "PARLEY_REDIS_ADDR",
		Packages: []string{"redis-server"},
		Port:     6379,
		address:  func(hostport string) string { return hostport },
		greet:    greetRedis,
		find:     func() (string, error) { return exec.LookPath("redis-server") },
		launch:   launchRedis,
	}
}

// DurableRedis is a Redis that has each change on the disk before it answers, for
// tests that start a [Node]. It is not one of [All]: the variable is that of Redis.
func DurableRedis() Service {
	s := Redis()
	s.launch = func(ctx context.Context, dir string, port int) ([]*process, error) {
		return runRedis(ctx, dir, port, "--appendonly", "yes", "--appendfsync", "always")
	}
	return s
}

func launchRedis(ctx context.Context, dir string, port int) ([]*process, error) {
	return runRedis(ctx, dir, port, "--appendonly", "no")
}

func runRedis(ctx context.Context, dir string, port int, persistence ...string) ([]*process, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	server, err := start(ctx, program{
		path: path,
		args: append([]string{
			"--bind", "127.0.0.1", "--port", strconv.Itoa(port),
			"--dir", dir, "--save", "",
		}, persistence...),
		dir:  dir,
		quit: syscall.SIGTERM,
	})
	if err != nil {
		return nil, err
	}
	return []*process{server}, nil
}

// greetRedis speaks RESP: a simple string answers PING, a bulk string INFO.
func greetRedis(conn io.ReadWriter) (version string, err error) {
	in := bufio.NewReader(io.LimitReader(conn, maxGreeting))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return "", err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	if line != "+PONG\r\n" {
		return "", fmt.Errorf("redis answers PING with %q", line)
	}
	if _, err := io.WriteString(conn, "INFO server\r\n"); err != nil {
		return "", err
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("redis gives no version: %w", err)
		}
		if version, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(version), nil
		}
		if strings.HasPrefix(line, "-") {
			return "", errors.New("redis refuses INFO: " + strings.TrimSpace(line))
		}
	}
}
