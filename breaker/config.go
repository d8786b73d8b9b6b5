package breaker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config describes a [Breaker]. The zero Config is sound: it opens when at least
// half of 20 or more calls within 10 seconds fail.
//
// One of three windows decides what is counted: the calls of the last Window,
// the last WindowCalls calls, or the failures in a row (Consecutive).
type Config struct {
	// Name appears in errors and changes; name the dependency. Default: none.
	Name string

	// Window is the time for which an outcome counts, to within an eighth of it.
	// Default 10s, if neither WindowCalls nor Consecutive is set. From 10ms to
	// 1h.
	Window time.Duration

	// WindowCalls makes the window hold the last so many calls, however old they
	// are. For callers with too little traffic for a time window. Default: the
	// window is one of time. From 1 to 10000.
	WindowCalls int

	// Consecutive opens the breaker when so many calls in a row have failed. It
	// uses no window, so FailureRate, the slow-call settings and MinCalls do not
	// go with it, and success costs next to nothing. It reacts fastest to a
	// dependency that is gone, and hardly ever to one that fails half of its
	// calls. Default: a window decides. From 1 to 1000000.
	Consecutive int

	// FailureRate opens the breaker when this share of the calls in the window
	// has failed; the share itself suffices. Above 0 and up to 1, to a millionth.
	// Default 0.5: a dependency that fails every other call does harm, one that
	// fails less often is still worth calling.
	FailureRate float64

	// SlowCall is how long a call takes that counts as slow, whether it succeeds
	// or not. It costs a second clock read per call. Default: no call is slow.
	// Negative is an error.
	SlowCall time.Duration

	// SlowCallRate opens the breaker when this share of the calls in the window
	// was slow. Above 0 and up to 1, to a millionth. Default 0.5. Only with
	// SlowCall.
	SlowCallRate float64

	// MinCalls is how many calls the window must hold before a rate opens the
	// breaker. Default 20, or WindowCalls if that is less: below it a single bad
	// moment is half of the traffic. Negative, or above WindowCalls, is an error.
	MinCalls int

	// OpenFor is how long the breaker stays open before it admits a probe. It
	// doubles each time a probe fails, up to MaxOpenFor, and starts again when
	// the breaker has closed. Where the error that opens the breaker has a method
	// RetryAfter() time.Duration that asks for more, that counts, within
	// MaxOpenFor. Default 5s, about what a restart takes, or MaxOpenFor if that
	// is less. Up to 24h.
	OpenFor time.Duration

	// MaxOpenFor bounds how far the open time grows; jitter may add a tenth.
	// Default 1m, or OpenFor if that is longer. The same as OpenFor turns growth
	// off, less is an error. Up to 24h.
	MaxOpenFor time.Duration

	// DisableJitter makes the open time exact. Default: it is up to 10 % shorter
	// or longer at random, so that the instances of a service, whose breakers
	// opened together, do not probe together.
	DisableJitter bool

	// Probes is how many calls may run at once while the breaker is half-open.
	// Default 1: one call bears the risk. From 1 to 1000.
	Probes int

	// ProbeSuccesses is how many probes must succeed to close the breaker; one
	// that fails opens it again. Default: Probes, so that of a first handful all
	// have to. From 1 to 1000000.
	ProbeSuccesses int

	// ProbeTimeout is how long a probe may take. After that it counts as failed,
	// and whatever it brings later is dropped, so that a probe that hangs or is
	// abandoned cannot hold the breaker. It must exceed what a sound call takes,
	// or the breaker never closes. Default 30s. Up to 24h.
	ProbeTimeout time.Duration

	// WholeBody makes a Transport wait for the end of the response body, so that
	// an answer that breaks off is a failure; SlowCall and ProbeTimeout then
	// cover the body too. Default: the outcome is known when the headers are.
	WholeBody bool

	// Classify says what a call's error means for the dependency. It gets the
	// context that the call was made with, and is called once a call, nil errors
	// included, by any goroutine. A Transport also asks it about each response
	// with a status of 400 or above, as [*StatusError]. Default
	// [DefaultClassify].
	Classify func(ctx context.Context, err error) Outcome

	// OnChange is called after each change of state, one at a time and in order,
	// with no lock held, by the goroutine of a call that brought one about. It
	// may use the breaker. The call that runs it waits for it, so it must be
	// quick, and gets its panic. Default: none.
	OnChange func(Change)
}

