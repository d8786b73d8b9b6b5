package messaging

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxListed bounds what DeadLetters holds in memory.
	maxListed = 1000
	// quiet is how long nothing must come after which nothing is held to be left.
	quiet = 2 * time.Second
)

// DeadLetters returns up to n of the messages that the group that s names has set
// aside, the oldest first, and leaves them where they are. They carry the headers
// of [DeadHeaders]. n is 1 to 1,000; so many payloads are held in memory. It
// returns fewer once nothing more has come for 2 seconds, and does not see what
// another call of it, or a [Redrive], has in hand.
//
// The error is as that of [Redrive]; with it comes what was seen until then.
func DeadLetters(ctx context.Context, b Broker, s Subscription, n int) (dead []Message, err error) {
	var faults []string
	if n < 1 || n > maxListed {
		faults = append(faults, fmt.Sprintf("%d dead letters are outside 1..%d", n, maxListed))
	}
	s, err = deadSubscription(b, s, n, faults)
	if err != nil {
		return nil, err
	}
	letters := openLetters(ctx, b, s)
	var held []*letter
	defer func() {
		letters.cancel() // before any is released, or it would come again
		for _, l := range held {
			l.release()
		}
		letters.stop()
	}()
	for len(held) < n {
		var l *letter
		if l, err = letters.next(ctx, quiet); err != nil {
			err = fmt.Errorf("messaging: dead letters of %s of %s: %w", s.Group, s.Topic, err)
			break
		}
		if l == nil {
			break
		}
		// What the broker has taken back meanwhile comes again.
		held = append(slices.DeleteFunc(held, (*letter).lost), l)
	}
	for _, l := range held {
		dead = append(dead, l.d.Message)
	}
	return dead, err
}

// deadSubscription returns s as a subscription to dead letters, or an ErrInvalid
// that adds what is wrong with it to faults.
func deadSubscription(b Broker, s Subscription, prefetch int, faults []string) (Subscription, error) {
	s.DeadLetters, s.Prefetch = true, prefetch
	if isNil(b) {
		faults = append(faults, "the Broker is nil")
	}
	if faults == nil {
		return CheckSubscription(s)
	}
	s.Prefetch = 0 // which is ours, and may be the fault
	if _, err := CheckSubscription(s); err != nil {
		faults = append(faults, strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
	}
	return s, fmt.Errorf("%w: %s", ErrInvalid, strings.Join(faults, "; "))
}

// letters are the dead letters that come from a running Subscribe.
type letters struct {
	cancel  context.CancelFunc
	come    chan *letter
	up      atomic.Bool   // the subscription stands
	changed chan struct{} // told of each change of up
	ended   chan struct{} // closed when Subscribe has returned err
	err     error
}

// openLetters subscribes. The goroutine ends with stop.
func openLetters(ctx context.Context, b Broker, s Subscription) *letters {
	ctx, cancel := context.WithCancel(ctx)
	ls := &letters{cancel: cancel, come: make(chan *letter), changed: make(chan struct{}, 1), ended: make(chan struct{})}
	ready, lost := s.OnReady, s.OnLost
	s.OnReady = func() {
		if ready != nil {
			ready()
		}
		ls.turn(true)
	}
	s.OnLost = func(err error) {
		if lost != nil {
			lost(err)
		}
		ls.turn(false)
	}
	go func() {
		defer close(ls.ended)
		ls.err = b.Subscribe(ctx, s, func(lease context.Context, d *Delivery, set Settler) error {
			select {
			case ls.come <- &letter{lease: lease, d: d, s: set}:
				return nil
			case <-lease.Done():
				return context.Cause(lease)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	return ls
}

func (ls *letters) turn(up bool) {
	ls.up.Store(up)
	select {
	case ls.changed <- struct{}{}:
	default:
	}
}

// stop ends the subscription, whose letters have all been settled.
func (ls *letters) stop() {
	ls.cancel()
	<-ls.ended
}

// next returns the next dead letter, or nil when none has come for as long as
// quiet while the subscription stood.
func (ls *letters) next(ctx context.Context, quiet time.Duration) (*letter, error) {
	t := time.NewTimer(quiet)
	defer t.Stop()
	for ctx.Err() == nil {
		var over <-chan time.Time
		if ls.up.Load() {
			over = t.C
		}
		select {
		case l := <-ls.come:
			return l, nil
		case <-over:
			return nil, nil
		case <-ls.changed:
			t.Reset(quiet)
		case <-ctx.Done():
		case <-ls.ended:
			if ctx.Err() != nil {
				break
			}
			if ls.err == nil {
				return nil, errEndedInSilence
			}
			return nil, ls.err
		}
	}
	return nil, context.Cause(ctx)
}

const errEndedInSilence Reason = "the subscription ended, and the broker does not say why"

// A letter is one dead letter in hand.
type letter struct {
	lease   context.Context //nolint:containedctx // what deliver was called with, on its way to the caller
	d       *Delivery
	s       Settler
	settled bool
}

// settle carries v out, unless the broker has taken the letter back, which is
// ErrLost.
func (l *letter) settle(v Verdict) error {
	l.settled = true
	err := context.Cause(l.lease)
	if err == nil {
		ctx, cancel := context.WithTimeout(l.lease, settleTimeout)
		defer cancel()
		err = l.s.Settle(ctx, v)
	}
	return err
}

// lost reports whether the broker has taken l back.
func (l *letter) lost() bool { return l.lease.Err() != nil }

// release leaves l where it is, unless it was settled.
func (l *letter) release() {
	if !l.settled {
		_ = l.settle(Verdict{Kind: Release}) // or else the broker takes it back
	}
}
