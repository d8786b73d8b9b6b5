package messaging

import (
	"cmp"
	"strconv"
	"strings"
	"time"
)

// These headers say why a message lies among the dead letters. [Publisher]s drop
// them, so a dead letter that is published again begins anew.
const (
	HeaderDeadReason   = "msg-dlq-reason"   // Verdict.Reason
	HeaderDeadError    = "msg-dlq-error"    // the text of Verdict.Err, at most 1 KiB
	HeaderDeadAttempts = "msg-dlq-attempts" // Verdict.Attempt or Delivery.Attempt, in decimal
	HeaderDeadTopic    = "msg-dlq-topic"    // Delivery.Topic
	HeaderDeadGroup    = "msg-dlq-group"    // Delivery.Group
	HeaderDeadTime     = "msg-dlq-time"     // when, in UTC and RFC 3339 form
)

const maxDeadText = 1 << 10

// DeadHeaders returns the headers that a dead letter carries beside those of its
// message: v says why d was set aside at the time at. It is for those who
// implement a [Broker].
func DeadHeaders(d *Delivery, v Verdict, at time.Time) map[string]string {
	h := map[string]string{
		HeaderDeadReason:   fit(v.Reason),
		HeaderDeadAttempts: strconv.Itoa(cmp.Or(v.Attempt, d.Attempt)),
		HeaderDeadTopic:    d.Topic,
		HeaderDeadGroup:    d.Group,
		HeaderDeadTime:     at.UTC().Format(time.RFC3339Nano),
	}
	if v.Err != nil {
		h[HeaderDeadError] = fit(v.Err.Error())
	}
	return h
}

// fit makes s a header's value: text that every broker carries.
func fit(s string) string {
	s = strings.ToValidUTF8(clip(s, maxDeadText), "\uFFFD")
	return clip(strings.ReplaceAll(s, "\x00", "\uFFFD"), maxDeadText)
}
