package main

import (
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// turn is how long one side of a round carries messages.
	turn = 300 * time.Millisecond
	// heldPairs and shownPairs are how many rounds a row has: more where a bar
	// hangs on the median, for the machine and the broker are never quiet.
	heldPairs, shownPairs = 21, 7
	// maxFed bounds what a turn is fed before it begins, which a server keeps.
	maxFed = 100_000
)

// throughput measures a row of which each operation is a message, published by one side
// and acknowledged by the other: how many a second get through. Both sides wait
// most of the time, for a broker or for one another, so elapsed time counts. What
// else the machine does disturbs that; hence the turns, and the median.
func (r row) throughput(w io.Writer) bool {
	ours, them, most := r.oursTimed, r.themTimed, maxFed
	if ours == nil {
		ours, them, most = r.ours.timed(), r.them.timed(), math.MaxInt
	}
	n, m := min(pace(ours), most), min(pace(them), most)
	pairs := shownPairs
	if r.least > 0 {
		pairs = heldPairs
	}
	var ratios, our, their []float64
	for i := range pairs {
		var a, b float64
		if i%2 == 0 { // neither side always comes first
			a, b = rate(ours, n), rate(them, m)
		} else {
			b, a = rate(them, m), rate(ours, n)
		}
		our, their, ratios = append(our, a), append(their, b), append(ratios, a/b)
	}
	verdict, target := "ok", "-"
	if r.least > 0 {
		target = fmt.Sprintf(">=%.2f", r.least)
		if median(ratios) < r.least {
			verdict = "MISS"
		}
	}
	fmt.Fprintf(w, "%-34s %8.0fmsg/s  %s=%.0fmsg/s  ratio %.3f  target %s  %s\n",
		r.name, median(our), r.peer, median(their), median(ratios), target, verdict)
	return verdict == "ok"
}

// pace returns how many messages take about a turn.
func pace(f timed) int {
	const few = 500
	f(few) // warm up
	for n := few; ; n *= 4 {
		if took := f(n); took > turn/8 {
			return max(int(float64(n)*float64(turn)/float64(took)), few)
		}
	}
}

// rate returns how many messages a second f carries.
func rate(f timed, n int) float64 { return float64(n) / f(n).Seconds() }

// A timed is a loop that says how long it took, where not all that it does counts.
type timed func(n int) time.Duration

func (f loop) timed() timed {
	return func(n int) time.Duration {
		start := time.Now()
		f(n)
		return time.Since(start)
	}
}

// A tally counts the acknowledgements that a loop waits for.
type tally struct {
	left atomic.Int64
	all  chan struct{}
}

func newTally() *tally { return &tally{all: make(chan struct{}, 1)} }

// acked counts one acknowledgement.
func (t *tally) acked() {
	if t.left.Add(-1) == 0 {
		t.all <- struct{}{}
	}
}

// carry returns a loop that publishes n messages from so many goroutines, each of
// which waits for one call before it makes the next, and then waits until all are
// acknowledged. The publish gets the number of its goroutine.
func (t *tally) carry(publishers int, publish func(publisher int)) loop {
	return func(n int) {
		t.left.Store(int64(n))
		var next atomic.Int64
		var publishing sync.WaitGroup
		for p := range publishers {
			publishing.Go(func() {
				for next.Add(1) <= int64(n) {
					publish(p)
				}
			})
		}
		publishing.Wait()
		<-t.all
	}
}
