package messaging

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"
)

const (
	// maxRound bounds how many dead letters one Redrive looks at, and with that
	// what it remembers of them, which is one hash for each.
	maxRound = 100_000
	// redrivePrefetch is small, so that several at once share the work, and what
	// one of them has fetched is not withheld from the others for long.
	redrivePrefetch = 16
)

// A RedriveConfig says what [Redrive] moves, and how fast. The zero value is ready
// for use.
type RedriveConfig struct {
	// Filter reports whether to move a dead letter back, which carries the headers
	// of [DeadHeaders]. It is called by one goroutine, and does not keep d. Default:
	// all are moved.
	Filter func(d *Delivery) bool
	// Max is how many are moved at most, 1 to 100,000. Default 1,000.
	Max int
	// Rate is how many are moved in a second at most, 1 to 100,000, so that what
	// failed for want of something does not take it away again. Default 100.
	Rate int
	// Quiet is how long nothing must come, while the subscription stands, before
	// nothing is held to be left. Longer than the broker ever takes to deliver.
	// Default 2s.
	Quiet time.Duration
}

func (c RedriveConfig) withDefaults() (RedriveConfig, []string) {
	var faults []string
	if c.Max < 0 || c.Max > maxRound {
		faults = append(faults, fmt.Sprintf("Max %d is outside 1..%d", c.Max, maxRound))
	}
	if c.Rate < 0 || c.Rate > 100_000 {
		faults = append(faults, fmt.Sprintf("Rate %d is outside 1..100000", c.Rate))
	}
	if c.Quiet < 0 {
		faults = append(faults, fmt.Sprintf("Quiet %v is negative", c.Quiet))
	}
	if c.Filter == nil {
		c.Filter = func(*Delivery) bool { return true }
	}
	if c.Max == 0 {
		c.Max = 1000
	}
	if c.Rate == 0 {
		c.Rate = 100
	}
	if c.Quiet == 0 {
		c.Quiet = quiet
	}
	return c, faults
}

// Redriven says what a [Redrive] did.
type Redriven struct {
	// Moved is how many dead letters were moved back among the group's messages.
	Moved int
	// Kept is how many it saw and left: those that Filter refuses, that died after
	// it began, or whose message it has moved before.
	Kept int
	// Complete reports that it has gone round: it ended neither by an error nor
	// because Max were moved or 100,000 seen.
	Complete bool
}

// Redrive moves the dead letters of the group that s names back among its
// messages, the oldest first, as messages that were never tried. It goes round
// once: it moves no message twice, nor what dies after it began, by the clocks of
// those who set aside. What it leaves is put at the end of the dead letters, so
// that their order is as before once it is complete. s needs a Topic and a Group;
// its hooks are called.
//
// A dead letter is deleted only after the broker has stored its message again, and
// a dead letter that is left, after it is stored at the end. So nothing is lost
// when Redrive or the broker is killed: what was in hand is then there twice, with
// the same ID. Several may run at once and share the work; each sees nothing of
// what another one has in hand.
//
// It ends with an error, beside what was done until then, that is
//
//   - the cause of ctx;
//   - [ErrInvalid], which says all that is wrong with s and cfg;
//   - what Subscribe or Settle of the broker returned.
func Redrive(ctx context.Context, b Broker, s Subscription, cfg RedriveConfig) (done Redriven, err error) {
	cfg, faults := cfg.withDefaults()
	s, err = deadSubscription(b, s, redrivePrefetch, faults)
	if err != nil {
		return done, err
	}
	letters := openLetters(ctx, b, s)
	defer letters.stop()
	r := &round{
		cfg: cfg, done: &done, seed: maphash.MakeSeed(), began: time.Now(),
		moved: map[uint64]struct{}{}, kept: map[uint64]struct{}{},
	}
	for seen := 0; done.Moved < cfg.Max && seen < maxRound; seen++ {
		l, err := letters.next(ctx, cfg.Quiet)
		switch {
		case err != nil:
			return done, fmt.Errorf("messaging: redrive %s of %s after %d moved: %w", s.Group, s.Topic, done.Moved, err)
		case l == nil:
			done.Complete = true
			return done, nil
		}
		switch over, err := r.take(ctx, l); {
		case err != nil:
			return done, fmt.Errorf("messaging: redrive %s of %s after %d moved: %w", s.Group, s.Topic, done.Moved, err)
		case over:
			done.Complete = true
			return done, nil
		}
	}
	return done, nil
}

// A round is one Redrive on its way.
type round struct {
	cfg   RedriveConfig
	done  *Redriven
	seed  maphash.Seed
	began time.Time
	next  time.Time           // the earliest time for the next move
	moved map[uint64]struct{} // hashes of the messages that were moved
	kept  map[uint64]struct{} // hashes of the dead letters that were put at the end
}

// take decides on l and settles it. It reports whether the round is over: l is
// one that was put at the end, so all before it have been seen.
func (r *round) take(ctx context.Context, l *letter) (over bool, err error) {
	// Also when Filter panics or calls runtime.Goexit.
	defer l.release()
	// By which message it is of, and by which death of it: a message that was
	// published twice may have died twice.
	message := maphash.String(r.seed, l.d.InboxID())
	death := maphash.String(r.seed, l.d.Headers[HeaderDeadTime]+" "+l.d.InboxID())
	if _, ok := r.kept[death]; ok {
		return true, nil
	}
	_, again := r.moved[message]
	v, seen, count, hash := Verdict{Kind: Retry}, r.moved, &r.done.Moved, message
	if again || r.isNew(l) || !r.cfg.Filter(l.d) {
		v, seen, count, hash = Verdict{Kind: DeadLetter}, r.kept, &r.done.Kept, death
	} else if err := r.pace(ctx, l); err != nil {
		return false, err
	}
	switch err := l.settle(v); {
	case errors.Is(err, ErrLost): // it comes again
		return false, nil
	case err != nil:
		return false, err
	}
	seen[hash] = struct{}{}
	*count++
	return false, nil
}

// isNew reports whether l died after the round began.
func (r *round) isNew(l *letter) bool {
	at, err := time.Parse(time.RFC3339Nano, l.d.Headers[HeaderDeadTime])
	return err == nil && at.After(r.began)
}

// pace waits until Rate allows another move.
func (r *round) pace(ctx context.Context, l *letter) error {
	wait := time.Until(r.next)
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-l.lease.Done(): // settle will say so
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.next = time.Now().Add(time.Second / time.Duration(r.cfg.Rate))
	return nil
}
