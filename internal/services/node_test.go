package services

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// reachable returns a directory that the user postgres can reach, too.
func reachable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func installed(t *testing.T, s Service) {
	t.Helper()
	if _, err := s.find(); err != nil {
		t.Skipf("%s is not installed: %v", s.Name, err)
	}
}

// down checks that nothing listens where the node was.
func down(t *testing.T, n *Node, after string) {
	t.Helper()
	if version, err := n.service.hello(t.Context(), n.hostport()); err == nil {
		t.Errorf("after %s %s %s still answers at %s", after, n.service.Name, version, n.hostport())
	}
	if len(n.processes) != 0 {
		t.Errorf("after %s there are %d processes, want none", after, len(n.processes))
	}
}

// mute are the servers that do not tell their version.
var mute = map[string]bool{"jaeger": true, "kafka": true, "elasticmq": true}

func TestAKilledNodeComesBackOnItsPort(t *testing.T) {
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			installed(t, s)
			t.Parallel()
			n, err := s.Start(t.Context(), reachable(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = n.Kill() })
			url := n.URL()
			if n.Version() == "" && !mute[s.Name] || !strings.Contains(url, "127.0.0.1:") {
				t.Errorf("version %q at %q, want a version on loopback", n.Version(), url)
			}
			if err := n.Start(t.Context()); err == nil {
				t.Error("Start() of a node that is up = nil, want an error")
			}

			if err := n.Kill(); err != nil {
				t.Errorf("Kill() = %v, want nil", err)
			}
			down(t, n, "Kill")
			if err := n.Stop(t.Context()); err != nil {
				t.Errorf("Stop() of a node that is down = %v, want nil", err)
			}

			if err := n.Start(t.Context()); err != nil {
				t.Fatalf("Start() after Kill = %v, want nil", err)
			}
			if n.URL() != url {
				t.Errorf("URL() = %q after a restart, want %q as before", n.URL(), url)
			}
			if _, err := s.hello(t.Context(), n.hostport()); err != nil {
				t.Errorf("after the restart: %v", err)
			}
			if err := n.Stop(t.Context()); err != nil {
				t.Errorf("Stop() = %v, want nil", err)
			}
			down(t, n, "Stop")
		})
	}
}

func TestControlRunsTheServersOwnProgramAgainstTheNode(t *testing.T) {
	t.Parallel()
	s := RabbitMQ()
	installed(t, s)
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Kill() })
	if out, err := n.Control(t.Context(), "eval", "node()."); err != nil || !strings.Contains(out, "parley@localhost") {
		t.Errorf("Control(eval node) = %q, %v, want the node's name", out, err)
	}
	_, err = n.Control(t.Context(), "no_such_command")
	if err == nil || !strings.HasPrefix(err.Error(), "services: rabbitmqctl no_such_command: ") || !strings.Contains(err.Error(), "\n\t") {
		t.Errorf("Control(no_such_command) = %v, want an error with what rabbitmqctl prints", err)
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, stop)
	defer cancel()
	if _, err := n.Control(ctx, "await_startup"); !errors.Is(err, stop) {
		t.Errorf("Control() = %v, want the cause of its context", err)
	}
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Control(t.Context(), "status"); err == nil || !strings.Contains(err.Error(), "is down") {
		t.Errorf("Control() of a node that is down = %v, want an error that says so", err)
	}
	none := &Node{service: Redis()}
	if _, err := none.Control(t.Context(), "info"); err == nil || !strings.Contains(err.Error(), "no control program") {
		t.Errorf("Control() of redis = %v, want an error", err)
	}
}

func TestInstalledSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", "")
	if err := Redis().Installed(); err == nil || !strings.Contains(err.Error(), "install redis-server") {
		t.Errorf("Installed() = %v, want the package to install", err)
	}
}

