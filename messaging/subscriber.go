package messaging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// maxLane bounds how many deliveries wait in one lane. A lane that is full
	// holds up its subscription.
	maxLane = 256
	// settleTimeout bounds how long a verdict may take to be carried out.
	settleTimeout = 30 * time.Second
)

// errGoexit is the failure of a handler that ended its goroutine.
const errGoexit Reason = "the handler called runtime.Goexit"

// errGoexitAfter is the failure of a handler after which Backoff, or a method of
// the handler's error, ended the goroutine.
const errGoexitAfter Reason = "the handler's error or Backoff called runtime.Goexit"

// A subscriber runs one subscription: the broker's goroutine sorts deliveries
// into lanes, and one goroutine for each lane handles them one by one. A keyed
// delivery goes to the lane of its key, which keeps its order; those without a
// key go to spare, from which every lane takes when it is free.
type subscriber struct {
	cfg   *ConsumerConfig
	sub   Subscription
	do    Handler
	seed  maphash.Seed
	lanes []chan job
	spare chan job
	log   *slog.Logger

	running sync.WaitGroup // one for each lane
}

// A job is a delivery on its way through a lane.
type job struct {
	lease   context.Context //nolint:containedctx // the context of one call, on its way to the goroutine that makes the call
	d       *Delivery
	s       Settler
	id      string // d is the handler's, which may change it; these stay
	attempt int
}

func newSubscriber(cfg *ConsumerConfig, sub Subscription, h Handler) *subscriber {
	return &subscriber{
		cfg: cfg, sub: sub, do: h, seed: maphash.MakeSeed(),
		log: cfg.Logger.With(slog.String("topic", sub.Topic), slog.String("group", sub.Group)),
	}
}

// run subscribes until intake ends, calls left, and returns when all that was
// accepted has been handled. When drain ends, so do the contexts of the handlers.
func (s *subscriber) run(intake, drain context.Context, b Broker, established, left func()) error {
	sub := s.sub
	var once sync.Once
	sub.OnReady = func() {
		if s.sub.OnReady != nil {
			s.sub.OnReady()
		}
		once.Do(established)
	}
	room := min(sub.Prefetch, maxLane)
	s.spare = make(chan job, room)
	for range s.cfg.Concurrency {
		lane := make(chan job, room)
		s.lanes = append(s.lanes, lane)
		s.running.Go(func() { s.work(intake, drain, lane) })
	}
	err := b.Subscribe(intake, sub, func(lease context.Context, d *Delivery, set Settler) error {
		return s.accept(intake, job{lease, d, set, d.ID, d.Attempt})
	})
	if err == nil && intake.Err() == nil {
		err = fmt.Errorf("messaging: the subscription of group %s to topic %s ended, and the broker does not say why", sub.Group, sub.Topic)
	}
	left()
	// Nobody sends any more.
	close(s.spare)
	for _, lane := range s.lanes {
		close(lane)
	}
	s.running.Wait()
	return err
}

// accept puts j in its lane, waiting for room.
func (s *subscriber) accept(intake context.Context, j job) error {
	lane := s.spare
	if j.d.Key != "" {
		lane = s.lanes[maphash.String(s.seed, j.d.Key)%uint64(len(s.lanes))]
	}
	if intake.Err() != nil {
		return context.Cause(intake)
	}
	select {
	case lane <- j:
		return nil
	case <-intake.Done():
		return context.Cause(intake)
	case <-j.lease.Done():
		return context.Cause(j.lease)
	}
}

// work handles what comes into lane and spare until both are closed.
func (s *subscriber) work(intake, drain context.Context, lane <-chan job) {
	own, spare := lane, (<-chan job)(s.spare)
	var (
		lease, ctx context.Context
		end        = func() {}
		complete   bool
	)
	defer func() {
		end()
		if !complete { // a handler ended this goroutine: the lane goes on in another
			s.running.Go(func() { s.work(intake, drain, lane) })
		}
	}()
	for own != nil || spare != nil {
		var j job
		var ok bool
		select {
		case j, ok = <-own:
			if !ok {
				own = nil
				continue
			}
		case j, ok = <-spare:
			if !ok {
				spare = nil
				continue
			}
		}
		if j.lease != lease { // seldom: it changes with the connection
			end()
			lease = j.lease //nolint:fatcontext // takes the place of the last one, nests in nothing
			ctx, end = during(lease, drain)
		}
		s.handle(ctx, intake, drain, j)
	}
	complete = true
}

