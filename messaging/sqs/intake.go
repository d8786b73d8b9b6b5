package sqs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/internal/uuid"
	"github.com/parley-go/parley/messaging"
)

// maxPollers bounds the requests for messages of one subscription that are under way.
// One is always; the others come while messages do.
const maxPollers = 8

// deadWindow is how many dead letters are fetched to find the oldest, since standard
// queues only tend to give them in order, and FIFO queues only those of one group. Few
// enough to leave some for other readers.
const deadWindow = 100

// An intake receives from one queue.
type intake struct {
	broker  *Broker
	sub     messaging.Subscription
	layout  layout
	queue   string // the address of that which it receives from
	log     *slog.Logger
	deletes gatherer[string]
	stays   gatherer[stay]

	events chan event
	stop   chan struct{} // closed when nothing more is to be received
	gone   chan struct{} // closed when nobody takes events any more
	freed  chan struct{} // told when there is room again
	idle   chan struct{} // told each time that nothing is open any more
	passed chan struct{} // told when passings has grown
	polls  sync.WaitGroup
	polled chan struct{} // closed when all polls have ended
	keeper chan struct{} // closed when the keeper has ended

	mu       sync.Mutex
	room     int                   // guarded by mu; how many messages may be received
	accepted int                   // guarded by mu; those in open that were handed out
	pollers  int                   // guarded by mu
	open     map[*settler]struct{} // guarded by mu; received and not settled
	passings []passing             // guarded by mu; of ordering units whose first was settled

	units map[string][]*settler // of run: by ordering unit in hand, those behind the first
	shelf []*settler            // of run: dead letters that wait for their turn
}

// An event is what a poller has to tell.
type event struct {
	messages []*settler
	err      error // why a request failed, or nil when one succeeded
}

// A passing says what became of the first of an ordering unit.
type passing struct {
	unit, id string
	on       bool // the next may be delivered
}

func newIntake(b *Broker, s messaging.Subscription, l layout, log *slog.Logger) *intake {
	in := &intake{
		broker: b, sub: s, layout: l, queue: l.work.url, log: log, room: s.Prefetch,
		events: make(chan event), stop: make(chan struct{}), gone: make(chan struct{}), freed: make(chan struct{}, 1), idle: make(chan struct{}, 1),
		passed: make(chan struct{}, 1), polled: make(chan struct{}), keeper: make(chan struct{}),
		open: map[*settler]struct{}{}, units: map[string][]*settler{},
	}
	if s.DeadLetters {
		in.queue, in.room = l.dead.url, deadWindow
	}
	in.deletes = gatherer[string]{broker: b, limit: maxQueueLimit}
	drop := b.deleteFrom(in.queue)
	in.deletes.do = func(ctx context.Context, f *flight, calls []*call[string]) { ride(ctx, b, f, calls, false, drop) }
	in.stays = gatherer[stay]{broker: b, limit: maxQueueLimit, single: true}
	keep := b.keepIn(in.queue)
	in.stays.do = func(ctx context.Context, f *flight, calls []*call[stay]) { ride(ctx, b, f, calls, false, keep) }
	return in
}

// start begins to receive.
func (in *intake) start() {
	in.polls.Add(1)
	in.pollers = 1
	in.broker.workers.Go(func() { in.poll(true) })
	in.broker.workers.Go(func() {
		in.polls.Wait()
		close(in.polled)
	})
	in.broker.workers.Go(in.keep)
}

// finish returns when nothing of the intake runs any more.
func (in *intake) finish() {
	in.halt()
	if !isClosed(in.gone) {
		close(in.gone)
	}
	<-in.polled
	<-in.keeper
}

// halt has nothing more received. It is run's goroutine's.
func (in *intake) halt() {
	if !isClosed(in.stop) {
		close(in.stop)
	}
}

// poll receives until stop. A poller that is not the first ends when messages do.
func (in *intake) poll(first bool) {
	defer in.polls.Done()
	defer func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.pollers--
	}()
	ok := true
	for failures := 0; ; {
		n := in.reserve(first)
		if n == 0 {
			return
		}
		wait := in.broker.set.Wait
		if !first {
			wait = 0
		}
		got, err := in.receive(n, wait)
		if err == nil && in.sub.DeadLetters && len(got) > 0 {
			got = in.sortOut(got)
		}
		switch {
		case err != nil && isClosed(in.stop):
			return
		case err != nil:
			ok = false
			failures++
			in.tell(event{err: err})
			in.rest(backoff(failures))
		case !ok || len(got) > 0:
			ok, failures = true, 0
			in.tell(event{messages: got})
		}
		if !first && len(got) < n {
			return
		}
		if len(got) == maxEntries {
			in.help()
		}
	}
}

