package kafka

import (
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// maxAhead bounds how many records of a partition are handed out past one that
	// is not settled. It bounds memory; the partition waits beyond it.
	maxAhead = 10_000
	// maxMetadata is what Kafka takes beside a commit, by its default
	// offset.metadata.max.bytes.
	maxMetadata = 4096
	// The metadata of a commit begins with one of these, and the offset committed.
	// What is clean was committed when nothing beyond it was in hand.
	metaClean, metaOpen = "parley1c:", "parley1o:"
)

// A window is what of a partition was handed out, from the first record that is
// not settled. What is below it is committed: the low-water mark, so that nothing
// is ever committed past a record that is not settled. What is settled above it
// travels in the metadata of the commit, so that it does not come again either.
//
// It is not safe for concurrent use.
type window struct {
	next  int64   // the offset after the last that was handed out or passed over; -1 before the first
	first uint64  // the number of slots[0]
	slots []slot  // by offset; the first is not done
	base  []slot  // where slots begins when it is empty
	done  []spanT // beyond next, known to be done from the commit that this began with
}

// A slot is one record that was handed out.
type slot struct {
	rec   *kgo.Record // nil once done
	off   int64
	in    *handout // who has it in hand, or nil
	done  bool
	again bool // somebody had it before
}

// A spanT is a run of offsets, the last excluded.
type spanT struct{ from, to int64 }

// open begins a window with what was committed; at is -1 where nothing was. It
// reports whether nothing beyond it can have been in hand.
func (w *window) open(at int64, meta string) (clean bool) {
	*w = window{next: max(at, -1)}
	if at < 0 {
		return true
	}
	w.done, clean = parseMetadata(at, meta)
	return clean
}

// passes reports whether the record at off, the next in line, is done, and
// passes it over.
func (w *window) passes(off int64) bool {
	for len(w.done) > 0 && w.done[0].to <= off {
		w.done = w.done[1:]
	}
	if len(w.done) == 0 || off < w.done[0].from {
		return false
	}
	w.next = off + 1
	return true
}

// push adds the record that is handed out next, and returns its number.
func (w *window) push(rec *kgo.Record) uint64 {
	if len(w.slots) == cap(w.slots) {
		w.base = make([]slot, 0, max(2*len(w.slots), 64))
		w.slots = append(w.base, w.slots...)
	}
	w.slots = append(w.slots, slot{rec: rec, off: rec.Offset})
	w.next = rec.Offset + 1
	return w.first + uint64(len(w.slots)) - 1
}

// at returns the slot of a number that is not done.
func (w *window) at(n uint64) *slot { return &w.slots[n-w.first] }

// finish marks a slot as done.
func (w *window) finish(n uint64) {
	s := w.at(n)
	s.done, s.rec, s.in = true, nil, nil
	for len(w.slots) > 0 && w.slots[0].done {
		w.slots = w.slots[1:]
		w.first++
	}
	if len(w.slots) == 0 {
		w.slots = w.base
	}
}

// full reports whether the first record holds up all that follow.
func (w *window) full() bool { return len(w.slots) >= maxAhead }

// mark returns what to commit, and reports false when there is nothing yet.
func (w *window) mark() (at int64, ok bool) {
	if len(w.slots) > 0 {
		return w.slots[0].off, true
	}
	return w.next, w.next >= 0
}

// metadata returns what to commit beside the mark: which offsets above it are
// done. What does not fit comes again after a restart.
func (w *window) metadata(clean bool) string {
	at, _ := w.mark()
	prefix := metaPrefix(at, clean)
	room := base64.RawURLEncoding.DecodedLen(maxMetadata - len(prefix))
	var out []byte
	pos := at
	add := func(s spanT) bool {
		if s.from >= s.to {
			return true
		}
		n := len(out)
		out = binary.AppendUvarint(out, uint64(s.from-pos))
		out = binary.AppendUvarint(out, uint64(s.to-s.from))
		if len(out) > room {
			out = out[:n]
			return false
		}
		pos = s.to
		return true
	}
	end := at // of what was looked at
	for i := range w.slots {
		if s := &w.slots[i]; !s.done {
			if !add(spanT{end, s.off}) {
				return prefix + base64.RawURLEncoding.EncodeToString(out)
			}
			end = s.off + 1
		}
	}
	if len(w.slots) == 0 || add(spanT{end, w.next}) {
		for _, s := range w.done {
			if !add(spanT{max(s.from, w.next, at), s.to}) {
				break
			}
		}
	}
	return prefix + base64.RawURLEncoding.EncodeToString(out)
}

// metaPrefix begins the metadata of a commit of at. It repeats at: those who move
// a group by hand may keep the metadata that they find, which would then pass over
// records that nobody has handled.
func metaPrefix(at int64, clean bool) string {
	prefix := metaOpen
	if clean {
		prefix = metaClean
	}
	return prefix + strconv.FormatInt(at, 10) + ":"
}

// parseMetadata is the reverse of metadata. What others wrote, or was written for
// another offset, says nothing.
func parseMetadata(at int64, meta string) (done []spanT, clean bool) {
	text, clean := strings.CutPrefix(meta, metaPrefix(at, true))
	if !clean {
		var ok bool
		if text, ok = strings.CutPrefix(meta, metaPrefix(at, false)); !ok {
			return nil, false
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > maxMetadata {
		return nil, false
	}
	const far = 1 << 40 // no two offsets of a partition are so far apart here
	for pos := at; len(raw) > 0; {
		var run [2]uint64
		for i := range run {
			v, n := binary.Uvarint(raw)
			if n <= 0 || v > far {
				return nil, false
			}
			run[i], raw = v, raw[n:]
		}
		from := pos + int64(run[0])
		pos = from + int64(run[1])
		if from < at || pos <= from {
			return nil, false
		}
		done = append(done, spanT{from, pos})
	}
	return done, clean
}
