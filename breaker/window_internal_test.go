package breaker

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// outcome is one that an oracle remembers.
type outcome struct {
	at           time.Duration
	failed, slow bool
}

func book(w window, o outcome) {
	if o.failed || o.slow {
		w.trouble(o.at, o.failed, o.slow)
	} else {
		w.success(o.at)
	}
}

func sum(outcomes []outcome) Counts {
	var c Counts
	for _, o := range outcomes {
		if o.failed {
			c.Failures++
		} else {
			c.Successes++
		}
		if o.slow {
			c.Slow++
		}
	}
	return c
}

// script turns fuzzed bytes into outcomes: a step in time by the upper bits, so
// that all sizes occur, and what happened by the lower ones.
func script(data []byte, unit time.Duration) []outcome {
	var outcomes []outcome
	var now time.Duration
	for _, c := range data {
		now += unit * time.Duration(1<<(c>>4)-1) / 1024
		outcomes = append(outcomes, outcome{now, c&1 != 0, c&2 != 0})
	}
	return outcomes
}

func FuzzWindowOfTime(f *testing.F) {
	f.Add(uint64(10*time.Second), []byte("\x00\x01\x12\x23\xf0\xa1\xb2\xc3"))
	f.Add(uint64(time.Second), []byte(strings.Repeat("\x73\x01\x91\x80", 50)))
	f.Fuzz(func(t *testing.T, size uint64, data []byte) {
		window := minWindow + time.Duration(size)%(maxWindow-minWindow)
		w := newBuckets(window)
		if width := time.Duration(1) << w.shift; width > window/8 || 2*width <= window/8 || w.span < 8 || w.span > slots {
			t.Fatalf("a window of %v has %d buckets of %v", window, w.span, width)
		}
		outcomes := script(data, window)
		for i, o := range outcomes {
			book(w, o)
			// The oracle knows the buckets by division, and nothing of rings or tags.
			width := time.Duration(1) << w.shift
			var within []outcome
			for _, old := range outcomes[:i+1] {
				if o.at/width-old.at/width < time.Duration(w.span) {
					within = append(within, old)
				}
				switch age := o.at - old.at; {
				case age <= window-window/8 && o.at/width-old.at/width >= time.Duration(w.span):
					t.Fatalf("an outcome of %v ago is outside a window of %v", age, window)
				case age >= window+window/8 && o.at/width-old.at/width < time.Duration(w.span):
					t.Fatalf("an outcome of %v ago is inside a window of %v", age, window)
				}
			}
			if got, want := w.counts(o.at), sum(within); got != want {
				t.Fatalf("counts after outcome %d = %+v, want %+v", i, got, want)
			}
		}
	})
}

func FuzzWindowOfCalls(f *testing.F) {
	f.Add(uint16(1), []byte("\x00\x01\x02\x03"))
	f.Add(uint16(64), []byte(strings.Repeat("\x01\x00\x03", 60)))
	f.Add(uint16(65), []byte(strings.Repeat("\x01\x00\x02", 60)))
	f.Fuzz(func(t *testing.T, size uint16, data []byte) {
		n := 1 + int(size)%maxWindowCalls
		w := newRing(n)
		outcomes := script(data, 0)
		for i, o := range outcomes {
			book(w, o)
			if got, want := w.counts(0), sum(outcomes[max(0, i+1-n):i+1]); got != want {
				t.Fatalf("counts of the last %d after %d calls = %+v, want %+v", n, i+1, got, want)
			}
		}
	})
}

func TestAnOldBucketIsClearedOnceHoweverManyComeUponIt(t *testing.T) {
	w := newBuckets(time.Second)
	lap := time.Duration(slots) << w.shift
	for round := range 200 {
		now := time.Duration(round) * lap
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					w.success(now)
				}
			})
		}
		wg.Wait()
		if got := w.counts(now).Successes; got != 400 {
			t.Fatalf("%d successes in lap %d, want 400", got, round)
		}
	}
}

func TestAnOutcomeThatIsAWholeLapLateIsDropped(t *testing.T) {
	w := newBuckets(time.Second)
	lap := time.Duration(slots) << w.shift
	w.success(5 * lap)
	w.success(4 * lap)
	if got, want := w.counts(5*lap), (Counts{Successes: 1}); got != want {
		t.Errorf("counts = %+v, want %+v", got, want)
	}
}

func TestWhatOthersCountedWithALaterClockIsSeen(t *testing.T) {
	w := newBuckets(time.Second)
	width := time.Duration(1) << w.shift
	w.trouble(6*width, true, false)
	if got, want := w.trouble(5*width, true, false), (Counts{Failures: 2}); got != want {
		t.Errorf("counts = %+v, want %+v", got, want)
	}
}

func TestEpochsMayWrapAround(t *testing.T) {
	w := newBuckets(10 * time.Millisecond)
	lap := time.Duration(slots) << w.shift
	wrap := time.Duration(1<<32) << w.shift // 52 days of so short a window
	for i := range time.Duration(slots) {
		w.success(wrap/3 + i<<w.shift)
	}
	for _, now := range []time.Duration{wrap - 1, wrap, wrap + lap, 3*wrap/2 + lap, 5 * wrap / 2} {
		w.success(now)
		if w.counts(now).Successes == 0 {
			t.Errorf("no success at %v, want that of now", now)
		}
	}
	// A bucket that slept for half of the epochs must not pass for one ahead.
	w = newBuckets(10 * time.Millisecond)
	w.success(0)
	for range 3 {
		w.success(wrap/2 + lap)
	}
	if got := w.counts(wrap/2 + lap).Successes; got != 3 {
		t.Errorf("%d successes after half of the epochs, want 3", got)
	}
}

func TestTheOpenTimeNeverOverflows(t *testing.T) {
	for range 100 {
		set, err := newSettings(Config{OpenFor: 1 + time.Duration(rand.Int64N(int64(maxWait)))})
		if err != nil {
			t.Fatal(err)
		}
		for _, reopens := range []int{0, 1, 16, 63, 64, 1000, 1 << 40} {
			if d := set.openTime(reopens, maxWait*100); d <= 0 || d > set.MaxOpenFor+set.MaxOpenFor/10 {
				t.Fatalf("openTime(%d) = %v, want above 0 and at most %v and a tenth", reopens, d, set.MaxOpenFor)
			}
		}
	}
}

func TestAnEvictedBreakerLeavesItsChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGroup[int](GroupConfig{MaxKeys: 10})
		if err != nil {
			t.Fatal(err)
		}
		for key := range 1000 {
			g.Get(key)
			time.Sleep(time.Minute)
		}
		linked := 0
		for i := range g.heads {
			for e := g.heads[i].Load(); e != nil; e = e.next.Load() {
				linked++
			}
		}
		if s := g.Stats(); linked != 10 || s.Keys != 10 || s.Evicted == 0 {
			t.Errorf("%d entries are linked and Stats() = %+v, want 10, and evictions", linked, s)
		}
	})
}

// No test can step the wall clock, but it can see that time is taken from the
// monotonic one: only such a time says so.
func TestStepsOfTheWallClockHaveNoEffect(t *testing.T) {
	b, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.base.String(), " m=") {
		t.Errorf("the base of the breaker's time is %v, want it to have a monotonic reading", b.base)
	}
}
