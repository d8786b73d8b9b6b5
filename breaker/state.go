package breaker

// State says which calls a Breaker admits.
type State uint8

const (
	// Closed means that calls are admitted and their outcomes counted.
	Closed State = iota
	// Open means that calls are rejected until the open time is over.
	Open
	// HalfOpen means that a few calls are admitted as probes, whose outcomes
	// decide, and the others rejected.
	HalfOpen
	// ForcedOpen means that all calls are rejected until [Breaker.Reset].
	ForcedOpen
	// Disabled means that all calls are admitted and none counted until
	// [Breaker.Reset].
	Disabled
)

// String returns the state as a short word, fit to be a label of a metric.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	case ForcedOpen:
		return "forced-open"
	case Disabled:
		return "disabled"
	default:
		return "unknown"
	}
}