// during returns a context that ends with lease or drain.
func during(lease, drain context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(lease)
	stop := context.AfterFunc(drain, func() { cancel(context.Cause(drain)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// handle runs the handler for j and settles it, also when the handler panics or
// calls runtime.Goexit. It does not begin with what would come to nothing.
func (s *subscriber) handle(ctx, intake, drain context.Context, j job) {
	if err := cmp.Or(context.Cause(intake), context.Cause(j.lease)); err != nil {
		s.settle(j, Verdict{Kind: Release, Err: err}, 0)
		return
	}
	var cancel context.CancelFunc
	if s.cfg.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, s.cfg.Timeout, ErrTimeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	began := time.Now()
	var err error = errGoexit
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("messaging: the handler panicked: %v", p)
			if e, ok := p.(error); ok {
				err = fmt.Errorf("messaging: the handler panicked: %w", e)
			}
			s.log.Error("messaging: handler panicked", slog.String("id", j.id), slog.Any("err", err), slog.String("stack", string(debug.Stack())))
		}
		took := time.Since(began)
		cancel()
		s.conclude(j, err, drain.Err() != nil, took)
	}()
	err = s.do(ctx, j.d)
}

// conclude settles j by what its handler did. The methods of err and Backoff are
// other people's code: when they panic or call runtime.Goexit, that is the
// failure, after which the default Backoff counts.
func (s *subscriber) conclude(j job, err error, drained bool, took time.Duration) {
	var v Verdict
	judged := false
	defer func() {
		if !judged {
			var failure error = errGoexitAfter
			if p := recover(); p != nil {
				failure = fmt.Errorf("messaging: the handler's error or Backoff panicked: %v", p)
				s.log.Error("messaging: handler's error or Backoff panicked", slog.String("id", j.id), slog.Any("err", failure), slog.String("stack", string(debug.Stack())))
			}
			own := *s.cfg
			own.Backoff = backoff
			v = own.verdict(failure, j.attempt, drained)
		}
		s.settle(j, v, took)
	}()
	v = s.cfg.verdict(err, j.attempt, drained)
	judged = true
}

// settle carries v out, unless the broker has taken the message back.
func (s *subscriber) settle(j job, v Verdict, took time.Duration) {
	v.Err = readable(v.Err)
	err := context.Cause(j.lease)
	if err == nil {
		ctx, cancel := context.WithTimeout(j.lease, settleTimeout)
		err = j.s.Settle(ctx, v)
		cancel()
	}
	if err != nil || v.Kind != Ack {
		s.report(j, v, err)
	}
	if s.cfg.OnSettle != nil {
		s.cfg.OnSettle(Settled{Delivery: j.d, Verdict: v, Err: err, Took: took})
	}
}

// report logs what did not go as the publisher would wish.
func (s *subscriber) report(j job, v Verdict, err error) {
	log := s.log.With(slog.String("id", j.id), slog.Int("attempt", j.attempt))
	switch {
	case errors.Is(err, ErrLost):
		log.Warn("messaging: delivery lost, it will come again", slog.String("verdict", v.Kind.String()))
		return
	case err != nil:
		log.Error("messaging: delivery not settled, it will come again", slog.String("verdict", v.Kind.String()), slog.Any("err", err))
		return
	}
	switch v.Kind {
	case Retry:
		log.Warn("messaging: attempt failed", slog.Any("err", v.Err), slog.Duration("retry_after", v.After))
	case DeadLetter:
		log.Error("messaging: message dead-lettered", slog.String("reason", v.Reason), slog.Any("err", v.Err))
	case Release:
		log.Debug("messaging: delivery given back, the consumer is stopping")
	case Ack:
	}
}
