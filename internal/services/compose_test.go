//go:build unix

package services

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A fake docker keeps a record of its calls and runs a script on each.
func fakeDocker(t *testing.T, script string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	text := "#!/bin/sh\necho \"$@\" port=[${PARLEY_REDIS_PORT-${PARLEY_KAFKA_PORT-unset}}] >>" + calls + "\n" + script
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

func quiet(string) {}

func TestAServiceOfTheComposeFileRunsInAProjectOfItsOwn(t *testing.T) {
	addr := serve(t, func(c net.Conn) { redisServer("+PONG\r\n", "redis_version:7.4.2\r\n")(c) })
	calls := fakeDocker(t, `case "$*" in *" port redis 6379") echo 127.0.0.1:`+strconv.Itoa(addr.Port)+`;; esac`)
	f, err := compose("compose.yaml")(t.Context(), Redis(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if f.address != addr.String() || f.version != "7.4.2" || f.how != "ready in Docker" {
		t.Errorf("compose() = %+v, want redis 7.4.2 at %v", f, addr)
	}
	if err := f.stop(t.Context()); err != nil {
		t.Errorf("stop = %v, want nil", err)
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	project := "compose --file compose.yaml --project-name parley-redis-" + strconv.Itoa(os.Getpid())
	want := "info port=[unset]\ncompose version port=[unset]\n" +
		project + " up --detach --quiet-pull redis port=[]\n" +
		project + " port redis 6379 port=[]\n" +
		project + " down --volumes --timeout 5 port=[]\n"
	if string(text) != want {
		t.Errorf("docker was called with\n%swant\n%s", text, want)
	}
}

func TestAContainerThatDoesNotStartIsRemovedAndTheReasonTold(t *testing.T) {
	calls := fakeDocker(t, `case "$*" in *" up "*) echo "pull access denied" >&2; exit 1;; esac`)
	_, err := compose("compose.yaml")(t.Context(), Redis(), quiet)
	if err == nil || !strings.Contains(err.Error(), "pull access denied") {
		t.Errorf("compose() = %v, want docker's reason", err)
	}
	if text, err := os.ReadFile(calls); err != nil || !strings.Contains(string(text), " down --volumes") {
		t.Errorf("docker was called with %q, %v, want a down at the end", text, err)
	}
}

func TestWithoutADockerEngineComposeSaysSo(t *testing.T) {
	for _, c := range []struct{ about, file, script, want string }{
		{"no compose file", "", "exit 0", "no compose.yaml"},
		{"no engine", "compose.yaml", `test "$1" != info`, "no Docker engine runs"},
		{"no compose command", "compose.yaml", `test "$1" != compose`, "docker has no compose command"},
	} {
		t.Run(c.about, func(t *testing.T) {
			fakeDocker(t, c.script)
			_, err := compose(c.file)(t.Context(), Redis(), func(line string) { t.Errorf("compose says %q, want nothing", line) })
			if err == nil || err.Error() != c.want {
				t.Errorf("compose() = %v, want %s", err, c.want)
			}
		})
	}
}

// Kafka sends its clients to the address that it is told, so the engine must not pick
// another port than the one in the file's variable.
func TestAServerThatTellsItsClientsWhereItIsKnowsItsPortBeforeItStarts(t *testing.T) {
	addr := serve(t, kafkaServer("\x00\x00\x00\x00\x00\x00", kafkaBroker("127.0.0.1")))
	calls := fakeDocker(t, `case "$*" in *" port kafka 9092") echo `+addr.String()+`;; esac`)
	f, err := compose("compose.yaml")(t.Context(), Kafka(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.stop(t.Context()); err != nil {
		t.Errorf("stop = %v, want nil", err)
	}
	ports := make(map[string]bool)
	for line := range strings.Lines(read(t, calls)) {
		if _, port, _ := strings.Cut(strings.TrimSpace(line), "port=["); strings.HasPrefix(line, "compose --file") {
			ports[strings.TrimSuffix(port, "]")] = true
		}
	}
	if len(ports) != 1 || ports[""] || ports["unset"] {
		t.Errorf("docker is called with the ports %v, want one, and the same, for up, port and down", ports)
	}
}
