package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// RabbitMQ is a broker of one node, user and password guest, virtual host /. The
// variable holds an AMQP URL. What is durable survives a restart and a crash.
func RabbitMQ() Service {
	return Service{
		Name:     "rabbitmq",
		Variable: "PARLEY_RABBITMQ_URL",
		Packages: []string{"rabbitmq-server"},
		Port:     5672,
		address:  func(hostport string) string { return "amqp://guest:guest@" + hostport + "/" },
		greet:    greetAMQP,
		find:     findRabbitMQ,
		launch:   launchRabbitMQ,
		control:  "rabbitmqctl",
	}
}

// findRabbitMQ prefers the script of Debian's package that runs the server over
// the wrapper in PATH, which first becomes the user rabbitmq and so loses the
// environment that is given to it.
func findRabbitMQ() (string, error) {
	if path, err := exec.LookPath("/usr/lib/rabbitmq/bin/rabbitmq-server"); err == nil {
		return path, nil
	}
	return exec.LookPath("rabbitmq-server")
}

// launchRabbitMQ starts Erlang's port mapper and the broker. Left to itself the
// broker would start the mapper as a daemon and leave it behind.
func launchRabbitMQ(ctx context.Context, dir string, port int) ([]*process, error) {
	path, err := findRabbitMQ()
	if err != nil {
		return nil, err
	}
	epmdPath, err := exec.LookPath("epmd")
	if err != nil {
		return nil, err
	}
	epmdPort, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	distPort, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	env, err := rabbitEnv(dir, port, epmdPort, distPort)
	if err != nil {
		return nil, err
	}
	epmd, err := start(ctx, program{path: epmdPath, env: env, dir: dir, quit: syscall.SIGTERM})
	if err != nil {
		return nil, err
	}
	// The broker starts a daemon after all if the mapper is not there in time.
	err = poll(ctx, epmd.gone, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", loopback(epmdPort))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return []*process{epmd}, fmt.Errorf("epmd: %w", err)
	}
	server, err := start(ctx, program{path: path, env: env, dir: dir, quit: syscall.SIGTERM})
	if err != nil {
		return []*process{epmd}, err
	}
	return []*process{epmd, server}, nil
}

// rabbitEnv writes the broker's configuration below dir and returns an
// environment that knows nothing of the machine's own broker.
func rabbitEnv(dir string, port, epmdPort, distPort int) ([]string, error) {
	files := map[string]string{
		"rabbitmq.conf":   "",
		"advanced.config": "[].\n",
		"plugins":         "[].\n",
		"env.conf":        "",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	conf := filepath.Join(dir, "conf.d")
	if err := os.Mkdir(conf, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"HOME=" + dir, // holds the cookie by which Erlang's nodes trust each other
		"ERL_CRASH_DUMP=" + filepath.Join(dir, "erl_crash.dump"),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT=" + strconv.Itoa(epmdPort),
		"RABBITMQ_NODENAME=parley@localhost",
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT=" + strconv.Itoa(port),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(distPort),
		"RABBITMQ_CONF_ENV_FILE=" + filepath.Join(dir, "env.conf"),
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "rabbitmq.conf"),
		"RABBITMQ_CONFIG_FILES=" + conf,
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + filepath.Join(dir, "advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "mnesia"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"),
		"RABBITMQ_LOGS=-", // to standard output, whose end we keep
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CTL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}", // rabbitmqctl is an Erlang node too
		// The script then becomes the broker instead of waiting for it, so that
		// the process we signal, wait for and kill is the broker itself.
		"detached=true",
	}, nil
}
