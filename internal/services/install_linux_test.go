package services

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestInstallingPackagesStartsNoService(t *testing.T) {
	// An apt-get that fails until it has updated, as on a machine without lists,
	// and keeps a record of what the policy said each time.
	const script = `#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >>calls
./policy redis-server start; echo $? >>policies
case "$*" in
*update) touch updated ;;
*) test -e updated || { echo "unable to locate package"; exit 100; } ;;
esac
`
	for _, c := range []struct{ about, policy, said, left string }{
		{"without a policy", "", "101\n101\n101\n", ""},
		{"with one that a crash left behind", "#!/bin/sh\n" + policyMark + "exit 0\n", "101\n101\n101\n", ""},
		{"with one of the machine's owner", "#!/bin/sh\nexit 42\n", "42\n42\n42\n", "#!/bin/sh\nexit 42\n"},
	} {
		t.Run(c.about, func(t *testing.T) {
			dir := t.TempDir()
			file := func(name string) string { return filepath.Join(dir, name) }
			if err := os.WriteFile(file("apt-get"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			if c.policy != "" {
				if err := os.WriteFile(file("policy"), []byte(c.policy), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			var said []string
			err := installUnder(t.Context(), file("policy"), file("apt-get"), Redis(), func(line string) { said = append(said, line) })
			if err != nil {
				t.Errorf("install = %v, want nil", err)
			}
			if len(said) != 1 || said[0] != "redis: installing redis-server" {
				t.Errorf("install says %q, want what it installs", said)
			}
			if got := read(t, file("policies")); got != c.said {
				t.Errorf("while apt-get ran the policy said %q, want %q", got, c.said)
			}
			if got := read(t, file("policy")); got != c.left {
				t.Errorf("the policy afterwards is %q, want %q", got, c.left)
			}
			calls := strings.Split(strings.TrimSpace(read(t, file("calls"))), "\n")
			if len(calls) != 3 || !strings.HasSuffix(calls[2], "install -y --no-install-recommends redis-server") {
				t.Errorf("apt-get was called with %q, want install, update, install", calls)
			}
		})
	}
}

// read returns a file's text, "" if there is none.
func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func TestThePolicyEndsWithTheProcessThatPlacedIt(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy")
	if _, err := forbidStarts(policy); err != nil {
		t.Fatal(err)
	}
	// A process that is gone: its number in place of ours.
	gone := shell(t, "echo up; exec sleep 600")
	if err := gone.kill(); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(read(t, policy), strconv.Itoa(os.Getpid()), strconv.Itoa(gone.cmd.Process.Pid), 1)
	if err := os.WriteFile(policy, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), policy, "redis-server", "start").Run(); err != nil {
		t.Errorf("the policy of a process that is gone = %v, want it to allow", err)
	}
}

func TestInstallationsWaitForEachOther(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	if _, err := lock(ctx, dir); !errors.Is(err, io.EOF) {
		t.Errorf("lock() of what is locked = %v, want to wait until the context ends", err)
	}
	unlock()
	unlock, err = lock(t.Context(), dir)
	if err != nil {
		t.Fatalf("lock() of what is unlocked = %v, want nil", err)
	}
	unlock()
}

func TestOnlyRootInstalls(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Setenv("PATH", t.TempDir()) // as root without apt-get, which is not Debian
	}
	err := install(t.Context(), Redis(), func(line string) { t.Errorf("install says %q, want it to do nothing", line) })
	if err == nil || !strings.Contains(err.Error(), "redis-server is not installed, and only root on Debian") {
		t.Errorf("install() = %v, want the reason", err)
	}
}
