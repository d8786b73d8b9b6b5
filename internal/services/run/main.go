// Command run starts the services that tests need, runs a command with their
// addresses in its environment, and stops what it started:
//
//	go run ./internal/services/run -- go test work
//
// It exits with the command's code, or with 1 when a required service cannot be
// had. An interrupt, a SIGTERM or the death of its parent ends it early: then the
// command and its children are told so and have ten seconds to end. They may read
// a file or a pipe, but not the terminal.
//
// Without a command it prints the variables for a shell to read and keeps the
// services until it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/parley-go/parley/internal/services"
)

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 0:
	case len(args) > 1 && args[0] == "--":
		args = args[1:]
	default:
		fmt.Fprintln(os.Stderr, "usage: run [-- command [argument...]]")
		os.Exit(2)
	}
	os.Exit(run(args))
}

// run returns the exit code.
func run(args []string) int {
	ctx, stop := untilTold()
	defer stop()
	code := 0
	c := services.Config{Compose: composeFile(), Out: os.Stderr}
	err := services.Run(ctx, c, func(ctx context.Context, env []string) error {
		if len(args) == 0 {
			keep(ctx, env)
			return nil
		}
		use, err := newUse()
		if err != nil {
			return err
		}
		defer use.remove()
		code, err = command(ctx, args, append(env, services.UseVariable+"="+use.file))
		use.print(os.Stderr)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// keep prints the variables and waits.
func keep(ctx context.Context, env []string) {
	for _, variable := range env {
		fmt.Printf("export '%s'\n", variable)
	}
	fmt.Fprintln(os.Stderr, "Interrupt to stop them.")
	<-ctx.Done()
}

// command runs a command and returns its exit code, as a shell would say it.
func command(ctx context.Context, args, env []string) (int, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.WaitDelay = grace
	cmd.SysProcAttr = leadGroup()
	cmd.Cancel = func() error { return signalGroup(cmd.Process, told(ctx)) }
	err := cmd.Run()
	if ctx.Err() != nil && cmd.Process != nil {
		endGroup(cmd.Process)
	}
	if cmd.ProcessState == nil {
		return 0, err // it did not start
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// grace is how long the command may take to end when told to.
const grace = 10 * time.Second

// A toldTo is why we end early.
type toldTo struct{ signal syscall.Signal }

// Error implements error.
func (t toldTo) Error() string { return "ended by signal: " + t.signal.String() }

// told returns the signal that ended ctx.
func told(ctx context.Context) syscall.Signal {
	if t := (toldTo{}); errors.As(context.Cause(ctx), &t) {
		return t.signal
	}
	return syscall.SIGTERM
}

// untilTold returns a context that a signal ends, and the death of our parent:
// `go run` dies of a SIGTERM without telling us.
func untilTold() (ctx context.Context, stop func()) {
	ctx, end := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	parent, look := os.Getppid(), time.NewTicker(time.Second)
	go func() {
		defer look.Stop()
		for {
			select {
			case s := <-signals:
				if s, ok := s.(syscall.Signal); ok {
					end(toldTo{s})
				}
			case <-look.C:
				if os.Getppid() != parent {
					end(toldTo{syscall.SIGTERM})
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { end(nil) }
}

// composeFile returns the path of the compose file, looked for from the working
// directory upwards, or "".
func composeFile() string {
	dir, err := os.Getwd()
	for err == nil {
		file := filepath.Join(dir, "internal", "integration", "compose.yaml")
		if _, err := os.Stat(file); err == nil {
			return file
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return ""
}
