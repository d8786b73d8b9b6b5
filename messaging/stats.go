package messaging

import "sync/atomic"

// Stats are what one subscription of a [Consumer] does at one moment, and has done
// since the Consumer was made. Package metrics reads them at each scrape.
type Stats struct {
	// Topic and Group name the subscription.
	Topic, Group string
	// Established reports that what is published now reaches the Consumer, as far
	// as the broker has told; Paused, that [Consumer.Pause] was called last.
	Established, Paused bool
	// InFlight is how many handlers run. Waiting is how many deliveries wait for a
	// handler, and Held how many wait for the retry of one of their Key, or for
	// their own, see ConsumerConfig.OrderedRetries. Together they are at most
	// Prefetch, but for deliveries that the broker has taken back.
	InFlight, Waiting, Held int

	// These only grow. Each delivery raises one of Handled, DeadLettered, Released
	// and Lost by one, or ends with a retry by the broker.

	// Handled counts deliveries that were acknowledged.
	Handled uint64
	// Retried counts attempts that failed and are made again, by the broker or in
	// the process.
	Retried uint64
	// DeadLettered counts messages that were set aside.
	DeadLettered uint64
	// Released counts deliveries that were given back because the subscription was
	// paused or the Consumer stopped.
	Released uint64
	// Lost counts deliveries that the broker took back, and those whose verdict it
	// did not carry out. They come again.
	Lost uint64
}

// Stats returns the figures of each subscription, in the order of the calls of
// Handle. It may be called at any time, and costs handlers nothing.
func (c *Consumer) Stats() []Stats {
	subs := c.subscribers()
	all := make([]Stats, len(subs))
	for i, s := range subs {
		all[i] = s.stats()
	}
	return all
}

// Health returns nil while every subscription is established that is not paused,
// and otherwise an error that says which is not and why, on one line; it wraps
// what the broker reported. It tells an interruption from its end as soon as the
// broker does: use it for a readiness check. Before Run and after it, no
// subscription is established.
func (c *Consumer) Health() error {
	subs := c.subscribers()
	errs := make([]error, len(subs))
	for i, s := range subs {
		errs[i] = s.health()
	}
	return join(errs)
}

// A tally counts what a subscriber does. It is safe for concurrent use.
type tally struct {
	inFlight, held                                 atomic.Int64
	handled, retried, deadLettered, released, lost atomic.Uint64
}

// count counts a verdict that was carried out, or not, for err.
func (t *tally) count(k Kind, err error) {
	switch {
	case err != nil:
		t.lost.Add(1)
	case k == Ack:
		t.handled.Add(1)
	case k == Retry:
		t.retried.Add(1)
	case k == DeadLetter:
		t.deadLettered.Add(1)
	case k == Release:
		t.released.Add(1)
	}
}

func (s *subscriber) stats() Stats {
	t := &s.tally
	all := Stats{
		Topic: s.sub.Topic, Group: s.sub.Group,
		InFlight: int(t.inFlight.Load()), Held: int(t.held.Load()),
		Handled: t.handled.Load(), Retried: t.retried.Load(), DeadLettered: t.deadLettered.Load(),
		Released: t.released.Load(), Lost: t.lost.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all.Established, all.Paused = s.down == nil, s.resumed != nil
	if s.session != nil {
		all.Waiting = s.session.waiting()
	}
	return all
}
