//go:build unix

package main

import (
	"os"
	"syscall"
	"time"
)

// leadGroup has a command lead a process group of its own, which its children
// join, so that a signal reaches them all, and once.
func leadGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// signalGroup sends s to the group that p leads.
func signalGroup(p *os.Process, s syscall.Signal) error { return syscall.Kill(-p.Pid, s) }

// endGroup returns when nothing of the group is left, which may have outlived
// its leader. After the grace it kills what is.
func endGroup(p *os.Process) {
	late := time.After(grace)
	for signalGroup(p, 0) == nil {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-late:
			_ = signalGroup(p, syscall.SIGKILL)
			return
		}
	}
}
