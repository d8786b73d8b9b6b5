package services

import (
	"fmt"
	"strings"
	"sync"
)

// What is kept of a server's output, and what is shown of it when it fails.
const (
	keptBytes  = 16 << 10
	shownLines = 15
)

// A tail is an io.Writer that keeps the end of what is written to it. It is safe
// for concurrent use.
type tail struct {
	mu   sync.Mutex
	kept []byte // guarded by mu
}

// Write implements [io.Writer]; it never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - keptBytes; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(b), nil
}

// String returns the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return strings.Join(lines[max(0, len(lines)-shownLines):], "\n")
}

// withLog adds the end of a log to err, indented below it.
func withLog(err error, log string) error {
	if log == "" {
		return err
	}
	return fmt.Errorf("%w; the log ends:\n\t%s", err, strings.ReplaceAll(log, "\n", "\n\t"))
}
