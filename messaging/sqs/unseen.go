package sqs

import "sync"

// maxUnseen bounds the memory of unseen; past it it begins anew.
const maxUnseen = 10_000

// unseen are the receives of this process that no handler has seen: of messages that
// were given back because nobody was there for them any more, or because the one before
// them comes again. SQS counts these as it does attempts; here they are taken off
// again, as far as this process knows of them.
type unseen struct {
	mu sync.Mutex
	by map[string]int // guarded by mu; by SQS's own ID of the message
}

// note counts one such receive.
func (u *unseen) note(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by == nil || len(u.by) >= maxUnseen {
		u.by = map[string]int{}
	}
	u.by[id]++
}

// of returns how many there were of a message.
func (u *unseen) of(id string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.by[id]
}

// forget ends what is known of a message that will not come again.
func (u *unseen) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.by, id)
}
