package kafka

import (
	"context"
	"sync"
)

// A turn keeps a poll, and what is done with its records, apart from the changes
// of who owns which partition: a record that was polled before a partition went
// must not be taken for one of the same partition that came back. The client can do
// so too (BlockRebalanceOnPoll), but would then hold up all partitions while a
// rebalance waits for the handlers of one.
type turn struct {
	token chan struct{} // who takes it has the turn

	mu      sync.Mutex
	holding int                // guarded by mu; who waits for the poll to end
	stop    context.CancelFunc // guarded by mu; ends the poll
}

func newTurn() *turn {
	t := &turn{token: make(chan struct{}, 1), stop: func() {}}
	t.token <- struct{}{}
	return t
}

// begin waits until a poll may begin. The poll ends early when its context does;
// end tells that its records have been taken in.
func (t *turn) begin(ctx context.Context) (poll context.Context, end func()) {
	for {
		<-t.token
		poll, stop := context.WithCancel(ctx)
		t.mu.Lock()
		t.stop = stop
		held := t.holding > 0
		t.mu.Unlock()
		end := func() {
			stop()
			t.token <- struct{}{}
		}
		if !held {
			return poll, end
		}
		end() // to whoever holds
	}
}

// hold ends the poll that runs, and keeps the next from beginning until release.
func (t *turn) hold() {
	t.mu.Lock()
	t.holding++
	t.stop()
	t.mu.Unlock()
	<-t.token
	t.mu.Lock()
	t.holding--
	t.mu.Unlock()
}

func (t *turn) release() { t.token <- struct{}{} }
