package memory

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/parley-go/parley/messaging"
)

// A graveyard holds the dead letters of a group, the oldest first.
type graveyard struct {
	limit int

	mu      sync.Mutex
	letters []*letter     // guarded by mu; by seq
	free    int           // guarded by mu; how many of them nobody holds
	last    int64         // guarded by mu; the last seq given
	changed chan struct{} // guarded by mu; closed, and replaced, when a letter becomes free
}

// A letter is one dead letter. Its message and headers never change.
type letter struct {
	msg         messaging.Message // shared with other groups
	why         map[string]string // the headers that say why it is dead
	seq         int64             // guarded by the graveyard's mu; its place in the order
	held        bool              // guarded by the graveyard's mu; some subscriber has it in hand
	redelivered bool              // guarded by the graveyard's mu
}

// message returns a copy of the message with the headers that say why.
func (l *letter) message() messaging.Message {
	m := l.msg.Clone()
	headers := make(map[string]string, len(m.Headers)+len(l.why))
	maps.Copy(headers, m.Headers)
	maps.Copy(headers, l.why)
	m.Headers = headers
	return m
}

// bury puts m among the dead letters, with headers that say why. Where there are
// too many, it drops the oldest that nobody holds.
func (y *graveyard) bury(m messaging.Message, why map[string]string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(y.letters) >= y.limit && y.free > 0 {
		y.drop(slices.IndexFunc(y.letters, func(l *letter) bool { return !l.held }))
		y.free--
	}
	y.append(&letter{msg: m, why: why})
}

// append puts l, which nobody holds, at the end. The caller holds mu.
func (y *graveyard) append(l *letter) {
	y.last++
	l.seq, l.held = y.last, false
	y.letters = append(y.letters, l)
	y.freed()
}

// freed tells those that wait that one more letter is free. The caller holds mu.
func (y *graveyard) freed() {
	y.free++
	close(y.changed)
	y.changed = make(chan struct{})
}

// drop forgets the letter at i. The caller holds mu.
func (y *graveyard) drop(i int) {
	if i == 0 { // as nearly always: without moving the others
		y.letters[0] = nil
		y.letters = y.letters[1:]
		return
	}
	y.letters = slices.Delete(y.letters, i, i+1)
}

// take returns the oldest letter that nobody holds, which the caller then does,
// and whether it was held before. Where there is none, changed is closed as soon
// as there is one.
func (y *graveyard) take() (l *letter, redelivered bool, changed <-chan struct{}) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.free == 0 {
		return nil, false, y.changed
	}
	y.free--
	for _, l = range y.letters { // past those in hand, of which there are few
		if !l.held {
			break
		}
	}
	redelivered = l.redelivered
	l.held, l.redelivered = true, true
	return l, redelivered, nil
}

// remove forgets l, which the caller holds.
func (y *graveyard) remove(l *letter) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.unlink(l)
}

// unlink is remove for a caller that holds mu.
func (y *graveyard) unlink(l *letter) {
	i, _ := slices.BinarySearchFunc(y.letters, l.seq, func(l *letter, seq int64) int { return cmp.Compare(l.seq, seq) })
	y.drop(i)
}

// release leaves l, which the caller holds, where it is.
func (y *graveyard) release(l *letter) {
	y.mu.Lock()
	defer y.mu.Unlock()
	l.held = false
	y.freed()
}

// toEnd puts l, which the caller holds, at the end.
func (y *graveyard) toEnd(l *letter) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.unlink(l)
	y.append(l)
}

func (y *graveyard) list() []messaging.Message {
	y.mu.Lock()
	letters := slices.Clone(y.letters)
	y.mu.Unlock()
	dead := make([]messaging.Message, len(letters))
	for i, l := range letters {
		dead[i] = l.message()
	}
	return dead
}
