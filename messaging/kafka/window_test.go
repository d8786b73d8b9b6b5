package kafka

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// An oracle remembers of each offset what became of it, and looks at all of them
// each time.
type oracle struct {
	offsets []int64 // that have records
	done    map[int64]bool
	handed  map[int64]bool
	end     int64 // after the last that was handed out or passed over
}

func (o *oracle) mark() int64 {
	for _, off := range o.offsets {
		if off < o.end && !o.done[off] {
			return off
		}
	}
	return o.end
}

func TestWindowCommitsNothingPastARecordThatIsNotDone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		o := &oracle{done: map[int64]bool{}, handed: map[int64]bool{}}
		at := r.Int64N(1000)
		for off := at; len(o.offsets) < 60; off++ {
			if r.IntN(4) > 0 { // the rest was compacted away, or belongs to transactions
				o.offsets = append(o.offsets, off)
			}
		}
		var w window
		meta := ""
		// Each life ends by a crash or a rebalance; the next begins with a commit.
		for range 4 {
			w.open(at, meta)
			for off := range o.handed {
				delete(o.handed, off)
			}
			o.end = at
			open := map[uint64]int64{}
			next, _ := slices.BinarySearch(o.offsets, at)
			for range r.IntN(120) {
				switch {
				case r.IntN(2) == 0 && next < len(o.offsets):
					off := o.offsets[next]
					next++
					o.end = off + 1
					if w.passes(off) {
						if !o.done[off] {
							t.Fatalf("offset %d was passed over, and is not done", off)
						}
						break
					}
					if o.done[off] {
						t.Fatalf("offset %d comes again, and was committed as done", off)
					}
					open[w.push(&kgo.Record{Offset: off})] = off
				case len(open) > 0:
					for n, off := range open {
						w.finish(n)
						o.done[off] = true
						delete(open, n)
						break
					}
				}
				got, ok := w.mark()
				if want := o.mark(); !ok || got != want {
					t.Fatalf("mark() = %d, %t, want %d, true", got, ok, want)
				}
			}
			at, _ = w.mark()
			meta = w.metadata(r.IntN(2) == 0)
			// What was done when this was committed is all that anyone may rely on.
			committed := map[int64]bool{}
			spans, _ := parseMetadata(at, meta)
			for _, off := range o.offsets {
				known := slices.ContainsFunc(spans, func(s spanT) bool { return s.from <= off && off < s.to })
				if known && !o.done[off] {
					t.Fatalf("the metadata says that offset %d is done, and it is not", off)
				}
				if off < at || known {
					committed[off] = true
				}
				if o.done[off] && !committed[off] {
					t.Fatalf("offset %d is done, and the commit %d %q forgets it", off, at, meta)
				}
			}
		}
	}
}

func TestCompletionInReverseAdvancesTheMarkOnlyOnceAllAreDone(t *testing.T) {
	var w window
	w.open(1, "")
	var numbers []uint64
	for off := int64(1); off <= 100; off++ {
		numbers = append(numbers, w.push(&kgo.Record{Offset: off}))
	}
	for i, n := range slices.Backward(numbers) {
		if at, _ := w.mark(); at != 1 {
			t.Fatalf("mark() = %d with %d not done, want 1", at, i+1)
		}
		w.finish(n)
	}
	if at, _ := w.mark(); at != 101 {
		t.Errorf("mark() = %d when all are done, want 101", at)
	}
}

func TestAWindowThatEmptiesTakesNoMoreMemory(t *testing.T) {
	for _, n := range []int{1, 64, 1000} { // at one time in hand
		var w window
		rec := new(kgo.Record)
		if allocs := testing.AllocsPerRun(10, func() {
			for range 1000 / n {
				first := w.push(rec)
				for range n - 1 {
					w.push(rec)
				}
				for i := range n {
					w.finish(first + uint64(i))
				}
			}
		}); allocs != 0 {
			t.Errorf("%v allocations for 1000 records, %d at one time, want 0", allocs, n)
		}
	}
}

func TestMetadataStaysWithinWhatKafkaTakes(t *testing.T) {
	var w window
	w.open(0, "")
	for off := range int64(maxAhead) {
		if n := w.push(&kgo.Record{Offset: off}); off%2 == 1 {
			w.finish(n)
		}
	}
	if !w.full() {
		t.Error("full() = false though the first of 10,000 is not done, want true")
	}
	meta := w.metadata(false)
	if len(meta) > maxMetadata {
		t.Errorf("the metadata has %d bytes, want at most %d", len(meta), maxMetadata)
	}
	done, clean := parseMetadata(0, meta)
	if clean || len(done) < 1000 {
		t.Errorf("parseMetadata() = %d spans, %t, want at least 1000, false", len(done), clean)
	}
	for _, s := range done {
		if s.to != s.from+1 || s.from%2 != 1 {
			t.Fatalf("span %v is not one of an odd offset", s)
		}
	}
}

func TestAWindowBeginsWithoutACommitAtTheFirstRecord(t *testing.T) {
	var w window
	if !w.open(-1, "") {
		t.Error("open(-1) = false, want true: nobody had anything in hand")
	}
	if at, ok := w.mark(); ok {
		t.Errorf("mark() = %d, true, want false before the first record", at)
	}
	w.finish(w.push(&kgo.Record{Offset: 7}))
	if at, ok := w.mark(); at != 8 || !ok {
		t.Errorf("mark() = %d, %t, want 8, true", at, ok)
	}
}

func TestMetadataCountsOnlyWithTheOffsetThatItWasCommittedWith(t *testing.T) {
	var w window
	w.open(10, "")
	w.push(&kgo.Record{Offset: 10})
	w.finish(w.push(&kgo.Record{Offset: 11}))
	for _, clean := range []bool{true, false} {
		meta := w.metadata(clean)
		if done, got := parseMetadata(10, meta); len(done) != 1 || got != clean {
			t.Errorf("parseMetadata(10, %q) = %v, %t, want one span, %t", meta, done, got, clean)
		}
		for _, at := range []int64{0, 1, 9, 11, 100} { // moved by hand
			if done, got := parseMetadata(at, meta); done != nil || got {
				t.Errorf("parseMetadata(%d, %q) = %v, %t, want none, false: it was written for offset 10", at, meta, done, got)
			}
		}
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add(int64(0), "")
	f.Add(int64(5), metaPrefix(5, true))
	f.Add(int64(5), metaPrefix(5, false)+"AQI")
	f.Add(int64(math.MaxInt64), metaPrefix(math.MaxInt64, false)+"AQI")
	f.Add(int64(3), "somebody else's")
	f.Add(int64(3), metaPrefix(3, false)+"!")
	f.Add(int64(3), metaPrefix(3, false)+base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(nil, math.MaxUint64)))
	f.Add(int64(3), metaPrefix(3, false)+strings.Repeat("A", 2*maxMetadata))
	f.Fuzz(func(t *testing.T, at int64, meta string) {
		done, _ := parseMetadata(at, meta)
		last := at
		for _, s := range done {
			if s.from < last || s.to <= s.from {
				t.Fatalf("parseMetadata(%d, %q) = %v, want spans in order from %d on", at, meta, done, at)
			}
			last = s.to
		}
	})
}
