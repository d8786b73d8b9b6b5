package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stragglers is how long the children of a server that is gone may still hold
// its output open before they are no longer waited for.
const stragglers = 10 * time.Second

// A program is what a process runs.
type program struct {
	path string
	args []string
	env  []string       // nil means that of this process
	dir  string         // working directory
	user string         // whom to run as; empty means ourselves
	quit syscall.Signal // asks the program to end cleanly, also when we die

	// orphans says that its children do not end when it is killed.
	orphans bool
}

// A process is a server's process. It leads a process group, so that an
// interrupt typed at the terminal does not reach it before its clients are done.
type process struct {
	cmd     *exec.Cmd
	quit    syscall.Signal
	orphans bool // as of the program
	log     *tail
	gone    chan struct{} // closed when it and all that hold its output have ended
	err     error         // how it ended; to be read after gone
}

// start runs p, whose process outlives ctx.
func start(ctx context.Context, p program) (*process, error) {
	attr, err := attributes(p.quit, p.user)
	if err != nil {
		return nil, err
	}
	x := &process{quit: p.quit, orphans: p.orphans, log: new(tail), gone: make(chan struct{})}
	x.cmd = exec.CommandContext(context.WithoutCancel(ctx), p.path, p.args...)
	x.cmd.Env, x.cmd.Dir, x.cmd.SysProcAttr = p.env, p.dir, attr
	// Not a file but a writer: os/exec then copies from a pipe, and Wait also
	// waits for the server's own children, which hold the pipe open.
	x.cmd.Stdout, x.cmd.Stderr, x.cmd.WaitDelay = x.log, x.log, stragglers

	started := make(chan error)
	go func() {
		// The kernel's signal on the death of a parent follows the thread that
		// started the child. This thread stays for as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := x.cmd.Start()
		started <- err
		if err == nil {
			x.err = x.cmd.Wait()
			close(x.gone)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return x, nil
}

// finish runs p to its end. It kills it, and returns the cause, when ctx ends first.
func finish(ctx context.Context, p program) error {
	x, err := start(ctx, p)
	if err != nil {
		return err
	}
	select {
	case <-x.gone:
		if x.err != nil {
			return x.ended()
		}
		return nil
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), x.kill())
	}
}

// stop asks the process to end and returns when it is gone. When ctx ends first,
// it kills the process. It is an error if the process had ended before.
func (x *process) stop(ctx context.Context) error {
	select {
	case <-x.gone:
		return fmt.Errorf("had ended before it was stopped: %w", x.ended())
	default:
	}
	if err := x.cmd.Process.Signal(x.quit); err != nil {
		return errors.Join(err, x.kill())
	}
	select {
	case <-x.gone:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("did not end when asked: %w", context.Cause(ctx)), x.kill())
	}
}

// kill ends the process with SIGKILL and returns when it is gone.
func (x *process) kill() error {
	select {
	case <-x.gone:
		return nil // and its number may be another's by now
	default:
	}
	if x.orphans {
		killGroup(x.cmd.Process.Pid)
	}
	if err := x.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-x.gone
	return nil
}

// ended says how a process that is gone has ended.
func (x *process) ended() error {
	return withLog(fmt.Errorf("%s: %v", x.cmd.Path, x.cmd.ProcessState), x.log.String())
}
