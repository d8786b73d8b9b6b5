package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
)

// maxKnown bounds how many output topics are remembered as existing.
const maxKnown = 1_000

// An output is the [messaging.Publisher] of one attempt. It keeps what is published
// for the transaction.
type output struct {
	x *transactor

	mu     sync.Mutex
	closed bool          // guarded by mu; the handler has returned
	recs   []*kgo.Record // guarded by mu
	bytes  int64         // guarded by mu
}

// Publish implements [messaging.Publisher]: nil means that msgs go into the
// transaction if the handler returns nil. What can be known to be refused later is
// refused now, for Kafka's refusal would undo the whole batch.
func (o *output) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	b := o.x.b
	if len(msgs) == 0 {
		return messaging.Check(topic, b.cfg.MaxPayload, nil)
	}
	errs := b.refuse(topic, msgs)
	if errs == nil {
		errs = make([]error, len(msgs))
	}
	if err := o.x.topicExists(ctx, topic); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	failed := false
	for i := range msgs {
		if errs[i] == nil {
			errs[i] = o.keep(topic, &msgs[i])
		}
		if errs[i] != nil {
			failed = true
			errs[i] = fmt.Errorf("kafka: publish to %s in a transaction: %w", topic, errs[i])
		}
	}
	if failed {
		return &messaging.BatchError{Errs: errs}
	}
	return nil
}

func (o *output) keep(topic string, m *messaging.Message) error {
	out := new(outgoing)
	out.encode(topic, m, o.x.b.cfg.Source)
	cost := out.cost()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return fmt.Errorf("%w: the handler has returned: publish before that", messaging.ErrInvalid)
	case len(o.recs) >= o.x.t.MaxOutput:
		return fmt.Errorf("%w: the handler has published %d messages already, which is Transaction.MaxOutput: set more, or do less for each message",
			messaging.ErrTooLarge, len(o.recs))
	case o.bytes+cost > int64(o.x.t.MaxOutputBytes):
		return fmt.Errorf("%w: with this message the handler would have published %d bytes, and Transaction.MaxOutputBytes is %d: set more, or do less for each message",
			messaging.ErrTooLarge, o.bytes+cost, o.x.t.MaxOutputBytes)
	}
	o.recs = append(o.recs, &out.rec)
	o.bytes += cost
	return nil
}

// take ends the output, and returns what is in it.
func (o *output) take() []*kgo.Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	return o.recs
}

// topicExists returns an error that says why nothing can be published to topic. It
// asks Kafka, once.
func (x *transactor) topicExists(ctx context.Context, topic string) error {
	if checkTopic(topic) != nil {
		return nil // it was refused already
	}
	x.mu.Lock()
	known := x.known[topic]
	x.mu.Unlock()
	if known {
		return nil
	}
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, x.b.out)
	if err == nil && len(resp.Topics) == 1 {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if errors.Is(err, kerr.LeaderNotAvailable) { // of some partition: the topic is there
		err = nil
	}
	if err != nil {
		meaning, _ := x.b.unpublished(topic, err)
		return meaning
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.known) >= maxKnown {
		clear(x.known)
	}
	x.known[topic] = true
	return nil
}
