package breaker

import "time"

// Reason says why a Breaker changed its state. It is a short word, fit to be a
// label of a metric.
type Reason string

const (
	// FailureRateReached means that the window's share of failures reached
	// Config.FailureRate. Closed to Open.
	FailureRateReached Reason = "failure_rate"
	// SlowCallRateReached means that the window's share of slow calls reached
	// Config.SlowCallRate. Closed to Open.
	SlowCallRateReached Reason = "slow_call_rate"
	// ConsecutiveReached means that Config.Consecutive calls in a row failed.
	// Closed to Open.
	ConsecutiveReached Reason = "consecutive"
	// OpenTimeOver means that a call came after the open time. Open to HalfOpen.
	OpenTimeOver Reason = "open_time_over"
	// ProbesSucceeded means that Config.ProbeSuccesses probes did. HalfOpen to
	// Closed.
	ProbesSucceeded Reason = "probes_succeeded"
	// ProbeFailed means that a probe failed or was slow. HalfOpen to Open.
	ProbeFailed Reason = "probe_failed"
	// ProbeTimedOut means that a probe had no outcome after Config.ProbeTimeout.
	// HalfOpen to Open.
	ProbeTimedOut Reason = "probe_timed_out"
	// Operator means that ForceOpen, Disable or Reset was called.
	Operator Reason = "operator"
)

// Change describes one change of a Breaker's state.
type Change struct {
	Name     string        // the breaker's
	From, To State         // always different
	Reason   Reason        // why
	Counts   Counts        // what the window held, where From is Closed
	OpenFor  time.Duration // until the first probe, where To is Open
}

// changes hands the changes of a Breaker to its hook: in order, one at a time,
// outside all locks. Whoever finds undelivered changes and nobody at work
// delivers them. All of it is guarded by the breaker's mutex.
type changes struct {
	queue []Change
	busy  bool // somebody is in the hook
}

// announce delivers what changed. It is called with no lock held.
func (b *Breaker) announce() {
	c, ok := b.nextChange()
	if !ok {
		return
	}
	// Deferred, since the hook may panic or end its goroutine, which must not
	// keep the changes behind it, or all later ones, from being delivered.
	defer b.announce()
	defer b.delivered()
	b.set.OnChange(c)
}

func (b *Breaker) nextChange() (Change, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changes.busy || len(b.changes.queue) == 0 {
		return Change{}, false
	}
	c := b.changes.queue[0]
	b.changes.queue = b.changes.queue[1:]
	b.changes.busy = true
	return c, true
}

func (b *Breaker) delivered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes.busy = false
}
