package retry

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"
)

// Budget bounds the retries of all calls that share it, so that a dependency
// that fails gets little more load than one that works. Share one between all
// callers of a dependency, by putting it into each [Policy] and [Hedging]. It is
// safe for concurrent use, takes no lock and never waits.
type Budget struct {
	ledger ledger
}

// ledger is how a budget counts. Its methods are called from hot paths by
// several goroutines.
type ledger interface {
	called()         // a call begins
	succeeded()      // an attempt succeeded
	failed()         // an attempt failed in a way that is worth a retry
	take() bool      // asks for one retry
	tokens() float64 // retries that are left
}

func (b *Budget) called()    { b.ledger.called() }
func (b *Budget) succeeded() { b.ledger.succeeded() }
func (b *Budget) failed()    { b.ledger.failed() }
func (b *Budget) take() bool { return b.ledger.take() }

// Tokens returns how many retries could start now if no call came between: a
// gauge for dashboards. For a budget of [NewThrottle] it is the token count of
// gRPC, which allows retries while it exceeds half of MaxTokens.
func (b *Budget) Tokens() float64 {
	if b.ledger == nil {
		return 0
	}
	return b.ledger.tokens()
}

// unmade reports whether b is a Budget that no constructor made.
func (b *Budget) unmade() bool { return b != nil && b.ledger == nil }

// BudgetConfig describes a [Budget] of [NewBudget].
type BudgetConfig struct {
	// RetryRate is how many retries each call earns, in (0, 1]. Default 0.2: a
	// dependency that fails altogether gets at most a fifth more requests.
	RetryRate float64

	// MinPerSecond is how many retries a second are allowed besides, so that a
	// caller with few calls may retry at all. Default 10. From 1 to 1,000,000.
	MinPerSecond int

	// Burst is how many unspent retries are kept for a bad moment. Default 10
	// times MinPerSecond. From 1 to 1,000,000,000.
	Burst int
}

// NewBudget returns a full budget that earns retries from calls and from time,
// as that of Finagle does: over any period in which N calls begin, at most
// RetryRate × N + MinPerSecond × seconds + Burst retries start. It reports every
// fault of c in one error.
func NewBudget(c BudgetConfig) (*Budget, error) {
	var faults []string
	rate := or(c.RetryRate, defaultRetryRate)
	if !(rate > 0 && rate <= 1) {
		faults = append(faults, fmt.Sprintf("RetryRate %v is outside (0, 1]", rate))
	}
	perSecond := or(c.MinPerSecond, defaultMinPerSecond)
	if perSecond < 1 || perSecond > 1e6 {
		faults = append(faults, fmt.Sprintf("MinPerSecond %d is outside 1 to 1000000", perSecond))
	}
	if c.Burst < 0 || c.Burst > 1e9 {
		faults = append(faults, fmt.Sprintf("Burst %d is outside 1 to 1000000000", c.Burst))
	}
	if len(faults) > 0 {
		return nil, errors.New("retry: budget: " + strings.Join(faults, "; "))
	}
	return newBucket(rate, perSecond, or(c.Burst, 10*perSecond)), nil
}

const (
	defaultRetryRate    = 0.2
	defaultMinPerSecond = 10
	defaultBurst        = 10 * defaultMinPerSecond
)

// bucket is a token bucket in one word. Time is its currency: a retry costs the
// nanoseconds in which MinPerSecond earns it, a call gains a share of that. The
// mark is the instant up to which time has been spent, so what is left is now
// minus mark, and nothing has to be refilled. Marks further back than depth
// count as depth.
type bucket struct {
	base  time.Time
	cost  int64 // of a retry, in nanoseconds
	gain  int64 // from a call, in nanoseconds
	depth int64 // most that can be left, in nanoseconds
	mark  atomic.Int64
}

func newBucket(rate float64, perSecond, burst int) *Budget {
	// Rounded up, so that the bound that NewBudget promises is never exceeded.
	cost := (int64(time.Second) + int64(perSecond) - 1) / int64(perSecond)
	b := &bucket{base: time.Now(), cost: cost, gain: int64(rate * float64(cost)), depth: int64(burst) * cost}
	b.mark.Store(-b.depth)
	return &Budget{b}
}

// called earns a share of a retry. It reads no clock, and where the bucket is
// full for certain it does not even write, so that the callers of a healthy
// dependency share no cache line that changes; nor can the mark run away.
func (b *bucket) called() {
	if b.mark.Load() > -b.depth {
		b.mark.Add(-b.gain)
	}
}

func (*bucket) succeeded() {}
func (*bucket) failed()    {}

func (b *bucket) take() bool {
	now := int64(time.Since(b.base))
	for {
		mark := b.mark.Load()
		next := max(mark, now-b.depth) + b.cost
		if next > now {
			return false
		}
		if b.mark.CompareAndSwap(mark, next) {
			return true
		}
	}
}

func (b *bucket) tokens() float64 {
	left := min(int64(time.Since(b.base))-b.mark.Load(), b.depth)
	return float64(max(left, 0)) / float64(b.cost)
}

// ThrottleConfig describes a [Budget] of [NewThrottle].
type ThrottleConfig struct {
	// MaxTokens is where the token count starts and its most. Default 10. From 1
	// to 1000, as in gRPC.
	MaxTokens int

	// TokenRatio is what a success adds. Default 0.1. It must be positive;
	// decimals beyond the third are dropped, as in gRPC.
	TokenRatio float64
}

// NewThrottle returns a budget that counts as the retry throttling of gRPC does
// (proposal A6): each failed attempt takes one token, each success adds
// TokenRatio, and while the count is half of MaxTokens or less there are no
// retries. It knows no time, so a dependency that nobody calls stays suspect
// until calls succeed. In a Transport, an answer with a status from 500 is no
// success, and one that may not be repeated counts as neither. It reports every
// fault of c in one error.
func NewThrottle(c ThrottleConfig) (*Budget, error) {
	var faults []string
	most := or(c.MaxTokens, 10)
	if most < 1 || most > 1000 {
		faults = append(faults, fmt.Sprintf("MaxTokens %d is outside 1 to 1000", most))
	}
	ratio := or(c.TokenRatio, 0.1)
	gain := math.Round(ratio*1e6) / 1e3 // so that 0.1 * 1000 is 100 and not 99
	if !(gain >= 1 && gain <= math.MaxInt32) {
		faults = append(faults, fmt.Sprintf("TokenRatio %v is not a number from 0.001", ratio))
	}
	if len(faults) > 0 {
		return nil, errors.New("retry: throttle: " + strings.Join(faults, "; "))
	}
	t := &throttle{most: int64(most) * milli, gain: int64(gain)}
	t.count.Store(t.most)
	return &Budget{t}, nil
}

const milli = 1000

// throttle counts in thousandths of a token.
type throttle struct {
	most  int64
	gain  int64
	count atomic.Int64
}

func (*throttle) called()      {}
func (t *throttle) succeeded() { t.add(t.gain) }
func (t *throttle) failed()    { t.add(-milli) }
func (t *throttle) take() bool { return t.count.Load() > t.most/2 }

func (t *throttle) tokens() float64 { return float64(t.count.Load()) / milli }

// add moves the count within its bounds. At a bound it does not write.
func (t *throttle) add(n int64) {
	for {
		count := t.count.Load()
		next := min(max(count+n, 0), t.most)
		if next == count || t.count.CompareAndSwap(count, next) {
			return
		}
	}
}
