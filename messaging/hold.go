package messaging

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// A hold is a Key of which a message has failed, under OrderedRetries: what waits
// for another attempt, and what has come behind it.
type hold struct {
	key   string
	jobs  []held    // never empty; the one to be tried next first, then in the order of their arrival
	due   time.Time // when the first may be tried; once it has been, the next is due too
	index int       // in holds.queue
}

// A held is a job that wakes its lane when its lease ends, until unwatch.
type held struct {
	job
	unwatch func() bool
}

// holds are the Keys that one lane holds back. They are the lane's goroutine's
// own, save nudge.
type holds struct {
	by    map[string]*hold
	queue holdQueue     // the same, by due
	timer *time.Timer   // of the first of queue, while the lane waits
	nudge chan struct{} // told when the lease of a held delivery has ended
	count *atomic.Int64 // of the deliveries that all lanes hold
}

func (h *holds) empty() bool { return len(h.queue) == 0 }

// due returns what ticks when a held delivery may be tried.
func (h *holds) due() <-chan time.Time {
	wait := time.Until(h.queue[0].due)
	if h.timer == nil {
		h.timer = time.NewTimer(wait)
	} else {
		h.timer.Reset(wait)
	}
	return h.timer.C
}

// first holds j back until after is over, ahead of all others of its key.
func (h *holds) first(j job, after time.Duration) {
	k := h.by[j.d.Key]
	if k == nil {
		if h.by == nil {
			h.by, h.nudge = map[string]*hold{}, make(chan struct{}, 1)
		}
		k = &hold{key: j.d.Key, jobs: []held{h.watched(j)}, due: time.Now().Add(after)}
		h.by[k.key] = k
		heap.Push(&h.queue, k)
	} else {
		k.jobs = slices.Insert(k.jobs, 0, h.watched(j))
		k.due = time.Now().Add(after)
		heap.Fix(&h.queue, k.index)
	}
	h.count.Add(1)
}

// behind holds j back if its key is held, behind what came before it.
func (h *holds) behind(j job) bool {
	k := h.by[j.d.Key]
	if k == nil {
		return false
	}
	k.jobs = append(k.jobs, h.watched(j))
	h.count.Add(1)
	return true
}

// watched returns j as what is held.
func (h *holds) watched(j job) held {
	nudge := h.nudge
	return held{j, context.AfterFunc(j.lease, func() {
		select {
		case nudge <- struct{}{}:
		default: // the lane has been woken, and has not looked yet
		}
	})}
}

// take returns the job that is due first, which is no longer held.
func (h *holds) take() job { return h.takeOf(h.queue[0]) }

// takeOf is take for the first job of k.
func (h *holds) takeOf(k *hold) job {
	j := k.jobs[0]
	k.jobs[0] = held{}
	if k.jobs = k.jobs[1:]; len(k.jobs) == 0 {
		h.drop(k)
	}
	h.count.Add(-1)
	j.unwatch()
	return j.job
}

func (h *holds) drop(k *hold) {
	heap.Remove(&h.queue, k.index)
	delete(h.by, k.key)
}

// hasLost reports whether the broker has taken back what is held of key, in part
// at least.
func (h *holds) hasLost(key string) bool {
	k := h.by[key]
	return k != nil && slices.ContainsFunc(k.jobs, func(j held) bool { return j.lease.Err() != nil })
}

// another returns a copy of what was delivered, for one attempt.
func (j *job) another() *Delivery {
	d := *j.d
	d.Message = j.d.Clone()
	d.Attempt = j.attempt
	return &d
}

// nextBesideHolds returns what l is to handle next while it holds something back,
// if anything: it may also be woken for another reason.
func (v *session) nextBesideHolds(l *lane) (j job, ok bool) {
	select {
	case j, ok = <-l.own:
		if !ok {
			l.own = nil
			return job{}, false
		}
		v.releaseLost(l, j.d.Key) // j may be what comes again
		return j, !l.holds.behind(j)
	case j, ok = <-l.spare:
		if !ok {
			l.spare = nil
		}
		return j, ok
	case <-l.holds.due():
		return l.holds.take(), true
	case <-l.holds.nudge:
		for key := range l.holds.by {
			v.releaseLost(l, key)
		}
	case <-v.intake.Done():
		for !l.holds.empty() {
			j = l.holds.take()
			v.giveBack(l, &j, context.Cause(v.intake))
		}
	}
	return job{}, false
}

// concludeInOrder is what follows from verdict for a j that is inOrder.
func (v *session) concludeInOrder(l *lane, j *job, d *Delivery, verdict Verdict, ran span) {
	if verdict.Kind == Retry && v.intake.Err() == nil && j.lease.Err() == nil {
		next := *j
		if !verdict.KeepAttempt {
			next.attempt++
		}
		l.holds.first(next, verdict.After)
		v.settled(j, d, verdict, nil, ran)
		return
	}
	if verdict.Kind == Retry { // by the broker, it would let those behind it pass
		verdict = Verdict{Kind: Release, Err: verdict.Err}
	}
	if verdict.Kind == DeadLetter && j.attempt != j.d.Attempt {
		verdict.Attempt = j.attempt
	}
	if err := v.settle(l, j, d, verdict, ran); err != nil || verdict.Kind == Release {
		// It comes again, and before the others, so they must too.
		v.releaseKey(l, j.d.Key, cmp.Or(err, context.Cause(v.intake)))
	}
}

// giveBack releases j, which no handler has begun with, and what is held behind
// it.
func (v *session) giveBack(l *lane, j *job, why error) {
	_ = v.settle(l, j, j.d, Verdict{Kind: Release, Err: readable(why)}, v.none())
	if j.inOrder {
		v.releaseKey(l, j.d.Key, why)
	}
}

// releaseKey releases what is held of key, in order. It takes one after the other,
// so that the lane still has the rest when OnSettle ends its goroutine.
func (v *session) releaseKey(l *lane, key string, why error) {
	for k := l.holds.by[key]; k != nil; k = l.holds.by[key] {
		j := l.holds.takeOf(k)
		_ = v.settle(l, &j, j.d, Verdict{Kind: Release, Err: readable(why)}, v.none())
	}
}

// releaseLost releases what is held of key if the broker has taken one of it back:
// that one comes again, and would come behind those that are held.
func (v *session) releaseLost(l *lane, key string) {
	if l.holds.hasLost(key) {
		v.releaseKey(l, key, ErrLost)
	}
}

// A holdQueue is a heap by due.
type holdQueue []*hold

func (q holdQueue) Len() int           { return len(q) }
func (q holdQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q holdQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements [heap.Interface].
func (q *holdQueue) Push(x any) {
	k := x.(*hold)
	k.index = len(*q)
	*q = append(*q, k)
}

// Pop implements [heap.Interface].
func (q *holdQueue) Pop() any {
	last := len(*q) - 1
	k := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return k
}