const (
	minWindow      = 10 * time.Millisecond
	maxWindow      = time.Hour
	maxWindowCalls = 10_000
	maxConsecutive = 1_000_000
	maxProbes      = 1000
	maxWait        = 24 * time.Hour

	defaultWindow       = 10 * time.Second
	defaultRate         = 0.5
	defaultMinCalls     = 20
	defaultOpenFor      = 5 * time.Second
	defaultMaxOpenFor   = time.Minute
	defaultProbes       = 1
	defaultProbeTimeout = 30 * time.Second
)

// withDefaults returns the Config with every default filled in, or all of its
// faults in one error.
func (c Config) withDefaults() (Config, error) {
	faults := c.faults()
	if len(faults) > 0 {
		who := "breaker"
		if c.Name != "" {
			who = fmt.Sprintf("breaker %q", c.Name)
		}
		return Config{}, errors.New(who + ": config: " + strings.Join(faults, "; "))
	}
	if c.WindowCalls == 0 && c.Consecutive == 0 {
		c.Window = or(c.Window, defaultWindow)
	}
	c.FailureRate = or(c.FailureRate, defaultRate)
	c.SlowCallRate = or(c.SlowCallRate, defaultRate)
	c.MinCalls = or(c.MinCalls, c.defaultMinCalls())
	c.OpenFor = or(c.OpenFor, min(defaultOpenFor, or(c.MaxOpenFor, defaultOpenFor)))
	c.MaxOpenFor = or(c.MaxOpenFor, max(defaultMaxOpenFor, c.OpenFor))
	c.Probes = or(c.Probes, defaultProbes)
	c.ProbeSuccesses = or(c.ProbeSuccesses, c.Probes)
	c.ProbeTimeout = or(c.ProbeTimeout, defaultProbeTimeout)
	return c, nil
}

func (c *Config) defaultMinCalls() int {
	if c.WindowCalls > 0 {
		return min(defaultMinCalls, c.WindowCalls)
	}
	return defaultMinCalls
}

// faults returns all that is wrong with c, before its defaults.
func (c *Config) faults() faults {
	var f faults
	f.whole("WindowCalls", c.WindowCalls, maxWindowCalls)
	f.whole("Consecutive", c.Consecutive, maxConsecutive)
	f.rate("FailureRate", c.FailureRate)
	f.rate("SlowCallRate", c.SlowCallRate)
	f.whole("Probes", c.Probes, maxProbes)
	f.whole("ProbeSuccesses", c.ProbeSuccesses, maxConsecutive)
	f.wait("OpenFor", c.OpenFor)
	f.wait("MaxOpenFor", c.MaxOpenFor)
	f.wait("ProbeTimeout", c.ProbeTimeout)
	f.when(c.Window != 0 && (c.Window < minWindow || c.Window > maxWindow), "Window %v is outside 10ms to 1h", c.Window)
	f.when(c.MinCalls < 0, "MinCalls %d is negative", c.MinCalls)
	f.when(c.SlowCall < 0, "SlowCall %v is negative", c.SlowCall)
	f.when(c.SlowCallRate != 0 && c.SlowCall == 0, "SlowCallRate needs SlowCall")
	f.when(c.Window != 0 && c.WindowCalls != 0, "Window and WindowCalls exclude each other")
	f.when(c.WindowCalls > 0 && c.MinCalls > c.WindowCalls, "MinCalls %d is above WindowCalls %d", c.MinCalls, c.WindowCalls)
	f.when(c.OpenFor > 0 && c.MaxOpenFor > 0 && c.MaxOpenFor < c.OpenFor, "MaxOpenFor %v is below OpenFor %v", c.MaxOpenFor, c.OpenFor)
	if c.Consecutive != 0 {
		f.when(c.Window != 0, "Consecutive excludes Window")
		f.when(c.WindowCalls != 0, "Consecutive excludes WindowCalls")
		f.when(c.FailureRate != 0, "Consecutive excludes FailureRate")
		f.when(c.SlowCall != 0, "Consecutive excludes SlowCall")
		f.when(c.MinCalls != 0, "Consecutive excludes MinCalls")
	}
	return f
}

// faults collects what is wrong with a configuration.
type faults []string

func (f *faults) when(wrong bool, format string, args ...any) {
	if wrong {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

func (f *faults) whole(field string, n, most int) {
	f.when(n < 0 || n > most, "%s %d is outside 1 to %d", field, n, most)
}

func (f *faults) rate(field string, r float64) {
	f.when(!(r >= 0 && r <= 1), "%s %v is outside (0, 1]", field, r) // so is NaN
}

func (f *faults) wait(field string, d time.Duration) {
	f.when(d < 0 || d > maxWait, "%s %v is outside 0s to 24h", field, d)
}

// or returns v, or what it defaults to if it is zero.
func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
