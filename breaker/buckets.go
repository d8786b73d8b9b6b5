package breaker

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// slots is the number of buckets of a window of time, a power of two so that a
// mask finds the one to use.
const slots = 16

// buckets is a window of time: a ring of buckets, each of which holds the calls
// of one epoch. An epoch is the largest power of two nanoseconds that the window
// holds at least eight of, so that a shift finds it.
type buckets struct {
	shift uint   // epoch = time >> shift
	span  uint32 // epochs that the window reaches back, the current one included
	_     [cacheLine]byte
	ring  [slots]bucket
}

// bucket holds the counters of an epoch. They are tagged with it one by one.
type bucket struct{ successes, failures, slow counter }

func newBuckets(d time.Duration) *buckets {
	w := &buckets{shift: uint(bits.Len64(uint64(d/8))) - 1}
	w.span = uint32((uint64(d)-1)>>w.shift) + 1
	return w
}

func (w *buckets) at(now time.Duration) (*bucket, uint32) {
	epoch := uint32(uint64(now) >> w.shift)
	return &w.ring[epoch%slots], epoch
}

func (w *buckets) success(now time.Duration) {
	b, epoch := w.at(now)
	b.successes.add(epoch)
}

func (w *buckets) trouble(now time.Duration, failed, slow bool) Counts {
	b, epoch := w.at(now)
	if slow {
		b.slow.add(epoch)
	}
	if failed {
		b.failures.add(epoch)
	} else {
		b.successes.add(epoch)
	}
	return w.counts(now)
}

func (w *buckets) counts(now time.Duration) Counts {
	var c Counts
	_, epoch := w.at(now)
	for i := range w.ring {
		b := &w.ring[i]
		c.Successes += b.successes.within(epoch, w.span)
		c.Failures += b.failures.within(epoch, w.span)
		c.Slow += b.slow.within(epoch, w.span)
	}
	return c
}

// counter counts within one epoch: the upper half of the word is the epoch, the
// lower half the count. To clear the count of an earlier lap of the ring and to
// add to it is one compare-and-swap, so no count is lost when many callers come
// upon an old one. Epochs wrap around and are only ever subtracted.
type counter struct{ word atomic.Uint64 }

// late is for how many epochs a caller may be stalled between reading the clock
// and counting, and still be told from one that meets a leftover: what seems
// further ahead has been asleep for most of 2^32 epochs, at least 52 days.
const late = 1 << 10

func (c *counter) add(epoch uint32) {
	for {
		word := c.word.Load()
		switch ahead := uint32(word>>32) - epoch; {
		case ahead == 0:
			c.word.Add(1)
			return
		case ahead < late:
			return
		case c.word.CompareAndSwap(word, uint64(epoch)<<32|1):
			return
		}
	}
}

// within returns the count if it belongs to one of the last span epochs, or to
// one ahead: other callers may have read the clock later than this one.
func (c *counter) within(epoch, span uint32) uint64 {
	word := c.word.Load()
	if epoch+late-uint32(word>>32) < span+late {
		return word & (1<<32 - 1)
	}
	return 0
}
