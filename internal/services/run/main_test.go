//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain is also the command under test, and a parent of it that can be killed.
func TestMain(m *testing.M) {
	switch os.Getenv("PARLEY_TEST_AS") {
	case "run":
		main()
		os.Exit(0)
	case "parent":
		os.Setenv("PARLEY_TEST_AS", "run")
		cmd := exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		fmt.Println(cmd.Run())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program returns the command with no service wanted.
func program(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "PARLEY_TEST_AS=run", "PARLEY_SERVICES=none", "PARLEY_REQUIRE=",
		"PARLEY_RABBITMQ_URL=", "PARLEY_REDIS_ADDR=", "PARLEY_POSTGRES_URL=", "PARLEY_JAEGER_ADDRS=", "PARLEY_ZIPKIN_URL=",
		"PARLEY_KAFKA_ADDR=", "PARLEY_SQS_URL=")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func TestItExitsWithTheCommandsCode(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 128 + 15} {
		cmd, _, stderr := program(t, "--", "sh", "-c", script)
		if got := exitCode(t, cmd.Run()); got != want {
			t.Errorf("exit code after %q = %d, want %d; it prints %s", script, got, want, stderr)
		}
		if n := strings.Count(stderr.String(), "not started: PARLEY_SERVICES=none\n"); n != 7 {
			t.Errorf("it prints %q, want a line for each of 7 services", stderr)
		}
	}
	cmd, _, stderr := program(t, "--", "/nonexistent/command")
	if got := exitCode(t, cmd.Run()); got != 1 || !strings.Contains(stderr.String(), "/nonexistent/command") {
		t.Errorf("exit code without the command = %d, printing %q, want 1 and the reason", got, stderr)
	}
}

func TestTheCommandHasOurInputAndOutput(t *testing.T) {
	cmd, stdout, stderr := program(t, "--", "sh", "-c", `read line; echo "out $line"; echo "err $line" >&2`)
	cmd.Stdin = strings.NewReader("hello\n")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "out hello\n" || !strings.Contains(stderr.String(), "err hello\n") {
		t.Errorf("the command printed %q and %q, want hello on both", stdout, stderr)
	}
}

func TestAMissingRequiredServiceFailsBeforeTheCommandRuns(t *testing.T) {
	cmd, stdout, stderr := program(t, "--", "echo", "ran")
	cmd.Env = append(cmd.Env, "PARLEY_REQUIRE=redis")
	if got := exitCode(t, cmd.Run()); got != 1 || stdout.Len() > 0 {
		t.Errorf("exit code = %d, the command printed %q, want 1 and the command not run", got, stdout)
	}
	if want := "PARLEY_REQUIRE names redis, not started: PARLEY_SERVICES=none"; !strings.Contains(stderr.String(), want) {
		t.Errorf("it prints %q, want %q", stderr, want)
	}
}

func TestWrongArgumentsPrintTheUsage(t *testing.T) {
	for _, args := range [][]string{{"--"}, {"go", "test"}, {"-h"}} {
		cmd, _, stderr := program(t, args...)
		if got := exitCode(t, cmd.Run()); got != 2 || !strings.HasPrefix(stderr.String(), "usage: ") {
			t.Errorf("exit code of %q = %d, printing %q, want 2 and the usage", args, got, stderr)
		}
	}
}

// Both the command and its child tell when they are up and when they are told.
const family = `
trap "echo command told; exit 5" TERM INT
echo command up
sh -c 'trap "echo child told; exit 0" TERM INT; echo child up; while :; do sleep 0.1; done'
exit 6`

// lines reads what is printed until the wanted lines were.
func lines(t *testing.T, out io.Reader, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	for s := bufio.NewScanner(out); len(missing) > 0; delete(missing, s.Text()) {
		if !s.Scan() {
			t.Fatalf("the output ends without %v", missing)
		}
	}
}

func TestASignalReachesTheCommandAndItsChildren(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd, _, stderr := program(t, "--", "sh", "-c", family)
		cmd.Stdout = nil
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines(t, out, "child up", "command up")
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		lines(t, out, "child told", "command told")
		if got := exitCode(t, cmd.Wait()); got != 5 {
			t.Errorf("exit code after %v = %d, want the command's 5; it prints %s", s, got, stderr)
		}
	}
}

func TestTheDeathOfItsParentEndsIt(t *testing.T) {
	cmd, _, _ := program(t, "--", "sh", "-c", family)
	cmd.Env = append(cmd.Env, "PARLEY_TEST_AS=parent")
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines(t, out, "child up", "command up")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	lines(t, out, "child told", "command told")
	if _, err := io.Copy(io.Discard, out); err != nil { // ends when all that hold it have ended
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestWithoutACommandItPrintsTheVariablesAndStaysUntilInterrupted(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skipf("redis is not installed: %v", err)
	}
	cmd, _, stderr := program(t)
	tmp := t.TempDir()
	cmd.Env = append(cmd.Env, "PARLEY_SERVICES=redis", "TMPDIR="+tmp)
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line string
	for s := bufio.NewScanner(out); line == "" && s.Scan(); {
		line = s.Text()
	}
	if !strings.HasPrefix(line, "export 'PARLEY_REDIS_ADDR=127.0.0.1:") {
		t.Errorf("it prints %q, want a line to export redis; on stderr %s", line, stderr)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := exitCode(t, cmd.Wait()); got != 0 {
		t.Errorf("exit code after an interrupt = %d, want 0; it prints %s", got, stderr)
	}
	if left, err := filepath.Glob(filepath.Join(tmp, "*")); err != nil || len(left) > 0 {
		t.Errorf("it leaves %q, %v, want nothing", left, err)
	}
}

func TestTheComposeFileIsFoundFromBelowTheRoot(t *testing.T) {
	want, err := filepath.Abs("../../integration/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := composeFile(); got != want {
		t.Errorf("composeFile() = %q, want %q", got, want)
	}
	t.Chdir(t.TempDir())
	if got := composeFile(); got != "" {
		t.Errorf("composeFile() elsewhere = %q, want none", got)
	}
}
