package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestServersEndWithTheProgramThatStartedThem(t *testing.T) {
	s := Redis()
	installed(t, s)
	program := exec.CommandContext(t.Context(), os.Args[0])
	program.Env = append(os.Environ(), "PARLEY_TEST_NODE="+t.TempDir())
	program.Stderr = t.Output()
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	var hostport string
	if _, err := fmt.Fscanln(out, &hostport); err != nil {
		t.Fatalf("the program tells no address: %v", err)
	}
	if _, err := s.hello(t.Context(), hostport); err != nil {
		t.Fatalf("redis does not answer: %v", err)
	}
	if err := program.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = program.Wait()
	err = poll(t.Context(), nil, func(ctx context.Context) error {
		if _, err := s.hello(ctx, hostport); err == nil {
			return errors.New("redis still answers")
		}
		return nil
	})
	if err != nil {
		t.Errorf("after SIGKILL of the program that started it: %v", err)
	}
}

func TestAnInterruptAtTheTerminalDoesNotReachTheServers(t *testing.T) {
	p := shell(t, `echo up; exec sleep 600`)
	if group, err := syscall.Getpgid(p.cmd.Process.Pid); group != p.cmd.Process.Pid || err != nil {
		t.Errorf("the process is of group %d, %v, want a group of its own, %d", group, err, p.cmd.Process.Pid)
	}
}
