package order

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/parley-go/parley/messaging"
)

// Relay publishes the events of the outbox, oldest first, until ctx ends. An
// event leaves the outbox only when the broker has confirmed it, and keeps its
// ID when it is published again: consumers receive it at least once, and an
// inbox makes that one effect.
func (s *Service) Relay(ctx context.Context, pub messaging.Publisher) error {
	for {
		topic, msgs := s.store.pending(64)
		if len(msgs) == 0 {
			select {
			case <-s.store.added:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		err := pub.Publish(ctx, topic, msgs...)
		s.store.published(confirmed(msgs, err))
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return nil // what was not published is still in the outbox
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "events not published, trying again", slog.Any("err", err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
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
