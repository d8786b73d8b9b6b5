//go:build !unix

package main

import (
	"os"
	"syscall"
)

func leadGroup() *syscall.SysProcAttr { return nil }

func signalGroup(p *os.Process, _ syscall.Signal) error { return p.Kill() }

func endGroup(*os.Process) {}
