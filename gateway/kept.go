package gateway

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// kept is the connections of an upstream that wait for their next request. Nobody reads
// from them meanwhile: that a target has closed one is found when it is taken, or when
// it has waited for too long.
type kept struct {
	most    int           // for each host
	timeout time.Duration // that a connection waits

	mu    sync.Mutex
	wires map[string][]*wire // guarded by mu: the latest last, so that those above the need grow old
	timer *time.Timer        // guarded by mu: calls sweep; nil where none waits
	over  bool               // guarded by mu: end has been called, and none was wanted since
}

var (
	errEnough = errors.New("gateway: as many idle connections as MaxIdle allows")
	errOver   = errors.New("gateway: idle connections have been closed since the request began")
)

// take returns the connection to host that was used last, of those that are good
// still; nil where there is none.
func (k *kept) take(host string) *wire {
	for {
		c := k.pop(host)
		if c == nil || !k.old(c) && c.silent() {
			return c
		}
		_ = c.Close()
	}
}

// old reports whether c has waited for too long by the clock on the wall, which goes on
// while the machine sleeps. No timer does.
func (k *kept) old(c *wire) bool { return time.Since(c.idle.Round(0)) >= k.timeout }

func (k *kept) pop(host string) *wire {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = false
	wires := k.wires[host]
	last := len(wires) - 1
	if last < 0 {
		return nil
	}
	c := wires[last]
	wires[last] = nil
	k.wires[host] = wires[:last]
	return c
}

// put keeps c for the next request to host, or says why not.
func (k *kept) put(host string, c *wire) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return errOver
	}
	if k.wires == nil {
		k.wires = map[string][]*wire{}
	}
	if len(k.wires[host]) >= k.most {
		return errEnough
	}
	if k.timer == nil {
		k.timer = time.AfterFunc(k.timeout, k.sweep)
	}
	c.kept, c.idle = true, time.Now()
	k.wires[host] = append(k.wires[host], c)
	return nil
}

// sweep closes what has waited for too long, and comes again when the next one has.
func (k *kept) sweep() {
	var old []*wire
	defer func() {
		for _, c := range old {
			_ = c.Close()
		}
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.timeout
	for host, wires := range k.wires {
		n := 0
		for n < len(wires) && time.Since(wires[n].idle) >= k.timeout {
			n++
		}
		old = append(old, wires[:n]...)
		if n == len(wires) {
			delete(k.wires, host)
			continue
		}
		k.wires[host] = slices.Delete(wires, 0, n)
		next = min(next, k.timeout-time.Since(k.wires[host][0].idle))
	}
	if len(k.wires) == 0 {
		k.timer = nil
		return
	}
	k.timer.Reset(next)
}

// end closes all that wait, and has those closed that come before another one is wanted:
// a pool that has served its last request has nobody who would call end again.
func (k *kept) end() {
	k.mu.Lock()
	wires := k.wires
	k.wires, k.over = nil, true
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
	k.mu.Unlock()
	for _, of := range wires {
		for _, c := range of {
			_ = c.Close()
		}
	}
}
