package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A use is the file in which tests note the services that they use.
type use struct{ file string }

func newUse() (use, error) {
	f, err := os.CreateTemp("", "parley-use-")
	if err != nil {
		return use{}, err
	}
	return use{f.Name()}, f.Close()
}

func (u use) remove() { _ = os.Remove(u.file) }

// print says how many tests ran against each service, and which were skipped.
func (u use) print(w io.Writer) {
	text, err := os.ReadFile(u.file)
	if err != nil {
		_, _ = fmt.Fprintln(w, err)
		return
	}
	tests := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 {
			name, _, _ := strings.Cut(f[2], "/")
			tests[f[0]+": "+f[1]] = append(tests[f[0]+": "+f[1]], name)
		}
	}
	var lines []string
	for what, names := range tests {
		slices.Sort(names)
		names = slices.Compact(names)
		line := fmt.Sprintf("tests that need %s %d", what, len(names))
		if strings.HasSuffix(what, "skipped") { // those that ran are hundreds
			line += ": " + strings.Join(names, " ")
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	for _, line := range lines {
		_, _ = fmt.Fprintln(w, line)
	}
}
