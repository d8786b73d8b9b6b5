package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

const (
	// astrayFor is how long a message is published again that finds no queue
	// where others did: long enough for a subscriber to notice, and to make its
	// queue again, which took a busy RabbitMQ 3.10 more than 10 s.
	astrayFor = 30 * time.Second
	// astrayPause lies between two tries.
	astrayPause = 100 * time.Millisecond
	// maxRoutes bounds the memory that routes take; past it they are learnt anew.
	maxRoutes = 4096
)

// routes are the exchanges and routing keys that have led to a queue. Where one
// no longer does, a group has subscribed and its queue or its binding is gone for
// the moment: an outage, and no topic without groups.
type routes struct {
	mu    sync.Mutex
	known map[route]bool // guarded by mu
}

type route struct{ exchange, key string }

// learn notes that it has reached a queue.
func (rs *routes) learn(c *batch, it *item) {
	if c.to.queue != "" { // declared again where it is missing
		return
	}
	r := route{c.to.exchange, it.key}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.known[r] {
		return
	}
	if rs.known == nil || len(rs.known) >= maxRoutes {
		rs.known = map[route]bool{}
	}
	rs.known[r] = true
}

// interrupted reports whether it, which has reached no queue, is to be published
// again because others have. Without patience the route is forgotten: no caller
// after this one waits for it.
func (rs *routes) interrupted(c *batch, it *item) bool {
	r := route{c.to.exchange, it.key}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !rs.known[r] {
		return false
	}
	if !c.patient {
		delete(rs.known, r)
		return false
	}
	c.astray = true
	return true
}

// A detour is the part of a call of publish during which messages reach no queue.
type detour struct{ since time.Time }

func (d *detour) patient(bound time.Duration) bool {
	return d.since.IsZero() || time.Since(d.since) < bound
}

// rest begins, goes on with or ends the detour, and pauses on it.
func (d *detour) rest(ctx context.Context, astray bool) {
	if !astray {
		d.since = time.Time{}
		return
	}
	if d.since.IsZero() {
		d.since = time.Now()
	}
	_ = pause(ctx, astrayPause)
}

// why returns the error of what is on a detour when err ends the call.
func (d *detour) why(err error) error {
	if d.since.IsZero() {
		return err
	}
	return fmt.Errorf("%w: %w", messaging.ErrUnroutable, err)
}
