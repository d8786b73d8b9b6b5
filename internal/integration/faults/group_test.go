package faults

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A group is a Consumer of a flow, and the record of what came to it.
type group struct {
	*flow
	name   string
	broker messaging.Broker

	received map[string]int  // calls of the handler by ID; guarded by flow.mu
	handled  map[string]bool // the handler returned nil; guarded by flow.mu
	poisoned map[string]bool // the handler failed for good; guarded by flow.mu
	retries  int             // guarded by flow.mu
}

// A groupConfig changes how a group consumes.
type groupConfig struct {
	prefetch int
	consumer messaging.ConsumerConfig
	// before runs at the beginning of a handler, whose result is err if not nil.
	before  func(ctx context.Context, d *messaging.Delivery) error
	onReady func()
}

// concurrency is how many handlers a group has by default.
const concurrency = 32

func (f *flow) group(name string) *group {
	return &group{flow: f, name: name, broker: f.cfg.server.open(f, name), received: map[string]int{}, handled: map[string]bool{}, poisoned: map[string]bool{}}
}

// start runs a Consumer of the group and returns when it is ready. Stop ends it
// and returns what Run returned.
func (g *group) start(cfg groupConfig) (stop func() error) {
	g.t.Helper()
	r, end := g.run(cfg)
	r.await(g.t)
	return func() error {
		g.t.Helper()
		end()
		return r.wait(g.t)
	}
}

// A running tells of a Consumer.
type running struct {
	ready <-chan struct{}
	done  chan struct{}
	err   error // what Run returned; to be read after done
}

// await waits until the Consumer is ready.
func (r *running) await(t testing.TB) {
	t.Helper()
	select {
	case <-r.ready:
	case <-r.done:
		t.Fatalf("Run() = %v before the Consumer was ready", r.err)
	case <-time.After(patience):
		t.Fatalf("the Consumer is not ready within %v", patience)
	}
}

// wait returns what Run returns.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatalf("Run() has not returned within %v", patience)
	}
	return r.err
}

// run runs a Consumer of the group until end is called or the test ends.
func (g *group) run(cfg groupConfig) (r *running, end func()) {
	g.t.Helper()
	cfg.prefetch = cmp.Or(cfg.prefetch, 256)
	cfg.consumer.Concurrency = cmp.Or(cfg.consumer.Concurrency, concurrency)
	cfg.consumer.Logger = slog.New(slog.DiscardHandler)
	cfg.consumer.Backoff = func(int) time.Duration { return soon }
	c, err := messaging.NewConsumer(g.broker, cfg.consumer)
	if err != nil {
		g.t.Fatal(err)
	}
	c.Handle(messaging.Subscription{Topic: g.topic, Group: g.name, Prefetch: cfg.prefetch, OnReady: cfg.onReady},
		func(ctx context.Context, d *messaging.Delivery) error { return g.handle(ctx, d, cfg.before) })
	ctx, end := context.WithCancel(context.WithoutCancel(g.t.Context()))
	r = &running{ready: c.Ready(), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = c.Run(ctx)
	}()
	g.t.Cleanup(func() {
		end()
		<-r.done
	})
	return r, end
}

func (g *group) handle(ctx context.Context, d *messaging.Delivery, before func(context.Context, *messaging.Delivery) error) (err error) {
	id, typ, attempt := d.ID, d.Type, d.Attempt
	g.note(func() { g.received[id]++ })
	if before != nil {
		err = before(ctx, d)
	}
	switch {
	case err != nil:
	case typ == poison:
		err = messaging.Permanent(errTry)
	case attempt == 1 && typ == flaky:
		err = errTry
	case attempt == 1 && typ == late:
		err = messaging.After(errTry, g.cfg.late)
	case attempt == 1 && typ == later:
		err = messaging.After(errTry, g.cfg.later)
	}
	g.note(func() {
		switch {
		case err == nil:
			g.handled[id] = true
		case typ == poison:
			g.poisoned[id] = true
		default:
			g.retries++
		}
	})
	return err
}

// catchUp waits until the group has received all that is confirmed.
func (g *group) catchUp() {
	g.t.Helper()
	done := 0 // what is received stays so
	g.await(patience, "all confirmed messages are received", func() bool {
		for done < len(g.confirmed) && g.received[g.confirmed[done]] > 0 {
			done++
		}
		return done == len(g.confirmed)
	})
}

// verify waits until everything that was confirmed is handled or a dead letter,
// and checks that nothing is lost, made up or left. It logs the totals.
func (g *group) verify() {
	g.t.Helper()
	g.catchUp()
	dead := g.deadLetters()
	g.cfg.server.empty(g)

	g.mu.Lock()
	defer g.mu.Unlock()
	published := maps.Clone(g.uncertain)
	var notReceived, lost, madeUp, setAside []string
	for _, id := range g.confirmed {
		published[id] = true
		if g.received[id] == 0 {
			notReceived = append(notReceived, id)
		}
		if !g.handled[id] && !dead[id] {
			lost = append(lost, id)
		}
	}
	calls := 0
	for id, n := range g.received {
		calls += n
		if !published[id] {
			madeUp = append(madeUp, id)
		}
	}
	for id := range dead {
		if !published[id] {
			madeUp = append(madeUp, id)
		}
		if !g.poisoned[id] {
			setAside = append(setAside, id)
		}
	}
	for what, ids := range map[string][]string{
		"confirmed and not received":                      notReceived,
		"published and neither handled nor dead-lettered": lost,
		"received or dead-lettered, and never published":  madeUp,
		"dead letters, and would have been handled":       setAside,
	} {
		if len(ids) > 0 {
			g.t.Errorf("%d messages are %s, such as %s", len(ids), what, ids[0])
		}
	}
	g.t.Logf("group %s: %d confirmed (%d publishes repeated), %d received in %d calls, of which %d retries asked for; %d handled, %d dead letters; %.1f s",
		g.name, len(g.confirmed), g.repeated, len(g.received), calls, g.retries, len(g.handled), len(dead), time.Since(g.began).Seconds())
}

// deadLetters returns the IDs of the group's dead letters, when with them nothing
// that was confirmed is unaccounted for.
func (g *group) deadLetters() map[string]bool {
	g.t.Helper()
	dead, done := map[string]bool{}, 0
	g.cfg.server.dead(g, func(id string) (more bool) {
		if id != "" {
			dead[id] = true
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		for done < len(g.confirmed) && (g.handled[g.confirmed[done]] || dead[g.confirmed[done]]) {
			done++
		}
		return done < len(g.confirmed)
	})
	return dead
}
