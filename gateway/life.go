package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Reload replaces all that the gateway does by what b describes, or returns an
// error that names every fault on one line, and then nothing has changed. The
// change is atomic: a request is served by the old routes and upstreams or by the
// new ones, and those under way go on as they began.
//
// An Upstream that b has too, which means the same pointer, keeps its pool: its
// connections, breakers, health and what its Picker knows. An Upstream made anew
// is another one, even where it reads the same. Pools that b does not have finish
// the requests and tunnels that they have; their connections are closed as soon
// as these do not need them any more.
//
// Reload may be called at any time, also while Run does its work, which goes on
// with the new upstreams.
func (g *Gateway) Reload(b *Builder) error {
	if b == nil {
		return errors.New("gateway: reload: the Builder is nil; pass one with all upstreams and routes")
	}
	g.reloads.Lock() // of Reload alone: requests and Run never wait for it
	defer g.reloads.Unlock()
	old := g.present()
	p, err := b.plan(old)
	if err != nil {
		return fmt.Errorf("gateway: reload: %w", err)
	}
	g.plan.Store(p)
	for _, was := range old.pools {
		if p.pool(was.config) == nil {
			was.retire()
		}
	}
	if wake := g.wake.Load(); wake != nil {
		select {
		case *wake <- struct{}{}:
		default: // Run will see the latest plan anyway
		}
	}
	return nil
}

// Run does what has to be done beside the requests, for the upstreams of the
// moment: health checks and the resolution of targets. It returns nil after ctx
// has ended and the last of its goroutines with it, and an error at once where it
// is running already.
//
// A gateway serves without it, too. Then a Resolver is never asked and Health
// never checks; ejection, breakers, slow start and the draining after a Reload
// need no Run.
func (g *Gateway) Run(ctx context.Context) error {
	if !g.running.CompareAndSwap(false, true) {
		return errors.New("gateway: run: Run is running already; call it once")
	}
	defer g.running.Store(false)
	wake := make(chan struct{}, 1)
	g.wake.Store(&wake)
	var all sync.WaitGroup
	defer all.Wait()
	ends := make(map[*pool]context.CancelFunc)
	defer func() {
		for _, end := range ends {
			end()
		}
	}()
	for {
		p := g.present()
		for _, one := range p.pools {
			if ends[one] == nil {
				own, end := context.WithCancel(ctx)
				ends[one] = end
				all.Go(func() { one.run(own, ctx) })
			}
		}
		for one, end := range ends {
			if p.pool(one.config) != one {
				end()
				delete(ends, one)
			}
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Close ends the tunnels, which [http.Server.Shutdown] does not wait for, and then
// the connections to upstreams. It waits until the last tunnel has ended by
// itself or ctx has; then it closes those that are left, gives their handlers two
// seconds to notice, and returns the cause of ctx. From its beginning on, requests for a tunnel are answered by 503, while
// others are served as before: call it after Shutdown.
func (g *Gateway) Close(ctx context.Context) error {
	err := g.tunnels.drain(ctx)
	g.CloseIdleConnections()
	return err
}

// tunnels are the hijacked connections of a gateway. The zero value has none.
type tunnels struct {
	mu      sync.Mutex
	open    map[*tunnel]struct{} // guarded by mu
	closing bool                 // guarded by mu: there will be no more
	empty   chan struct{}        // guarded by mu: closed when the last is gone; nil while nobody waits
}

// add returns false where there is to be no other tunnel.
func (t *tunnels) add(one *tunnel) bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing {
		return false
	}
	if t.open == nil {
		t.open = make(map[*tunnel]struct{})
	}
	t.open[one] = struct{}{}
	return true
}

func (t *tunnels) remove(one *tunnel) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, one)
	if len(t.open) == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

func (t *tunnels) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// refuse reports whether there is to be no other tunnel.
func (t *tunnels) refuse() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closing
}

// drain waits for the last tunnel to end, and closes what is left when ctx ends.
func (t *tunnels) drain(ctx context.Context) error {
	empty := t.wait()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	left := t.left()
	for _, one := range left {
		_ = one.Close() // by which its handler ends, and that closes the upstream's side
	}
	if len(left) == 0 {
		return nil
	}
	select { // handlers of the user's need not look at their connections
	case <-empty:
	case <-time.After(lingerTimeout):
	}
	return fmt.Errorf("gateway: close: tunnels were cut off: %w", context.Cause(ctx))
}

// wait lets no other tunnel begin, and returns what is closed when none is left.
func (t *tunnels) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	empty := t.empty
	if len(t.open) == 0 {
		close(t.empty)
		t.empty = nil
	}
	return empty
}

func (t *tunnels) left() []*tunnel {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := make([]*tunnel, 0, len(t.open))
	for one := range t.open {
		left = append(left, one)
	}
	return left
}
