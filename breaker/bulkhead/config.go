package bulkhead

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config describes a [Bulkhead]. The zero Config is sound: at most 64 calls run
// at once, and those beyond are rejected at once.
type Config struct {
	// Name appears in errors; name the dependency, or the part of the service.
	// Default: none.
	Name string

	// Limit is how many calls may run at once; with SlowCall it is where the
	// limit starts. Default 64, or what of Min and Max is nearest to that. From 1
	// to 1000000.
	Limit int

	// Queue is how many calls beyond the limit may wait, first come first served,
	// for one that runs to end. Default 0: a call that finds no slot is rejected
	// at once. Up to 1000000.
	Queue int

	// Wait is how long a call waits in the queue before it is rejected; the end
	// of its context ends the wait sooner. Default 1s. Up to 24h. Only with
	// Queue.
	Wait time.Duration

	// SlowCall makes the limit adapt itself. It is how long a call takes that is
	// too slow: such a call lowers the limit, however it ends, while calls that
	// are quicker and succeed raise it as long as it is in use. Choose several
	// times what a call takes on a good day, the slowest percent included. It
	// costs two clock reads per call. Default: the limit is fixed. Negative is an
	// error.
	SlowCall time.Duration

	// Min is how far the limit may fall. Default 1. Up to Limit. Only with
	// SlowCall.
	Min int

	// Max is how far the limit may rise. The same as Limit makes it fall and
	// recover only. Default 10 times Limit. From Limit to 1000000. Only with
	// SlowCall.
	Max int
}

const (
	mostCalls = 1_000_000
	mostWait  = 24 * time.Hour

	defaultLimit = 64
	defaultWait  = time.Second
	defaultRoom  = 10 // Max, in Limits
)

// withDefaults returns the Config with every default filled in, or all of its
// faults in one error.
func (c Config) withDefaults() (Config, error) {
	if faults := c.faults(); len(faults) > 0 {
		return Config{}, errors.New(label(c.Name) + ": config: " + strings.Join(faults, "; "))
	}
	c.Limit = cmp.Or(c.Limit, min(max(defaultLimit, c.Min), cmp.Or(c.Max, mostCalls)))
	c.Wait = cmp.Or(c.Wait, defaultWait)
	c.Min = cmp.Or(c.Min, 1)
	c.Max = cmp.Or(c.Max, min(defaultRoom*c.Limit, mostCalls))
	return c, nil
}

// faults returns all that is wrong with c, before its defaults.
func (c *Config) faults() []string {
	var f []string
	when := func(wrong bool, format string, args ...any) {
		if wrong {
			f = append(f, fmt.Sprintf(format, args...))
		}
	}
	when(c.Limit < 0 || c.Limit > mostCalls, "Limit %d is outside 1 to %d", c.Limit, mostCalls)
	when(c.Queue < 0 || c.Queue > mostCalls, "Queue %d is outside 0 to %d", c.Queue, mostCalls)
	when(c.Wait < 0 || c.Wait > mostWait, "Wait %v is outside 0s to 24h", c.Wait)
	when(c.Wait != 0 && c.Queue == 0, "Wait needs Queue")
	when(c.SlowCall < 0, "SlowCall %v is negative", c.SlowCall)
	when(c.Min < 0 || c.Min > mostCalls, "Min %d is outside 1 to %d", c.Min, mostCalls)
	when(c.Max < 0 || c.Max > mostCalls, "Max %d is outside 1 to %d", c.Max, mostCalls)
	when(c.Min != 0 && c.SlowCall == 0, "Min needs SlowCall")
	when(c.Max != 0 && c.SlowCall == 0, "Max needs SlowCall")
	when(c.Max > 0 && c.Min > c.Max, "Min %d is above Max %d", c.Min, c.Max)
	when(c.Limit > 0 && c.Min > c.Limit, "Min %d is above Limit %d", c.Min, c.Limit)
	when(c.Max > 0 && c.Limit > c.Max, "Limit %d is above Max %d", c.Limit, c.Max)
	return f
}