// rest waits for d, or until stop.
func (in *intake) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-in.stop:
	}
}

// help begins another poller, if there are messages and room for it.
func (in *intake) help() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pollers >= maxPollers || in.room == 0 || in.sub.DeadLetters || isClosed(in.stop) {
		return
	}
	in.pollers++
	in.polls.Add(1)
	in.broker.workers.Go(func() { in.poll(false) })
}

// reserve takes room for one request, waiting for some if wait is set. It returns 0
// when there is none, or nothing more is to be received.
func (in *intake) reserve(wait bool) int {
	for !isClosed(in.stop) {
		in.mu.Lock()
		n := min(in.room, maxEntries)
		if in.sub.DeadLetters && wait && (in.room < deadWindow || in.accepted >= in.sub.Prefetch) {
			n = 0 // the next window begins when the last one is handed out
		}
		in.room -= n
		in.mu.Unlock()
		if n > 0 || !wait {
			return n
		}
		select {
		case <-in.freed:
		case <-in.stop:
		}
	}
	return 0
}

// free gives room back.
func (in *intake) free(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.room += n
	if n > 0 {
		nudge(in.freed)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// receive asks for up to n messages, for which there is room.
func (in *intake) receive(n int, wait time.Duration) ([]*settler, error) {
	b := in.broker
	ctx, cancel := context.WithTimeoutCause(b.base, wait+answerTimeout, errSilent)
	defer cancel()
	req := &awssqs.ReceiveMessageInput{
		QueueUrl: aws.String(in.queue), MaxNumberOfMessages: int32(n), //nolint:gosec // at most 10
		WaitTimeSeconds: int32(wait / time.Second), VisibilityTimeout: int32(b.set.Visibility / time.Second), //nolint:gosec // at most 12 h
		MessageAttributeNames:       []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
	}
	if b.set.FIFO {
		// So that a repeat of the request, by the SDK, gets what the first one got.
		req.ReceiveRequestAttemptId = aws.String(uuid.V7())
	}
	began := time.Now()
	out, err := b.set.Client.ReceiveMessage(ctx, req)
	if err != nil {
		in.free(n)
		return nil, err
	}
	got := make([]*settler, len(out.Messages))
	in.mu.Lock()
	for i := range out.Messages {
		d := newReceived(&out.Messages[i])
		d.at = began
		got[i] = newSettler(in, d)
		in.open[got[i]] = struct{}{}
	}
	in.mu.Unlock()
	in.free(n - len(got))
	if !b.set.FIFO { // which has an order of its own
		bySent(got)
	}
	return got, nil
}

func bySent(all []*settler) {
	slices.SortStableFunc(all, func(a, b *settler) int { return a.d.sent.Compare(b.d.sent) })
}

// sortOut fetches what else there are of dead letters, as many as there is room for,
// and puts the oldest first.
func (in *intake) sortOut(got []*settler) []*settler {
	for {
		n := in.reserve(false)
		if n == 0 {
			break
		}
		more, err := in.receive(n, time.Second)
		if err != nil || len(more) == 0 { // an error comes again with the next request
			break
		}
		got = append(got, more...)
	}
	bySent(got)
	return got
}

// tell passes e on to run. What nobody takes is given back.
func (in *intake) tell(e event) {
	select {
	case in.events <- e:
	case <-in.gone:
		in.giveBack(e.messages)
	}
}

// run hands out what comes until ctx ends, and then waits for what was accepted; or
// until it cannot go on.
func (in *intake) run(ctx context.Context, deliver messaging.Deliver) error {
	up := true
	for {
		events := in.events
		if in.sub.DeadLetters && len(in.shelf) > 0 {
			events = nil
		}
		select {
		case <-ctx.Done():
			in.drain()
			return nil
		case e := <-events:
			if e.err != nil {
				err := fmt.Errorf("sqs: subscription of %s to %s interrupted: %w", in.sub.Group, in.sub.Topic, told(e.err))
				if up && ctx.Err() == nil && in.sub.OnLost != nil {
					in.sub.OnLost(err)
				}
				if f := faultOf(e.err); f != nil && f.absent() && !in.sub.DeadLetters {
					return err // to make it again
				}
				if why := permanent(e.err); why != nil {
					return why
				}
				in.log.Warn("sqs: receiving failed, trying again", slog.Any("err", told(e.err)))
				up = false
				continue
			}
			if !up {
				up = true
				if in.sub.OnReady != nil {
					in.sub.OnReady()
				}
			}
			in.handAll(ctx, e.messages, deliver)
		case <-in.passed:
			in.passOn(ctx, deliver)
			in.unshelve(ctx, deliver)
		}
	}
}

// handAll hands out what has come, as far as it may be.
func (in *intake) handAll(ctx context.Context, all []*settler, deliver messaging.Deliver) {
	if in.sub.DeadLetters {
		in.shelf = all
		in.unshelve(ctx, deliver)
		return
	}
	for i, s := range all {
		if ctx.Err() != nil {
			in.giveBack(all[i:])
			return
		}
		in.take(ctx, s, deliver)
	}
}

// unshelve hands out dead letters, as many as Prefetch allows.
func (in *intake) unshelve(ctx context.Context, deliver messaging.Deliver) {
	for len(in.shelf) > 0 && ctx.Err() == nil {
		in.mu.Lock()
		full := in.accepted >= in.sub.Prefetch
		in.mu.Unlock()
		if full {
			return
		}
		s := in.shelf[0]
		in.shelf = in.shelf[1:]
		in.hand(ctx, s, deliver)
	}
}

// take hands s out, unless another of its ordering unit is in hand: then it waits
// behind that.
func (in *intake) take(ctx context.Context, s *settler, deliver messaging.Deliver) {
	if !in.ordered() {
		in.hand(ctx, s, deliver)
		return
	}
	behind, busy := in.units[s.d.group]
	if busy {
		in.units[s.d.group] = append(behind, s)
		return
	}
	in.units[s.d.group] = nil
	in.hand(ctx, s, deliver)
}

// ordered reports whether a message must be settled before the next of its group is
// handed out.
func (in *intake) ordered() bool { return in.broker.set.FIFO && !in.sub.DeadLetters }

// passOn hands out the next of each ordering unit whose first was settled. Where that
// one comes again, those behind it must come after it, and are given back.
func (in *intake) passOn(ctx context.Context, deliver messaging.Deliver) {
	in.mu.Lock()
	all := in.passings
	in.passings = nil
	in.mu.Unlock()
	for _, p := range all {
		behind := in.units[p.unit]
		if i := slices.IndexFunc(behind, func(s *settler) bool { return s.d.id == p.id }); i >= 0 {
			// It has come again already.
			in.giveBack(behind[:i])
			behind, p.on = behind[i:], true
		}
		switch {
		case len(behind) == 0:
			delete(in.units, p.unit)
		case !p.on || ctx.Err() != nil:
			delete(in.units, p.unit)
			in.giveBack(behind)
		default:
			in.units[p.unit] = behind[1:]
			in.hand(ctx, behind[0], deliver)
		}
	}
}

// hand gives one message to deliver, unless it was lost while it waited.
func (in *intake) hand(ctx context.Context, s *settler, deliver messaging.Deliver) {
	if !s.accept() {
		return
	}
	if err := deliver(s.lease, s.d.delivery(in.sub), s); err != nil {
		_ = s.Settle(s.lease, messaging.Verdict{Kind: messaging.Release})
		_ = pause(ctx, refusalPause)
	}
}

// drain gives back what was not handed out, and waits until all that was accepted is
// settled and nothing more can come.
func (in *intake) drain() {
	in.halt()
	for unit, behind := range in.units {
		in.giveBack(behind)
		in.units[unit] = nil
	}
	in.giveBack(in.shelf)
	in.shelf = nil
	polled := in.polled
	for {
		in.mu.Lock()
		open := len(in.open)
		in.mu.Unlock()
		if open == 0 && polled == nil {
			return
		}
		select {
		case e := <-in.events:
			in.giveBack(e.messages)
		case <-polled:
			polled = nil
		case <-in.idle:
		case <-in.broker.closing:
			return
		}
	}
}

// giveBack makes messages that nobody has accepted visible at once.
func (in *intake) giveBack(all []*settler) {
	ctx, cancel := context.WithTimeout(in.broker.base, releaseTimeout)
	defer cancel()
	in.release(ctx, all)
}

func (in *intake) release(ctx context.Context, all []*settler) {
	var calls []*call[stay]
	var of []*settler
	for _, s := range all {
		if s.claim(lost) {
			calls = append(calls, newCall(stay{receipt: s.d.receipt}, s.d.receipt, 0))
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

// closed notes that s is done with; on says that the next of its ordering unit may be
// delivered.
func (in *intake) closed(s *settler, on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, ok := in.open[s]; !ok {
		return
	}
	delete(in.open, s)
	if s.accepted {
		in.accepted--
	}
	if !s.accepted || !in.sub.DeadLetters {
		in.room++
	}
	nudge(in.freed)
	if len(in.open) == 0 {
		nudge(in.idle)
	}
	if s.accepted && in.ordered() {
		in.passings = append(in.passings, passing{s.d.group, s.d.id, on})
	}
	if s.accepted && (in.ordered() || in.sub.DeadLetters) {
		nudge(in.passed)
	}
}

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
