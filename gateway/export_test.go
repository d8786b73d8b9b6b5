package gateway

import (
	"runtime"
	"testing"
	"time"
)

// RaceEnabled says whether the race detector is on, to tests outside of the
// package.
const RaceEnabled = raceEnabled

// Eventually waits for a condition that another goroutine brings about.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			buf := make([]byte, 1<<16)
			t.Fatalf("%s: not within 10 s; goroutines:\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}
