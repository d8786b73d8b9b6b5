package messaging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// errGoexit is the failure of a handler that ended its goroutine.
const errGoexit Reason = "the handler called runtime.Goexit"

// errGoexitAfter is the failure of a handler after which Backoff, or a method of
// the handler's error, ended the goroutine.
const errGoexitAfter Reason = "the handler's error or Backoff called runtime.Goexit"

// A span is when a handler ran, from the beginning of its session.
type span struct{ begin, end time.Duration }

// none is the span of what no handler has begun with, now.
func (v *session) none() span {
	now := v.now()
	return span{now, now}
}

// handle runs the handler for j and settles it, also when the handler panics or
// calls runtime.Goexit. It does not begin with what would come to nothing.
func (v *session) handle(l *lane, j *job) {
	if v.intake.Err() != nil || j.lease.Err() != nil {
		v.giveBack(l, j, cmp.Or(context.Cause(v.intake), context.Cause(j.lease)))
		return
	}
	d := j.d
	if j.inOrder { // what was delivered stays as it came, for the next attempt
		d = j.another()
	}
	work := l.tenures.under(j.lease).context()
	limit := func() {}
	if v.cfg.Timeout > 0 {
		work.Parent, limit = context.WithTimeoutCause(work.Parent, v.cfg.Timeout, ErrTimeout)
	}
	began := v.now()
	v.tally.inFlight.Add(1)
	var err error = errGoexit
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("messaging: the handler panicked: %v", p)
			if e, ok := p.(error); ok {
				err = fmt.Errorf("messaging: the handler panicked: %w", e)
			}
			v.log.Error("messaging: handler panicked", slog.String("id", j.id), slog.Any("err", err), slog.String("stack", string(debug.Stack())))
		}
		ran := span{began, v.now()}
		work.End()
		limit()
		v.tally.inFlight.Add(-1)
		v.conclude(l, j, d, err, ran)
	}()
	err = v.do(work, d)
}

// conclude does what is to follow from what the handler of j did. The methods of
// err and Backoff are other people's code: when they panic or call
// runtime.Goexit, that is the failure, after which the default Backoff counts.
func (v *session) conclude(l *lane, j *job, d *Delivery, err error, ran span) {
	if err == nil { // and nothing of other people's to be called
		v.carryOut(l, j, d, Verdict{Kind: Ack}, ran)
		return
	}
	drained := v.drain.Err() != nil
	var verdict Verdict
	judged := false
	defer func() {
		if !judged {
			var failure error = errGoexitAfter
			if p := recover(); p != nil {
				failure = fmt.Errorf("messaging: the handler's error or Backoff panicked: %v", p)
				v.log.Error("messaging: handler's error or Backoff panicked", slog.String("id", j.id), slog.Any("err", failure), slog.String("stack", string(debug.Stack())))
			}
			own := *v.cfg
			own.Backoff = backoff
			verdict = own.verdict(failure, j.attempt, drained)
		}
		v.carryOut(l, j, d, verdict, ran)
	}()
	verdict = v.cfg.verdict(err, j.attempt, drained)
	verdict.Err = readable(verdict.Err)
	judged = true
}

// carryOut settles j with verdict, unless its order is kept and the verdict is to try
// again.
func (v *session) carryOut(l *lane, j *job, d *Delivery, verdict Verdict, ran span) {
	if j.inOrder {
		v.concludeInOrder(l, j, d, verdict, ran)
		return
	}
	_ = v.settle(l, j, d, verdict, ran) // which it has reported
}

// settle carries verdict out, unless the broker has taken the message back, and
// reports and returns what kept it from that. The handler has had d, if there was
// one.
func (v *session) settle(l *lane, j *job, d *Delivery, verdict Verdict, ran span) error {
	v.leases.remove(j.d)
	var err error
	if j.lease.Err() != nil {
		err = context.Cause(j.lease)
	} else {
		now := ran.end
		if verdict.Kind != Ack { // seldom; and Backoff has taken the time it likes
			now = v.now()
		}
		err = j.s.Settle(l.tenures.under(j.lease).verdicts(now), verdict)
	}
	v.settled(j, d, verdict, err, ran)
	return err
}

// settled tells everybody what became of j.
func (v *session) settled(j *job, d *Delivery, verdict Verdict, err error, ran span) {
	v.tally.count(verdict.Kind, err)
	if err != nil || verdict.Kind != Ack {
		v.report(j, verdict, err)
	}
	if v.cfg.OnSettle != nil {
		v.cfg.OnSettle(Settled{Delivery: d, Verdict: verdict, Err: err, Took: ran.end - ran.begin})
	}
}

// report logs what did not go as the publisher would wish.
func (v *session) report(j *job, verdict Verdict, err error) {
	log := v.log.With(slog.String("id", j.id), slog.Int("attempt", j.attempt))
	switch {
	case errors.Is(err, ErrLost):
		log.Warn("messaging: delivery lost, it will come again", slog.String("verdict", verdict.Kind.String()))
		return
	case err != nil:
		log.Error("messaging: delivery not settled, it will come again", slog.String("verdict", verdict.Kind.String()), slog.Any("err", err))
		return
	}
	switch verdict.Kind {
	case Retry:
		log.Warn("messaging: attempt failed", slog.Any("err", verdict.Err), slog.Duration("retry_after", verdict.After))
	case DeadLetter:
		log.Error("messaging: message dead-lettered", slog.String("reason", verdict.Reason), slog.Any("err", verdict.Err))
	case Release:
		log.Debug("messaging: delivery given back", slog.Any("err", verdict.Err))
	case Ack:
	}
}
