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
	list []try  // guarded by mu: those that have come back
	room [2]try // for list, most of the time
}

// try is an attempt that has come back from an instance.
type try struct {
	at   *Instance
	resp *http.Response // nil where there is none, or where it is over
}

// begin counts the trip among those of the pool, until end.
func (t *tries) begin(p *pool) {
	p.enter()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pool, t.list = p, t.room[:0]
}

// add notes that an attempt has come back.
func (t *tries) add(at *Instance, resp *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, try{at, resp})
}

// have reports whether an attempt has come back from the instance.
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
