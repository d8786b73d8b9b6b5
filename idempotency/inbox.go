package idempotency

import (
	"context"
	"crypto/sha256"
	"fmt"
)

// Inbox returns a message handler that runs next once for each message that
// consumer receives, however often the broker delivers it. The result assigns to
// a handler type of any messaging package:
//
//	handle = idempotency.Inbox(guard, topic+"/"+group, (*messaging.Delivery).InboxID, handle)
//
// consumer names the topic and the group, since a group of one topic is another
// consumer than the group of that name of another. id returns what is unique
// within the two and the same in each delivery, and "" for a message without ID.
// The ID alone is unique only where one source sends to the topic; CloudEvents 1.0
// promises no more than that source and ID together are, so id returns both. A
// message whose consumer and id are those of another that was handled is
// dropped as its duplicate.
//
// A message counts as handled only after next has returned nil. A duplicate of
// it returns nil without running next. While another delivery of it is being
// handled the result is a [*RejectedError] that is [ErrBusy], so that the
// message is neither lost nor handled twice; likewise, [ErrUnavailable] when the
// store does not answer. An error of next is returned as it is and releases the
// message, so that the next delivery runs next again; so does a panic, which
// goes on. An empty ID is [ErrKey].
//
// A message that comes again after the Guard's TTL counts as new. Where an
// argument is missing, each message gets an error that lists the faults, whose
// method Rejected returns true, so that a consumer sets nothing aside: the
// messages are fine. The result is safe for concurrent use if next is.
func Inbox[M any](g *Guard, consumer string, id func(M) string, next func(context.Context, M) error) func(context.Context, M) error {
	var f faults
	if g == nil {
		f.add("the Guard is nil")
	}
	if consumer == "" {
		f.add("the consumer has no name")
	}
	if id == nil {
		f.add("id is nil")
	}
	if next == nil {
		f.add("next is nil")
	}
	if err := f.err("Inbox"); err != nil {
		return func(context.Context, M) error { return &inboxFault{err} }
	}
	same := sha256.Sum256(nil) // as Key without a Fingerprint
	return func(ctx context.Context, m M) error {
		key := id(m)
		if key == "" {
			err := fmt.Errorf("%w: the message has no ID", ErrKey)
			g.invalid(ctx, kindInbox, err)
			return err
		}
		claim := Claim{ID: digest(kindInbox, consumer, key), Fingerprint: same}
		_, _, err := g.run(ctx, kindInbox, claim, 0, func(held *hold) (Result, error) {
			return Result{}, next(held, m)
		})
		return err
	}
}

// inboxFault is what an Inbox that cannot work returns for each message.
type inboxFault struct{ error }

// Rejected returns true: the handler was not run.
func (*inboxFault) Rejected() bool { return true }
