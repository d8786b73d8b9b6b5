package order

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/parley-go/parley/messaging"
)

// drainFor is how long a Relay that is told to end goes on publishing.
const drainFor = 10 * time.Second

// Relay publishes the events of the outbox, oldest first, until ctx ends and the
// outbox is empty. An event leaves the outbox only when the broker has confirmed
// it, and keeps its ID when it is published again: consumers receive it at least
// once, and an inbox makes that one effect. It returns an error when events are
// left after drainFor.
func (s *Service) Relay(ctx context.Context, pub messaging.Publisher) error {
	draining, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainFor, cancel) })()
	for {
		topic, msgs := s.store.pending(64)
		if len(msgs) == 0 {
			select {
			case <-s.store.added:
			case <-ctx.Done():
				if _, left := s.store.count(); left == 0 {
					return nil
				}
			}
			continue
		}
		err := pub.Publish(draining, topic, msgs...)
		s.store.published(confirmed(msgs, err))
		if err == nil {
			continue
		}
		if draining.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "events not published, trying again", slog.Any("err", err))
			select {
			case <-time.After(time.Second):
				continue
			case <-draining.Done():
			}
		}
		_, left := s.store.count()
		return fmt.Errorf("%d events of orders could not be published in %v and are lost with this process: %w", left, drainFor, err)
	}
}

// confirmed returns the IDs of the messages that were published in spite of err.
func confirmed(msgs []messaging.Message, err error) map[string]bool {
	batch, partial := errors.AsType[*messaging.BatchError](err)
	ids := make(map[string]bool, len(msgs))
	for i, m := range msgs {
		if err == nil || partial && batch.Errs[i] == nil {
			ids[m.ID] = true
		}
	}
	return ids
}
