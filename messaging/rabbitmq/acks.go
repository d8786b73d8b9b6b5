package rabbitmq

import (
	"cmp"
	"runtime"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// An ack ends a delivery at the broker.
type ack struct {
	tag     uint64
	requeue bool
}

// acknowledge passes acks on until release, and closes the channel when the
// broker has them. ends is closed when the subscription is to end.
func (in *intake) acknowledge(ends <-chan struct{}) {
	defer close(in.flushed)
	last := time.Time{}
	var settled ledger
	var batch, left []ack
	for in.collect(&batch) {
		if in.sub.DeadLetters && isClosed(ends) { // though run may not have noticed yet
			batch, left = leave(batch, left)
		}
		if err := in.pass(&settled, batch); err != nil {
			in.fail(err)
			break
		}
		last = time.Now()
	}
	if len(left) > 0 {
		slices.SortFunc(left, func(a, b ack) int { return cmp.Compare(a.tag, b.tag) })
		if err := in.pass(&settled, left); err != nil {
			in.fail(err)
		}
		last = time.Now()
	}
	for range flushRounds {
		if isClosed(in.gone) || time.Since(last) > flushRounds*flushPause ||
			in.ch.conn.ask("take acknowledgements", func() error { return in.ch.Qos(1, 0, false) }) != nil {
			break
		}
		t := time.NewTimer(flushPause)
		select {
		case <-t.C:
		case <-in.gone:
		}
		t.Stop()
	}
	_ = in.ch.close()
	in.fail(amqp.ErrClosed)
}

// collect waits for an ack, and puts it and those that follow at once into batch.
// It reports false when no more come, or the intake is lost.
func (in *intake) collect(batch *[]ack) bool {
	*batch = (*batch)[:0]
	select {
	case a := <-in.acks:
		*batch = append(*batch, a)
	case <-in.finish:
	case <-in.gone:
		return false
	}
	runtime.Gosched() // those who are about to settle do so first
	for len(*batch) < cap(in.acks) {
		select {
		case a := <-in.acks:
			*batch = append(*batch, a)
		default:
			return len(*batch) > 0
		}
	}
	return true
}

// leave moves what goes back to its queue from batch to left. RabbitMQ delivers
// what came back first, in the order in which it came back: the dead letters that
// a reader leaves when it ends keep their order when they go back together.
func leave(batch, left []ack) (_, _ []ack) {
	for _, a := range batch {
		if a.requeue {
			left = append(left, a)
		}
	}
	return slices.DeleteFunc(batch, func(a ack) bool { return a.requeue }), left
}

// pass tells the broker of batch. It takes one acknowledgement for all up to a
// tag below which nothing is unsettled, since each costs both ends a frame, and a
// quorum queue an entry in its log.
func (in *intake) pass(settled *ledger, batch []ack) error {
	for _, a := range batch {
		settled.settle(a.tag)
	}
	var upTo ack // the last that can stand for those before it
	n := 0
	for _, a := range batch {
		var err error
		switch {
		case a.requeue:
			err = in.ch.Nack(a.tag, false, true)
		case a.tag > settled.low:
			err = in.ch.Ack(a.tag, false)
		default:
			n++
			upTo.tag = max(upTo.tag, a.tag)
		}
		if err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	return in.ch.Ack(upTo.tag, n > 1)
}
