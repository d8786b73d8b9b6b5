//go:build unix

package services

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
)

// script starts a shell script.
func script(t *testing.T, text string) *process {
	t.Helper()
	p, err := start(t.Context(), program{path: "/bin/sh", args: []string{"-c", text}, dir: t.TempDir(), quit: syscall.SIGTERM})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.kill() })
	return p
}

// shell starts a script and returns when it has printed "up".
func shell(t *testing.T, text string) *process {
	t.Helper()
	p := script(t, text)
	err := poll(t.Context(), p.gone, func(context.Context) error {
		if !strings.Contains(p.log.String(), "up") {
			return errors.New("not up")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// alive reports whether the process is there still.
func alive(p *process) bool { return syscall.Kill(p.cmd.Process.Pid, 0) == nil }

func TestStopReturnsWhenTheProcessAndItsChildrenAreGone(t *testing.T) {
	// The child takes its time after its parent has ended.
	p := shell(t, `(trap "" TERM; sleep 0.3; echo last words) & trap "exit 0" TERM; echo up; wait`)
	if err := p.stop(t.Context()); err != nil {
		t.Errorf("stop() = %v, want nil", err)
	}
	if alive(p) {
		t.Error("stop() has returned before the process is gone")
	}
	if log := p.log.String(); !strings.Contains(log, "last words") {
		t.Errorf("stop() has returned before the child is gone: the log is %q", log)
	}
}

func TestStopKillsAProcessThatDoesNotEndWhenAsked(t *testing.T) {
	p := shell(t, `trap "" TERM; echo up; exec sleep 600`)
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("time is up")
	cancel(impatient)
	if err := p.stop(ctx); !errors.Is(err, impatient) {
		t.Errorf("stop() = %v, want an error with the cause", err)
	}
	if alive(p) {
		t.Error("stop() has returned before the process is gone")
	}
}

func TestKillEndsAProcessThatIgnoresSignals(t *testing.T) {
	p := shell(t, `trap "" TERM INT; echo up; exec sleep 600`)
	if err := p.kill(); err != nil || alive(p) {
		t.Errorf("kill() = %v, alive %v, want the process gone", err, alive(p))
	}
	if err := p.kill(); err != nil {
		t.Errorf("second kill() = %v, want nil", err)
	}
}

func TestAProcessThatEndedByItselfIsToldWithTheEndOfItsLog(t *testing.T) {
	p := script(t, `echo "out of memory" >&2; exit 3`)
	<-p.gone
	err := p.stop(t.Context())
	for _, want := range []string{"had ended before", "exit status 3", "out of memory"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("stop() = %v, want it to say %q", err, want)
		}
	}
}

func TestAProgramThatDoesNotExistIsAnError(t *testing.T) {
	if _, err := start(t.Context(), program{path: "/nonexistent/server"}); err == nil {
		t.Error("start() = nil, want an error")
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var log tail
	for range 2 * keptBytes {
		_, _ = log.Write([]byte("x\n"))
	}
	_, _ = log.Write([]byte("the end\n"))
	lines := strings.Split(log.String(), "\n")
	if len(lines) != shownLines || lines[shownLines-1] != "the end" || len(log.kept) > keptBytes {
		t.Errorf("the log shows %d lines and keeps %d bytes, want %d and at most %d; it ends %q",
			len(lines), len(log.kept), shownLines, keptBytes, lines[len(lines)-1])
	}
}

func TestAProgramThatIsRunToItsEndEndsWithItsContext(t *testing.T) {
	run := func(ctx context.Context, text string) error {
		return finish(ctx, program{path: "/bin/sh", args: []string{"-c", text}, dir: t.TempDir(), quit: syscall.SIGTERM})
	}
	if err := run(t.Context(), "exit 0"); err != nil {
		t.Errorf("finish() = %v, want nil", err)
	}
	if err := run(t.Context(), "echo disk is full; exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3; the log ends:\n\tdisk is full") {
		t.Errorf("finish() = %v, want how it ended and its log", err)
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if err := run(ctx, "exec sleep 600"); !errors.Is(err, stop) {
		t.Errorf("finish() = %v, want the cause of its context", err)
	}
	if err := finish(t.Context(), program{path: "/nonexistent", dir: t.TempDir()}); err == nil {
		t.Error("finish() of no program = nil, want an error")
	}
}
