package memory

import (
	"container/heap"
	"testing"
	"testing/synctest"
	"time"
)

// watched returns a group with a delayed entry of which its one watcher knows:
// the nudge has been taken. Which subscriber is caught between looking and
// waiting is a race that no test from outside can arrange.
func watched() *group {
	g := newGroup("t", "g", time.Now(), Config{MaxBacklog: 4, MaxDeadLetters: 1})
	delay(g)
	return g
}

func delay(g *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	heap.Push(&g.delayed, &entry{order: int64(time.Hour)})
	g.aside.Store(1)
}

func TestDelaysAreMeasuredByTheMonotonicClock(t *testing.T) {
	b, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if b.base == b.base.Round(0) { //nolint:staticcheck // == sees the monotonic reading, of which Round leaves nothing
		t.Errorf("base = %v, want a time with a monotonic reading, which no change of the clock moves", b.base)
	}
}

func TestWatcherThatFindsAnEntryWakesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := watched()
		want := &entry{}
		g.ready <- want
		if got, _ := g.take(); got != want || len(g.nudge) != 1 {
			t.Errorf("take() = %p and %d are woken, want %p and 1", got, len(g.nudge), want)
		}
	})
}

func TestWatcherThatIsHandedAnEntryWakesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &subscriber{group: watched(), prefetch: 1, freed: make(chan struct{}, 1), open: map[*handout]struct{}{}}
		want, taken := &entry{}, make(chan *entry, 1)
		go func() { taken <- s.take(t.Context(), t.Context()) }()
		synctest.Wait()
		s.group.ready <- want
		if got := <-taken; got != want || len(s.group.nudge) != 1 {
			t.Errorf("take() = %p and %d are woken, want %p and 1", got, len(s.group.nudge), want)
		}
	})
}
