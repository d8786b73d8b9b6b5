package sqs

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/messaging"
)

// A received is one message as it came from a queue.
type received struct {
	id         string // SQS's own of this copy
	receipt    string // names this receive of it
	body       string
	attributes map[string]attribute
	group      string // of FIFO queues
	receives   int    // this one included, at least 1
	sent       time.Time
	at         time.Time     // when the request began by which it came, at the earliest, for the 12 hours
	byRedrive  bool          // SQS itself has set it aside
	wait       time.Duration // how long after sent it is due
	attempt    int           // the first that it is delivered for, when it has waited

	message messaging.Message
	foreign bool // it has no ID but that of SQS or SNS
}

// newReceived returns m as this library has it. It reads what any program may have
// sent.
func newReceived(m *types.Message) *received {
	d := &received{
		id: aws.ToString(m.MessageId), receipt: aws.ToString(m.ReceiptHandle), body: aws.ToString(m.Body),
		group:     m.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)],
		byRedrive: m.Attributes[string(types.MessageSystemAttributeNameDeadLetterQueueSourceArn)] != "",
	}
	d.receives, _ = strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	d.receives = max(1, d.receives)
	if ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64); err == nil {
		d.sent = time.UnixMilli(ms)
	}
	if len(m.MessageAttributes) > 0 {
		d.attributes = make(map[string]attribute, len(m.MessageAttributes))
		for name, v := range m.MessageAttributes {
			d.attributes[name] = attribute{kind: aws.ToString(v.DataType), text: aws.ToString(v.StringValue), bytes: v.BinaryValue}
		}
	}
	d.decode()
	return d
}

// decode fills the message of d.
func (d *received) decode() {
	body, attributes := d.body, d.attributes
	packed := unpack(attributes[attrHeaders].text)
	m := &d.message
	if n := notice(d); n != nil {
		body, attributes = n.Message, n.attributes()
		outer := packed
		packed = unpack(attributes[attrHeaders].text)
		// Whoever wrote the body decides on no wait, no attempt and no reason.
		maps.DeleteFunc(packed, isReserved)
		maps.Copy(packed, outer)
		m.ID, m.Subject = n.MessageId, n.Subject
		if t, err := time.Parse(time.RFC3339Nano, n.Timestamp); err == nil {
			m.Time = t
		}
	}
	theirs := cmp.Or(m.ID, d.id)
	for name, a := range attributes {
		switch {
		case a.bytes != nil || isReserved(name, ""):
		case name == attrContentType:
			m.ContentType = clean(a.text)
		default:
			d.set(name, a.text)
		}
	}
	d.wait, d.attempt = waitOf(packed)
	for name, value := range packed {
		if !isReserved(name, "") || strings.HasPrefix(name, headersDead) {
			d.set(name, value)
		}
	}
	m.ID = cmp.Or(m.ID, d.id)
	if d.foreign = m.ID == theirs; d.foreign && m.Key == "" {
		m.Key = clean(d.group)
	}
	switch attributes[attrEncoding].text {
	case encodingEmpty:
	case encodingBase64:
		payload, err := base64.StdEncoding.DecodeString(body)
		if err != nil { // another program's mistake; the handler may know what it means
			payload = []byte(body)
		}
		m.Payload = payload
	default:
		m.Payload = []byte(body)
	}
}

// waitOf returns what this package wrote into the headers of a message that is to
// wait for longer than SQS can keep it away.
func waitOf(packed map[string]string) (wait time.Duration, attempt int) {
	ms, err := strconv.ParseInt(packed[headerWait], 10, 64)
	if err != nil || ms <= 0 || ms > maxDelay.Milliseconds() {
		return 0, 0
	}
	attempt, err = strconv.Atoi(packed[headerAttempt])
	if err != nil || attempt < 1 || attempt > 1<<20 {
		return 0, 0
	}
	return time.Duration(ms) * time.Millisecond, attempt
}

