//go:build !linux

package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// attributes has nothing to add here: servers get an interrupt typed at the
// terminal at once, and outlive a program that is killed.
func attributes(_ syscall.Signal, name string) (*syscall.SysProcAttr, error) {
	if name != "" {
		return nil, errRoot
	}
	return nil, nil
}

func freeze(*os.Process) error { return errFreeze }
func thaw(*os.Process) error   { return errFreeze }

var errFreeze = errors.New("a process cannot be frozen on this system")

// killGroup has no group to kill here.
func killGroup(int) {}

func giveTo(string, string) error { return errRoot }

var errRoot = errors.New("postgres does not run as root: run the tests as an ordinary user")

func install(_ context.Context, s Service, _ func(string)) error {
	return fmt.Errorf("%s is not installed", strings.Join(s.Packages, " "))
}

// CPU cannot tell here what processes use.
func (n *Node) CPU() (time.Duration, error) { return 0, errors.ErrUnsupported }
