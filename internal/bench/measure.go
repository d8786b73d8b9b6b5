package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// rounds of ours and theirs in turn; the median of their ratios counts.
	rounds = 15
	// slice is how long one side of a round runs.
	slice = 60 * time.Millisecond
)

// A loop runs an operation n times.
type loop func(n int)

// A row compares an operation of parley with the same of a peer.
type row struct {
	name string // package/case
	ours loop
	peer string
	them loop
	// most is the largest ratio of ours to theirs that is ok. 0 only shows.
	most float64
	// ns, if set, is how many nanoseconds ours may take, in the best round: what
	// else the machine does only adds to them.
	ns float64
	// base, if set, is what both sides pay anyway, and is taken off first.
	base loop
	// allocs is how many allocations ours may make an operation, over base.
	// Negative only shows.
	allocs int
	// procs is how many goroutines share the loop. 0 means 1.
	procs int
	// race makes it a row of messages carried: the ratio is then ours to theirs in
	// messages a second, and the more the better.
	race bool
	// oursTimed and themTimed, if set, are the sides of a race in place of ours and
	// them.
	oursTimed, themTimed timed
	// least is the smallest such ratio that is ok. 0 only shows.
	least float64
	// own, if set, measures and prints the row instead.
	own func(w io.Writer, r row) bool
}

// run measures r, prints its line and reports whether it is ok.
func (r row) run(w io.Writer) bool {
	if r.own != nil {
		return r.own(w, r)
	}
	if r.race {
		return r.throughput(w)
	}
	ours, them := spread(r.ours, r.procs), spread(r.them, r.procs)
	base := func(int) {}
	if r.base != nil {
		base = spread(r.base, r.procs)
	}
	n := calibrate(ours)
	m := calibrate(them)
	k := 1
	if r.base != nil {
		k = calibrate(base)
	}
	var ratios, our, their []float64
	for i := range rounds {
		var a, b, c float64
		if r.base != nil {
			c = cpu(base, k)
		}
		if i%2 == 0 { // neither side always comes first
			a, b = cpu(ours, n), cpu(them, m)
		} else {
			b, a = cpu(them, m), cpu(ours, n)
		}
		a, b = max(a-c, 0.1), max(b-c, 0.1)
		our, their, ratios = append(our, a), append(their, b), append(ratios, a/b)
	}
	floor := perOp(r.base)
	allocs, theirAllocs := perOp(r.ours)-floor, perOp(r.them)-floor
	verdict := "ok"
	target := "-"
	if r.most > 0 {
		target = fmt.Sprintf("%.2f", r.most)
		if median(ratios) > r.most {
			verdict = "MISS"
		}
	}
	took := median(our)
	if r.ns > 0 {
		took, target = slices.Min(our), fmt.Sprintf("%.0fns", r.ns)
		if took > r.ns {
			verdict = "MISS"
		}
	}
	if r.allocs >= 0 && allocs > float64(r.allocs)+0.01 {
		verdict = "MISS"
	}
	fmt.Fprintf(w, "%-34s %8.1fns %5.1fallocs  %s=%.1fns,%.1fallocs  ratio %.3f  target %s  %s\n",
		r.name, took, allocs, r.peer, median(their), theirAllocs, median(ratios), target, verdict)
	return verdict == "ok"
}

// spread shares the n rounds of a loop among goroutines.
func spread(f loop, procs int) loop {
	if procs <= 1 {
		return f
	}
	return func(n int) {
		var wg sync.WaitGroup
		for range procs {
			wg.Go(func() { f(n / procs) })
		}
		wg.Wait()
	}
}

// calibrate returns how many rounds take about a slice.
func calibrate(f loop) int {
	f(1000) // warm up
	for n := 1000; ; n *= 4 {
		start := time.Now()
		f(n)
		if took := time.Since(start); took > slice/8 {
			return max(int(float64(n)*float64(slice)/float64(took)), 1000)
		}
	}
}

// cpu returns the nanoseconds of processor time that one round of f takes, in
// all threads. Unlike elapsed time it does not count what other processes do.
func cpu(f loop, n int) float64 {
	runtime.GC()
	start := used()
	f(n)
	return float64(used()-start) / float64(n)
}

func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp returns the allocations of one round of f. Nothing is collected meanwhile: what
// fills a pool again that a collection has emptied is no part of any round.
func perOp(f loop) float64 {
	if f == nil {
		return 0
	}
	const n = 10_000
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	f(100)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f(n)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