func TestAServerThatDiesEarlyIsToldWithItsLog(t *testing.T) {
	s := Redis()
	installed(t, s)
	_, err := s.Start(t.Context(), filepath.Join(t.TempDir(), "missing"))
	if err == nil || !strings.HasPrefix(err.Error(), "services: redis: ") {
		t.Errorf("Start() in a directory that does not exist = %v, want an error", err)
	}

	dir := t.TempDir()
	s.launch = func(ctx context.Context, _ string, _ int) ([]*process, error) {
		p, err := start(ctx, program{path: "/bin/sh", args: []string{"-c", "echo cannot read my data; exit 1"}, dir: dir})
		return []*process{p}, err
	}
	n, err := s.Start(t.Context(), dir)
	if err == nil {
		t.Fatalf("Start() = %+v, want an error", n)
	}
	for _, want := range []string{"services: redis: ended before it was ready", "the log ends:\n\tcannot read my data"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Start() = %q, want it to say %q", err, want)
		}
	}
}

func TestRunStartsAndStopsARealServer(t *testing.T) {
	s := Redis()
	installed(t, s)
	t.Setenv(s.Variable, "")
	t.Setenv("PARLEY_SERVICES", "redis")
	t.Setenv("TMPDIR", t.TempDir())
	var out strings.Builder
	var address string
	err := run(t.Context(), Config{Services: []Service{s}, Out: &out}, []way{own},
		func(ctx context.Context, env []string) error {
			if len(env) != 1 {
				t.Errorf("use gets %q, want one variable", env)
				return nil
			}
			_, address, _ = strings.Cut(env[0], "=")
			_, err := s.hello(ctx, address)
			return err
		})
	if err != nil {
		t.Errorf("run() = %v, want nil", err)
	}
	if line := out.String(); !strings.HasPrefix(line, "redis ") || !strings.Contains(line, " ready in ") {
		t.Errorf("run() prints %q, want that redis is ready", line)
	}
	if _, err := s.hello(t.Context(), address); err == nil {
		t.Errorf("redis still answers at %s after run", address)
	}
	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("run() leaves %q, %v, want nothing", left, err)
	}
}

func TestAPausedServerHangsUntilItIsResumed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a process can be frozen on Linux alone")
	}
	s := Redis()
	installed(t, s)
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Kill() })
	if err := n.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if version, err := s.hello(ctx, n.hostport()); err == nil {
		t.Errorf("a paused server answers as %s, want nothing", version)
	}
	if err := n.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.hello(t.Context(), n.hostport()); err != nil {
		t.Errorf("after Resume: %v", err)
	}
	if err := n.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := n.Kill(); err != nil {
		t.Errorf("Kill() of a paused server = %v, want nil", err)
	}
	if err := errors.Join(n.Pause(), n.Resume()); err == nil || strings.Count(err.Error(), "is down") != 2 {
		t.Errorf("Pause() and Resume() of a node that is down = %v, want two errors", err)
	}
}

func TestAKafkaSendsItsClientsToItsProxy(t *testing.T) {
	t.Parallel()
	installed(t, Kafka())
	var asked []string
	s := KafkaBehind(func(hostport string) (string, error) {
		asked = append(asked, hostport)
		return "localhost:1", nil
	})
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Kill() })
	if !slices.Equal(asked, []string{n.URL()}) {
		t.Errorf("the proxy is asked for %q, want for %s once", asked, n.URL())
	}
	conn, err := net.Dial("tcp", n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := askKafka(conn, conn, kafkaMetadata, kafkaMetadataVersion, []byte{0, 0, 0, 0})
	if err != nil || !strings.Contains(string(answer), "\x00\x09localhost\x00\x00\x00\x01") {
		t.Errorf("Kafka sends its clients to %q, %v, want to localhost:1", answer, err)
	}
	broken := KafkaBehind(func(string) (string, error) { return "", io.ErrClosedPipe })
	if _, err := broken.Start(t.Context(), t.TempDir()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Start() = %v, want the error of the proxy", err)
	}
}
