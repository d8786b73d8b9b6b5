package services

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// CPU returns the processor time that the threads of the server's processes have used
// so far, to the nanosecond where they sleep. Threads that have ended are not counted.
// It fails where no time is known: of a server that has ended by itself, and on kernels
// that keep no account of threads (CONFIG_SCHED_INFO). One that is down has used none.
func (n *Node) CPU() (time.Duration, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	used := time.Duration(0)
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended since
		}
		group, err := parseGroup(text)
		if err != nil {
			return 0, fmt.Errorf("services: %s: %w", file, err)
		}
		for _, p := range n.processes {
			if p.cmd.Process.Pid != group { // each process leads a group
				continue
			}
			ran, err := threads(filepath.Dir(file))
			if err != nil {
				return 0, fmt.Errorf("services: %w", err)
			}
			used += ran
		}
	}
	if used == 0 && len(n.processes) > 0 { // it has answered, and so has run
		return 0, fmt.Errorf("services: %s: no processor time is known: it has ended, or /proc/PID/task/TID/schedstat tells none here", n.service.Name)
	}
	return used, nil
}

// threads returns how long the threads of the process in dir have run.
func threads(dir string) (ran time.Duration, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "task/[0-9]*/schedstat"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended since
		}
		first, _, _ := bytes.Cut(text, []byte(" "))
		ns, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		ran += time.Duration(ns)
	}
	return ran, nil
}

// parseGroup reads a line as proc(5) describes it: which group the process is of.
func parseGroup(text []byte) (int, error) {
	// The second field is the program's name in brackets, and may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 3 {
		return 0, errors.New("it has too few fields")
	}
	return strconv.Atoi(string(fields[2]))
}
