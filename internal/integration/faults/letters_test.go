package faults

import (
	"context"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

// letters calls more with the IDs of a group's dead letters as the group's own Broker
// shows them, and with "" from time to time, until it reports false or patience ends.
// They stay where they are: none is settled before the end, and then all are
// released.
func letters(g *group, more func(id string) bool) {
	g.t.Helper()
	ctx, stop := context.WithTimeout(g.t.Context(), patience)
	defer stop()
	var mu sync.Mutex
	var open []messaging.Settler // guarded by mu
	found := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- g.broker.Subscribe(ctx, messaging.Subscription{Topic: g.topic, Group: g.name, Prefetch: 65535, DeadLetters: true},
			func(_ context.Context, d *messaging.Delivery, s messaging.Settler) error {
				mu.Lock()
				open = append(open, s)
				mu.Unlock()
				select {
				case found <- d.ID:
				case <-ctx.Done():
				}
				return nil
			})
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ended := false
	for !ended && more("") {
		select {
		case id := <-found:
			more(id)
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
	}
	stop()
	// What is delivered meanwhile waits to be settled, too.
	release := time.NewTicker(20 * time.Millisecond)
	defer release.Stop()
	for {
		mu.Lock()
		settle := open
		open = nil
		mu.Unlock()
		for _, s := range settle {
			_ = s.Settle(context.WithoutCancel(ctx), messaging.Verdict{Kind: messaging.Release}) // or it is lost, and comes back by itself
		}
		select {
		case err := <-done:
			if err != nil {
				g.t.Errorf("Subscribe() to the dead letters of %s = %v, want nil", g.name, err)
			}
			return
		case <-release.C:
		}
	}
}
