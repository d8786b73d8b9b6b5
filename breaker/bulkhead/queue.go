package bulkhead

// queue holds the calls that wait for a slot, the longest waiting first. A list
// and not a channel, so that a call that gives up leaves at once, from wherever
// it stands.
type queue struct {
	first, last *waiter
	len         int
}

// waiter is one waiting call.
type waiter struct {
	ready      chan struct{} // closed when granted
	hold       hold          // valid when granted
	granted    bool          // guarded by the bulkhead's mu
	prev, next *waiter       // in the queue; next also among those to wake
}

func (q *queue) push() *waiter {
	w := &waiter{ready: make(chan struct{}), prev: q.last}
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
	q.len++
	return w
}

func (q *queue) remove(w *waiter) {
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	q.len--
}

// grant gives what slots are free to the longest waiting, and returns those, for
// wake.
func (b *Bulkhead) grant() *waiter {
	var woken *waiter
	for b.queue.len > 0 && b.running < b.limit {
		w := b.queue.first
		b.queue.remove(w)
		w.hold, w.granted = b.take(), true
		w.next, woken = woken, w
	}
	return woken
}

// wake tells waiters that they have a slot, without mu held. A waiter that gave
// up meanwhile has found out by itself.
func wake(w *waiter) {
	for w != nil {
		next := w.next
		close(w.ready)
		w = next
	}
}
