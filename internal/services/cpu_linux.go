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

// userHZ is the unit in which Linux tells processor times, on every architecture.
const userHZ = 100

// CPU returns the processor time that the server's processes have used so far, with
// a resolution of 10 milliseconds.
func (n *Node) CPU() (time.Duration, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	ticks := 0
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended since
		}
		group, used, err := parseStat(text)
		if err != nil {
			return 0, fmt.Errorf("services: %s: %w", file, err)
		}
		for _, p := range n.processes {
			if p.cmd.Process.Pid == group { // each process leads a group
				ticks += used
			}
		}
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// parseStat reads a line as proc(5) describes it: which group the process is of, and
// what it has used, in user mode and in the kernel.
func parseStat(text []byte) (group, used int, err error) {
	// The second field is the program's name in brackets, and may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, 0, errors.New("it has too few fields")
	}
	var numbers [3]int
	for i, f := range [][]byte{fields[2], fields[11], fields[12]} {
		if numbers[i], err = strconv.Atoi(string(f)); err != nil {
			return 0, 0, err
		}
	}
	return numbers[0], numbers[1] + numbers[2], nil
}
