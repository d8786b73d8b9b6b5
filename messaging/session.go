package messaging

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// maxLane bounds how many deliveries wait in one lane. A lane that is full holds
// up its subscription.
const maxLane = 256

// A session is one Subscribe: the broker's goroutine sorts deliveries into lanes,
// and one goroutine for each lane handles them one by one. A keyed delivery goes
// to the lane of its key, which keeps its order; those without a key go to spare,
// from which every lane takes when it is free.
type session struct {
	*subscriber
	intake, drain context.Context //nolint:containedctx // of the one call of Subscribe that the session is
	began         time.Time
	seed          maphash.Seed
	lanes         []*lane
	spare         chan job
	leases        *leases // nil where leases do not expire

	running sync.WaitGroup // one for each lane
	keeping func()         // ends what keeps the leases, and waits for it
}

// A job is a delivery on its way through a lane.
type job struct {
	lease   context.Context //nolint:containedctx // the context of one call, on its way to the goroutine that makes the call
	d       *Delivery
	s       Settler
	id      string // d is the handler's, which may change it; these stay
	attempt int
	inOrder bool // when it fails, it holds back the others of its Key
}

// A lane is what one goroutine handles, one by one. All but jobs is that
// goroutine's own.
type lane struct {
	jobs       chan job
	own, spare <-chan job // what it takes from; nil once closed and empty
	holds      holds
	tenures    tenures
}

func newSession(intake, drain context.Context, s *subscriber, term time.Duration) *session {
	v := &session{subscriber: s, intake: intake, drain: drain, began: time.Now(), seed: maphash.MakeSeed(), keeping: func() {}}
	if term > 0 {
		v.leases = newLeases(term, s.log)
	}
	room := min(s.sub.Prefetch, maxLane)
	v.spare = make(chan job, room)
	for range s.cfg.Concurrency {
		jobs := make(chan job, room)
		v.lanes = append(v.lanes, &lane{jobs: jobs, own: jobs, spare: v.spare, holds: holds{count: &s.tally.held}, tenures: tenures{drain: drain}})
	}
	return v
}

// now returns the time from the beginning of the session, for which only one of the two
// clocks is read that time.Now reads.
func (v *session) now() time.Duration { return time.Since(v.began) }

// start begins to handle what deliver will put into the lanes.
func (v *session) start() {
	for _, l := range v.lanes {
		v.running.Go(func() { v.work(l) })
	}
	if v.leases != nil {
		ctx, stop := context.WithCancel(context.WithoutCancel(v.drain))
		var keeper sync.WaitGroup
		keeper.Go(func() { v.leases.keep(ctx) })
		v.keeping = func() {
			stop()
			keeper.Wait()
		}
	}
}

// finish returns when all that was accepted has been handled. Nobody delivers any
// more.
func (v *session) finish() {
	close(v.spare)
	for _, l := range v.lanes {
		close(l.jobs)
	}
	v.running.Wait()
	v.keeping()
}

// waiting returns how many deliveries are in lanes.
func (v *session) waiting() int {
	n := len(v.spare)
	for _, l := range v.lanes {
		n += len(l.jobs)
	}
	return n
}

// deliver is the session's [Deliver]: it puts d into its lane, waiting for room.
func (v *session) deliver(lease context.Context, d *Delivery, s Settler) error {
	if v.intake.Err() != nil {
		return context.Cause(v.intake)
	}
	jobs := v.spare
	if d.Key != "" {
		jobs = v.lanes[maphash.String(v.seed, d.Key)%uint64(len(v.lanes))].jobs
	}
	j := job{lease, d, s, d.ID, d.Attempt, v.cfg.OrderedRetries && d.Key != ""}
	v.leases.add(&j)
	select {
	case jobs <- j:
		return nil
	default: // seldom full; and to wait for three channels costs more than for one
	}
	var why error
	select {
	case jobs <- j:
		return nil
	case <-v.intake.Done():
		why = context.Cause(v.intake)
	case <-lease.Done():
		why = context.Cause(lease)
	}
	v.leases.remove(d)
	return why
}

// work handles what comes into l until all is closed.
func (v *session) work(l *lane) {
	complete := false
	defer func() {
		if complete {
			l.tenures.end()
			return
		}
		// A handler ended this goroutine: the lane goes on in another.
		v.running.Go(func() { v.work(l) })
	}()
	for {
		j, ok := v.next(l)
		if !ok {
			break
		}
		v.handle(l, &j)
	}
	complete = true
}

// next returns what l is to handle next. It reports false when nothing will come.
func (v *session) next(l *lane) (j job, ok bool) {
	for l.own != nil || l.spare != nil || !l.holds.empty() {
		if !l.holds.empty() {
			if j, ok = v.nextBesideHolds(l); ok {
				return j, true
			}
			continue
		}
		if len(l.spare) == 0 { // mostly, and to wait for one channel costs less than for two
			select {
			case j, ok = <-l.own:
				if ok {
					return j, true
				}
				l.own = nil
				continue
			default:
			}
		}
		select {
		case j, ok = <-l.own:
			if !ok {
				l.own = nil
			}
		case j, ok = <-l.spare:
			if !ok {
				l.spare = nil
			}
		}
		if ok {
			return j, true
		}
	}
	return job{}, false
}
