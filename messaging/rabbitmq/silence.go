package rabbitmq

import (
	"log/slog"
	"time"
)

// watchConfirms gives the outlet up when the message that has waited longest for
// its confirmation still waits an answer's time later: what is not confirmed then
// goes out again on the next. Heartbeats do not find this out. RabbitMQ 3.10 was
// seen never to confirm what was on its way to two quorum queues when one of them
// was deleted.
func (o *outlet) watchConfirms() {
	t := time.NewTicker(o.answer / 2)
	defer t.Stop()
	before, looks := int64(0), 0 // after the first that found it
	for {
		select {
		case <-t.C:
		case <-o.gone:
			return
		}
		oldest := o.oldest()
		if o.blocked.Load() { // it reads nothing, so there is nothing to answer
			oldest = 0
		}
		if looks++; oldest == 0 || oldest != before {
			before, looks = oldest, 0
		}
		if looks == 2 {
			o.log.Warn("rabbitmq: no answer from the broker: the connection is given up", slog.String("request", "confirm a message"), slog.Duration("waited", o.answer))
			o.shut()
			return
		}
	}
}

// oldest returns the number of the message that has waited longest of those that
// are not answered, or 0. What is being written counts, too.
func (o *outlet) oldest() (first int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for seq, it := range o.waiting {
		confirm := it.pending.Load()
		if (first == 0 || seq < first) && (confirm == nil || !isClosed(confirm.Done())) {
			first = seq
		}
	}
	return first
}
