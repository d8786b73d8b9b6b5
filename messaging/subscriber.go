package messaging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// errPaused is the cause with which the intake of a paused subscription ends.
const errPaused Reason = "the subscription is paused"

// A subscriber is one subscription of a Consumer. While Run runs and it is not
// paused, a session does its work; what outlives a session stands here.
type subscriber struct {
	cfg   *ConsumerConfig
	sub   Subscription
	do    Handler
	log   *slog.Logger
	tally tally

	mu      sync.Mutex
	session *session                // guarded by mu; the one that runs, or nil
	stop    context.CancelCauseFunc // guarded by mu; ends the intake of the last session
	resumed chan struct{}           // guarded by mu; not nil while paused, closed by resume
	down    error                   // guarded by mu; why it is not established, nil while it is
}

func newSubscriber(cfg *ConsumerConfig, sub Subscription, h Handler) *subscriber {
	return &subscriber{
		cfg: cfg, sub: sub, do: h, down: errors.New("Run was not called"), stop: func(error) {},
		log: cfg.Logger.With(slog.String("topic", sub.Topic), slog.String("group", sub.Group)),
	}
}

// run has one session after the other, until intake ends or a Subscribe fails
// for good, which it tells failed before it waits for handlers. It calls ready
// once the subscription is established or paused, again and again. When drain
// ends, so do the contexts of the handlers.
func (s *subscriber) run(intake, drain context.Context, b Broker, ready, failed func()) error {
	for s.unpaused(intake, ready) {
		if err := s.serve(intake, drain, b, ready, failed); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = errors.New("Run has ended")
	return nil
}

// unpaused waits while the subscription is paused. It reports false once intake
// has ended.
func (s *subscriber) unpaused(intake context.Context, ready func()) bool {
	for intake.Err() == nil {
		s.mu.Lock()
		resumed := s.resumed
		s.mu.Unlock()
		if resumed == nil {
			return true
		}
		ready()
		select {
		case <-resumed:
		case <-intake.Done():
		}
	}
	return false
}

// serve has one session. It returns nil when intake ended or Pause ended it.
func (s *subscriber) serve(intake, drain context.Context, b Broker, ready, failed func()) error {
	intake, stop := context.WithCancelCause(intake)
	defer stop(nil)
	v := newSession(intake, drain, s, b.Promises().Lease)
	if !s.begin(v, stop) {
		return nil // paused since it was looked at
	}
	v.start()
	sub := s.sub
	sub.OnReady = func() {
		s.interrupted(v, nil)
		if s.sub.OnReady != nil {
			s.sub.OnReady()
		}
		ready()
	}
	sub.OnLost = func(why error) {
		if why == nil {
			why = errors.New("interrupted")
		}
		s.interrupted(v, why)
		if s.sub.OnLost != nil {
			s.sub.OnLost(why)
		}
	}
	err := fmt.Errorf("messaging: the subscription of group %s to topic %s ended: OnReady, OnLost or the broker called runtime.Goexit", sub.Group, sub.Topic)
	var subscribing sync.WaitGroup // for a goroutine that may end, without its session
	subscribing.Go(func() { err = b.Subscribe(intake, sub, v.deliver) })
	subscribing.Wait()
	if err == nil && intake.Err() == nil {
		err = fmt.Errorf("messaging: the subscription of group %s to topic %s ended, and the broker does not say why", sub.Group, sub.Topic)
	}
	if err != nil {
		failed()
	}
	v.finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.down = nil, cmp.Or(err, context.Cause(intake))
	return err
}

// begin makes v the session that runs, and stop what ends its intake. It reports
// false when the subscription is paused.
func (s *subscriber) begin(v *session, stop context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed != nil {
		return false
	}
	s.session, s.stop, s.down = v, stop, errors.New("not established yet")
	return true
}

// interrupted notes why the subscription is not established, nil when it is. What
// comes of a session that has ended says nothing any more.
func (s *subscriber) interrupted(v *session, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == v {
		s.down = why
	}
}

// health returns why the subscription is not established though it should be.
func (s *subscriber) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down == nil || s.resumed != nil {
		return nil
	}
	return fmt.Errorf("messaging: the subscription of group %s to topic %s is not established: %w", s.sub.Group, s.sub.Topic, s.down)
}

// pause ends the session, if one runs, and keeps another from beginning.
func (s *subscriber) pause() {
	s.mu.Lock()
	if s.resumed == nil {
		s.resumed = make(chan struct{})
	}
	stop := s.stop
	s.mu.Unlock()
	stop(errPaused)
}

// resume lets the next session begin.
func (s *subscriber) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed != nil {
		close(s.resumed)
		s.resumed = nil
	}
}