// attempts returns which attempt the delivery of d is. The receives of one that was
// put off, one for each time that SQS had kept it away for as long as it can, were
// none.
func (d *received) attempts() int {
	if d.wait == 0 {
		return d.receives
	}
	puttings := int((d.wait + longestStay - 1) / longestStay)
	return d.attempt + max(0, d.receives-1-puttings)
}

// rest returns how long after now d is due.
func (d *received) rest(now time.Time) time.Duration {
	if d.wait == 0 || d.sent.IsZero() {
		return 0
	}
	return max(0, d.wait-now.Sub(d.sent))
}

// set takes an attribute of the message, or a header.
func (d *received) set(name, value string) {
	m := &d.message
	value = clean(value)
	if ce, ok := strings.CutPrefix(name, cePrefix); ok {
		if m.SetAttribute(ce, value) {
			return
		}
		name = ce
		if _, twice := m.Headers[name]; twice {
			return
		}
	}
	if !isName(name) {
		return
	}
	if m.Headers == nil {
		m.Headers = map[string]string{}
	}
	m.Headers[name] = value
}

// delivery returns what a subscriber gets, which shares no memory with d.
func (d *received) delivery(s messaging.Subscription) *messaging.Delivery {
	m := d.message.Clone()
	out := &messaging.Delivery{Topic: s.Topic, Group: s.Group, Attempt: d.attempts(), Redelivered: d.receives > 1}
	if s.DeadLetters {
		out.Attempt = 1
		if d.byRedrive { // whatever was said of it before
			maps.DeleteFunc(m.Headers, isOfDeath)
			if m.Headers == nil {
				m.Headers = map[string]string{}
			}
			maps.Copy(m.Headers, messaging.DeadHeaders(
				&messaging.Delivery{Topic: s.Topic, Group: s.Group, Attempt: maxReceives}, messaging.Verdict{Reason: reasonReceives}, d.sent))
		}
	} else {
		// Moved back by another tool than this package, it is no dead letter any more.
		maps.DeleteFunc(m.Headers, isOfDeath)
	}
	out.Message = m
	return out
}

// isOfDeath reports whether a header says why a dead letter is one.
func isOfDeath(name, _ string) bool { return strings.HasPrefix(name, headersDead) }

// A notification is what SNS makes of a message for a subscription without raw
// delivery.
type notification struct {
	Type, MessageId, TopicArn, Subject, Message, Timestamp string
	MessageAttributes                                      map[string]struct{ Type, Value string }
}

// notice returns the notification that the body of d is, or nil. One comes without
// attributes, save what this package adds to a dead letter, and what this package
// sends has some.
func notice(d *received) *notification {
	if _, ok := d.attributes[attrHeaders]; len(d.attributes) > 1 || len(d.attributes) == 1 && !ok {
		return nil
	}
	if !strings.HasPrefix(strings.TrimLeft(d.body, " \t\r\n"), "{") {
		return nil
	}
	var n notification
	if json.Unmarshal([]byte(d.body), &n) != nil || n.Type != "Notification" || n.TopicArn == "" || n.MessageId == "" {
		return nil
	}
	return &n
}

// attributes returns those of the message inside.
func (n *notification) attributes() map[string]attribute {
	all := make(map[string]attribute, len(n.MessageAttributes))
	for name, a := range n.MessageAttributes {
		if strings.HasPrefix(a.Type, "Binary") {
			b, _ := base64.StdEncoding.DecodeString(a.Value)
			all[name] = attribute{kind: a.Type, bytes: append([]byte{}, b...)}
			continue
		}
		all[name] = attribute{kind: a.Type, text: a.Value}
	}
	return all
}

// isName reports whether name may be that of a Message's header.
func isName(name string) bool {
	for i, r := range name {
		if !isAlnum(r) && (i == 0 || r != '-' && r != '_' && r != '.') {
			return false
		}
	}
	return 0 < len(name) && len(name) <= 128
}

// clean makes s fit to be published again.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
