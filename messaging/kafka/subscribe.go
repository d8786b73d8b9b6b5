package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/parley-go/parley/messaging"
)

// errEnded is why a seat is gone whose deliver ended the goroutine that called it.
var errEnded = errors.New("deliver ended its goroutine by a panic or runtime.Goexit")

// Subscribe makes the topics of s, where they do not exist yet, joins the group and
// calls deliver, from one goroutine for each partition that it is assigned, until
// ctx ends; then it returns nil once every accepted delivery is settled and
// committed. When partitions move to another process, it hands out no more of
// them, waits for up to half of Config.RebalanceTimeout until what it delivered of
// them is settled, and then ends the leases of the rest. With s.DeadLetters it
// consumes the dead letters of the group, and makes nothing.
//
// It returns at once an error that is [messaging.ErrInvalid],
// [messaging.ErrDenied] for wrong credentials or missing permissions,
// [messaging.ErrTopology] when Kafka refuses to make a topic so,
// [messaging.ErrNotFound] when a topic does not exist and Config.Passive is set, or
// when the group has never subscribed and its dead letters are asked for, and
// [messaging.ErrClosed] when the Broker is closed.
//
// A topic that is deleted and made anew meanwhile is consumed from its beginning.
//
// Several subscribers of one group in one process share its partitions: a message
// with a Key goes to one of them for each partition, one without a Key to whoever
// has room. Processes share the group by partition, as Kafka has it.
func (b *Broker) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	s, err := messaging.CheckSubscription(s)
	if err == nil {
		err = checkTopic(s.Topic)
	}
	if err == nil && deliver == nil {
		err = fmt.Errorf("%w: deliver is nil", messaging.ErrInvalid)
	}
	var n names
	if err == nil {
		n, err = namesOf(s.Topic, s.Group)
	}
	if err != nil {
		return err
	}
	if !b.enter() {
		return messaging.ErrClosed
	}
	defer b.calls.Done()
	for failures := 1; ; failures++ {
		began := time.Now()
		err := b.subscribe(ctx, s, deliver, n)
		if !errors.Is(err, errGone) {
			return err
		}
		if time.Since(began) > time.Minute {
			failures = 1
		}
		_ = pause(ctx, b.closing, backoff(failures))
	}
}

// subscribe is Subscribe for as long as the topics that the member found are there.
func (b *Broker) subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver, n names) error {
	seat := &seat{ctx: ctx, sub: s, deliver: deliver, changed: make(chan struct{}, 1), failed: make(chan struct{})}
	b.sit(seat, target{s.Topic, s.Group, s.DeadLetters}, n)
	defer seat.stand() // also when a hook ends this goroutine
	err := seat.run()
	if errors.Is(err, errGone) && seat.told && s.OnLost != nil {
		s.OnLost(err)
	}
	return err
}

// A seat is one running Subscribe.
type seat struct {
	m       *member
	ctx     context.Context //nolint:containedctx // of the one call of Subscribe that the seat is
	sub     messaging.Subscription
	deliver messaging.Deliver
	changed chan struct{} // told when the member is up, or lost, and of failed
	failed  chan struct{} // closed when deliver has ended its goroutine

	told   bool // OnReady was called, and not OnLost after it
	losses int  // of the member, of which OnLost was told or need not be

	open bool // takes deliveries; guarded by m.mu
	gone bool // guarded by m.mu; failed is closed
	held int  // deliveries in hand; guarded by m.mu
}

// room returns how many deliveries s takes now. The caller holds m.mu.
func (s *seat) room() int { return s.sub.Prefetch - s.held }

// takes reports whether s takes deliveries. The caller holds m.mu.
func (s *seat) takes() bool { return s.open && s.ctx.Err() == nil }

// hasRoom reports whether s takes one more. The caller holds m.mu.
func (s *seat) hasRoom() bool { return s.room() > 0 && s.takes() }

// sit gives s a seat in the member for t, which it starts when there is none.
func (b *Broker) sit(s *seat, t target, n names) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.members[t]
	if m == nil {
		m = b.newMember(t, n)
		b.members[t] = m
		b.workers.Go(m.run)
	}
	s.m = m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seats = append(m.seats, s)
	s.losses = m.losses
	tell(s.changed)
}

// dismiss lets nobody sit in m any more.
func (b *Broker) dismiss(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.members[m.t] == m {
		delete(b.members, m.t)
	}
}

// run is Subscribe, once s sits.
func (s *seat) run() error {
	m, ctx := s.m, s.ctx
	for ctx.Err() == nil {
		select {
		case <-s.changed:
			s.tell()
		case <-s.failed:
			return fmt.Errorf("kafka: subscribe %s to %s: %w", s.sub.Group, s.sub.Topic, errEnded)
		case <-ctx.Done():
		case <-m.b.closing:
			return messaging.ErrClosed
		case <-m.done:
			if m.err == nil || m.b.isClosing() {
				return messaging.ErrClosed
			}
			return fmt.Errorf("kafka: subscribe %s to %s: %w", s.sub.Group, s.sub.Topic, m.err)
		}
	}
	return s.drain()
}

// tell calls the hooks for what has happened to the member.
func (s *seat) tell() {
	m := s.m
	m.mu.Lock()
	up, losses, why := m.up, m.losses, m.why
	m.mu.Unlock()
	if s.told && losses != s.losses && s.sub.OnLost != nil {
		s.sub.OnLost(why)
	}
	s.told = s.told && losses == s.losses
	s.losses = losses
	if !up || s.told {
		return
	}
	if s.sub.OnReady != nil {
		s.sub.OnReady()
	}
	s.told = true
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.losses == losses && !s.gone {
		s.open = true
		m.fed()
	}
}

// drain takes nothing more in, and waits until all that was accepted is settled
// and committed.
func (s *seat) drain() error {
	m := s.m
	m.mu.Lock()
	s.open = false
	m.fed()
	m.mu.Unlock()
	for {
		m.mu.Lock()
		held, idle := s.held, m.idle
		m.mu.Unlock()
		if held == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-s.failed:
			return nil
		case <-m.b.closing:
			return messaging.ErrClosed
		}
	}
}

// stand gives the seat up. The last to stand has the member leave the group, and
// waits for that; what the others have settled is committed.
func (s *seat) stand() {
	m, b := s.m, s.m.b
	s.fail(nil)
	b.mu.Lock()
	m.mu.Lock()
	m.seats = slices.DeleteFunc(m.seats, func(o *seat) bool { return o == s })
	last := len(m.seats) == 0
	m.fed()
	m.mu.Unlock()
	if last && b.members[m.t] == m {
		delete(b.members, m.t)
	}
	b.mu.Unlock()
	if last {
		m.leave()
		<-m.done
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = m.commit(ctx, m.all()) // the next one repeats it
}

// fail ends the leases of what s has in hand, which comes again. With a reason, it
// ends the Subscribe too.
func (s *seat) fail(why error) {
	m := s.m
	var ends []context.CancelCauseFunc
	m.mu.Lock()
	s.open = false
	if why != nil && !s.gone {
		s.gone = true
		close(s.failed)
	}
	parts := make([]*partition, 0, len(m.parts))
	for _, p := range m.parts {
		if !p.ended {
			ends = append(ends, p.desert(s))
			parts = append(parts, p)
		}
	}
	m.fed()
	m.rest()
	m.mu.Unlock()
	for _, end := range ends {
		end(messaging.ErrLost)
	}
	for _, p := range parts {
		tell(p.wake)
	}
}
