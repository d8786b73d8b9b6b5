package sqs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// keep extends the visibility of what was received and is in nobody's hands: those
// that wait for deliver, or for the one before them. Those of dead letters, whose
// readers do not extend them, it extends in any case.
func (in *intake) keep() {
	defer close(in.keeper)
	t := time.NewTicker(in.broker.set.Visibility / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			in.extendAll()
		case <-in.gone:
			return
		}
	}
}

// extendAll is one round.
func (in *intake) extendAll() {
	in.mu.Lock()
	var due []*settler
	for s := range in.open {
		if !s.accepted || in.sub.DeadLetters {
			due = append(due, s)
		}
	}
	in.mu.Unlock()
	if len(due) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(in.broker.base, in.broker.set.Visibility/3)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range due {
		all.Go(func() {
			if err := s.Extend(ctx, in.broker.set.Visibility); err != nil {
				in.log.Warn("sqs: visibility not extended, the message may come again", slog.Any("err", err))
			}
		})
	}
	all.Wait()
}

// giveBack makes messages that nobody has accepted visible at once.
func (in *intake) giveBack(all []*settler) {
	ctx, cancel := context.WithTimeout(in.broker.base, releaseTimeout)
	defer cancel()
	in.putOff(ctx, all, time.Time{})
}

// putOff keeps messages that nobody has accepted from receivers, until they are due;
// without now, for no time.
func (in *intake) putOff(ctx context.Context, all []*settler, now time.Time) {
	var calls []*call[stay]
	var of []*settler
	for _, s := range all {
		if s.claim(lost) {
			wait := time.Duration(0)
			if !now.IsZero() {
				wait = s.within(s.d.rest(now))
			} else if !s.wasAccepted() {
				in.broker.unseen.note(s.d.id)
			}
			calls = append(calls, newCall(stay{s.d.receipt, wait}, s.d.receipt, 0))
			of = append(of, s)
		}
	}
	in.stays.submit(calls...)
	for i, c := range calls {
		if err := in.stays.wait(ctx, c); err != nil {
			in.log.Warn("sqs: message not given back, it stays away until its visibility ends", slog.Any("err", err))
		}
		in.closed(of[i], false)
	}
}

// abandon ends all leases and gives everything back: the subscription ends without
// waiting for what it has accepted.
func (in *intake) abandon() {
	in.mu.Lock()
	all := make([]*settler, 0, len(in.open))
	for s := range in.open {
		all = append(all, s)
	}
	in.mu.Unlock()
	in.giveBack(all)
}
