package breaker

import "time"

// Counts are the calls that a window holds. A slow call is also a success or a
// failure.
type Counts struct {
	Successes uint64
	Failures  uint64
	Slow      uint64
}

// Calls returns the number of all calls.
func (c Counts) Calls() uint64 { return c.Successes + c.Failures }

// A window remembers outcomes of the calls of one closed phase. All methods are
// safe for concurrent use and lock-free; now is the time since the breaker was
// made and matters to windows of time only.
type window interface {
	// success books a call that neither failed nor was slow.
	success(now time.Duration)
	// trouble books any other call, and returns the counts with it.
	trouble(now time.Duration, failed, slow bool) Counts
	// counts returns what the window holds.
	counts(now time.Duration) Counts
}
