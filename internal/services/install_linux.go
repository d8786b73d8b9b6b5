package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// installCap bounds the installation of one service's packages.
	installCap = 5 * time.Minute

	// policyFile is the program that Debian asks whether an installation may
	// start the service it brings.
	policyFile = "/usr/sbin/policy-rc.d"

	// policyMark tells our policy from one that the machine's owner has put there.
	policyMark = "# Placed by the tests of parley while they install packages.\n"
)

// install installs the service's Debian packages, and starts nothing.
func install(ctx context.Context, s Service, say func(string)) error {
	apt, err := exec.LookPath("apt-get")
	if os.Geteuid() != 0 || err != nil {
		return fmt.Errorf("%s is not installed, and only root on Debian can install it", strings.Join(s.Packages, " "))
	}
	return installUnder(ctx, policyFile, apt, s, say)
}

// installUnder runs apt-get with a policy in place that nothing is started.
func installUnder(ctx context.Context, policy, apt string, s Service, say func(string)) error {
	// One at a time, in this process and among others: apt-get has a lock of its
	// own, but one that is done would take the policy away from the next.
	unlock, err := lock(ctx, filepath.Dir(policy))
	if err != nil {
		return fmt.Errorf("wait for another installation: %w", err)
	}
	defer unlock()
	allow, err := forbidStarts(policy)
	if err != nil {
		return err
	}
	defer allow()
	say(s.Name + ": installing " + strings.Join(s.Packages, " "))
	args := append([]string{"install", "-y", "--no-install-recommends"}, s.Packages...)
	if runApt(ctx, apt, args...) == nil {
		return nil
	}
	// The package lists may be missing or too old.
	if err := runApt(ctx, apt, "update"); err != nil {
		return err
	}
	return runApt(ctx, apt, args...)
}

// runApt does not end early with ctx, nor with this process, since a dpkg that is
// interrupted leaves packages half installed.
func runApt(ctx context.Context, apt string, args ...string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p, err := start(ctx, program{
		path: apt,
		args: append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...),
		env:  append(os.Environ(), "DEBIAN_FRONTEND=noninteractive"),
	})
	if err != nil {
		return err
	}
	select {
	case <-p.gone:
	case <-time.After(installCap):
		return errors.Join(fmt.Errorf("apt-get %s takes longer than %v", args[0], installCap), p.kill())
	}
	if p.err != nil {
		return p.ended()
	}
	return nil
}

// forbidStarts has Debian start no service that is being installed, for as long
// as this process lives or until allow is called. A policy of the machine's owner
// stays as it is.
func forbidStarts(path string) (allow func(), err error) {
	if old, err := os.ReadFile(path); err == nil && !bytes.Contains(old, []byte(policyMark)) {
		return func() {}, nil
	}
	// 101 is "forbidden"; the check makes one that a crash leaves behind harmless.
	script := fmt.Sprintf("#!/bin/sh\n%skill -0 %d 2>/dev/null || exit 0\nexit 101\n", policyMark, os.Getpid())
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		return nil, fmt.Errorf("keep installed services from starting: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil
}

// lock waits until no other process holds dir's lock and takes it. The kernel
// releases it when the process dies.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = d.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), d.Close())
		case <-time.After(pause):
		}
	}
}
