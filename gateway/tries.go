package gateway

import (
	"net/http"
	"sync"
)

// tries are the attempts of one trip, and whom they keep busy. Hedged attempts
// run side by side.
type tries struct {
	mu   sync.Mutex
	pool *pool  // guarded by mu: nil before the trip has begun and once it is over
	list []try  // guarded by mu: in the order in which they began
	room [2]try // for list, most of the time
}

// try is an attempt at an instance.
type try struct {
	at   *Instance      // nil where its breaker would not have it
	resp *http.Response // nil where there is none, not yet or not any more
}

// begin counts the trip among those of the pool, until end.
func (t *tries) begin(p *pool) {
	p.enter()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pool, t.list = p, t.room[:0]
}

// add notes that an attempt begins, and returns its number.
func (t *tries) add(at *Instance) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, try{at: at})
	return len(t.list) - 1
}

// drop forgets an attempt that never began.
func (t *tries) drop(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list[n].at = nil
}

// done notes what an attempt has brought.
func (t *tries) done(n int, resp *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list[n].resp = resp
}

// have reports whether there was, or is, an attempt at the instance.
func (t *tries) have(at *Instance) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.list {
		if t.list[i].at == at {
			return true
		}
	}
	return false
}

// of returns the instance that gave the response, nil where none did.
func (t *tries) of(resp *http.Response) *Instance {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.list {
		if t.list[i].resp == resp {
			return t.list[i].at
		}
	}
	return nil
}

// release lets go of the instances whose responses nobody reads any more: of all
// that have come back.
func (t *tries) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.list {
		if t.list[i].resp != nil {
			t.list[i].resp = nil
			t.list[i].at.inFlight.Add(-1)
		}
	}
}

// end ends the trip for the pool. It may be called again.
func (t *tries) end() {
	t.release()
	t.mu.Lock()
	p := t.pool
	t.pool = nil
	t.mu.Unlock()
	if p != nil {
		p.leave()
	}
}
