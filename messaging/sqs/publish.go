package sqs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/parley-go/parley/messaging"
)

// strayPause lies between two tries of a queue that is listed and does not exist.
const strayPause = 500 * time.Millisecond

// Publish sends msgs to topic and returns nil when SQS, or SNS, has stored all of
// them: each in the queue of every group. Otherwise it returns a
// [*messaging.BatchError] with, for each message, nil or one of:
//
//   - [messaging.ErrInvalid], [messaging.ErrTooLarge]: before the network, or by the
//     settings of a queue that others made.
//   - [messaging.ErrUnroutable]: no group has ever subscribed to topic.
//   - [messaging.ErrRefused]: of a FIFO queue, when SQS has taken a later message of
//     the Key and not this one; and with the cause of ctx, when SQS was too busy
//     until then.
//   - [messaging.ErrNotConfirmed] and the cause of ctx: it was sent, and ctx ended
//     before the answer; or some groups have it already. It may have been stored.
//   - the cause of ctx alone: it was not sent.
//   - [messaging.ErrDenied], [messaging.ErrNotFound], [messaging.ErrClosed].
//
// What fails for the moment, a lost connection, an error of the service, too many
// requests, is no error while ctx lasts: it is sent again, with the same ID, so that
// groups may receive it twice. Give ctx a deadline.
//
// Messages that are refused before the network do not keep back the others of the
// call. Calls at one time share requests, ten messages in each; one call with many
// messages is much faster than many calls in a row.
func (b *Broker) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	var errs []error
	err := messaging.Check(topic, b.set.MessageLimit, msgs)
	if len(msgs) == 0 {
		return err
	}
	if batch, ok := errors.AsType[*messaging.BatchError](err); ok {
		errs = batch.Errs
	}
	fail := func(i int, err error) {
		if errs == nil {
			errs = make([]error, len(msgs))
		}
		errs[i] = fmt.Errorf("sqs: publish: %w", err)
	}
	items := make([]*item, 0, len(msgs))
	for i := range msgs {
		if errs != nil && errs[i] != nil {
			continue
		}
		e, err := b.set.encode(&msgs[i])
		if err != nil {
			fail(i, err)
			continue
		}
		items = append(items, &item{index: i, entry: e, size: e.size()})
	}
	b.publish(ctx, topic, items)
	for _, it := range items {
		if it.err != nil {
			fail(it.index, it.err)
		}
	}
	if errs != nil {
		return &messaging.BatchError{Errs: errs}
	}
	return nil
}

// An item is a message of one call of Publish.
type item struct {
	index int
	entry entry
	size  int
	err   error
	some  bool // a group has it
}

// publish sends items to where topic leads, and sets the err of each.
func (b *Broker) publish(ctx context.Context, topic string, items []*item) {
	if len(items) == 0 {
		return
	}
	if !b.enter() {
		giveUp(items, messaging.ErrClosed)
		return
	}
	defer b.calls.Done()
	ctx, cancel := b.untilClosed(ctx)
	defer cancel()
	if ctx.Err() != nil {
		giveUp(items, context.Cause(ctx))
		return
	}
	sent := map[string]bool{} // the targets that all items have been to
	for first := true; ; first = false {
		targets, err := b.route(ctx, topic, !first)
		if err != nil {
			giveUp(items, err)
			return
		}
		if len(targets) == 0 {
			giveUp(items, fmt.Errorf("%w: start a consumer of topic %q first", messaging.ErrUnroutable, topic))
			return
		}
		var absent bool
		for _, w := range b.begin(targets, sent, items) {
			absent = w.wait(ctx, sent) || absent
		}
		if !absent {
			concede(ctx, items)
			return
		}
		// A queue has been deleted, or is not there yet though it is listed.
		if err := pause(ctx, strayPause); err != nil {
			giveUp(items, err)
			return
		}
	}
}

// giveUp ends items with err, which is why they cannot be sent on.
func giveUp(items []*item, err error) {
	for _, it := range items {
		switch {
		case it.err != nil:
		case it.some:
			it.err = unconfirmed(err)
		default:
			it.err = err
		}
	}
}

// concede says of what ctx kept from some of the groups that others have it.
func concede(ctx context.Context, items []*item) {
	for _, it := range items {
		if it.err != nil && it.some && ctx.Err() != nil && !errors.Is(it.err, messaging.ErrNotConfirmed) {
			it.err = unconfirmed(it.err)
		}
	}
}

// A sending is items on their way to one target.
type sending struct {
	target string
	sender *sender
	items  []*item
	calls  []*call[entry]
}

// begin sends items to those targets that have not had them.
func (b *Broker) begin(targets []string, sent map[string]bool, items []*item) (all []sending) {
	for _, to := range targets {
		if sent[to] {
			continue
		}
		s := sending{target: to, sender: b.senders.get(b, to)}
		for _, it := range items {
			if it.err == nil {
				s.items = append(s.items, it)
				s.calls = append(s.calls, newCall(it.entry, it.entry.group, it.size))
			}
		}
		s.sender.submit(s.calls...)
		all = append(all, s)
	}
	return all
}

// wait waits for the outcomes. It reports whether the target does not exist.
func (s *sending) wait(ctx context.Context, sent map[string]bool) (absent bool) {
	for i, c := range s.calls {
		err := s.sender.wait(ctx, c)
		it := s.items[i]
		switch {
		case err == nil:
			it.some = true
		case errors.Is(err, messaging.ErrNotFound):
			absent = true
		case it.err == nil:
			it.err = err
		}
	}
	sent[s.target] = !absent
	return absent
}
