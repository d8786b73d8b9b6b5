package kafka

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// Headers that this package adds. Receivers see only those of dead letters.
const (
	reserved      = "msg-"
	headerAttempt = "msg-attempt" // Delivery.Attempt; none means 1
	headerDue     = "msg-due"     // when it may leave its rung, in milliseconds since 1970
	headerWait    = "msg-wait"    // milliseconds still to wait when it leaves its rung

	headersDead = "msg-dlq-" // begins those of messaging.DeadHeaders
)

// Names of the CloudEvents binding for Kafka, in binary mode.
const (
	cePrefix          = "ce_"
	ceSpecVersion     = "specversion"
	ceContentType     = "datacontenttype" // whose header is contentType
	headerContentType = "content-type"
)

// maxAttempt and maxWait bound what this package writes into its headers. Other
// values are not its own, and are not believed.
const (
	maxAttempt = 1 << 20
	maxWait    = 366 * 24 * time.Hour
)

// encode makes o the record of m, sharing no memory with m but its texts. All its
// bytes are in one piece, because the client holds the record until Kafka has it.
func (o *outgoing) encode(topic string, m *messaging.Message, source string) {
	event := *m
	if event.Source == "" {
		event.Source = source
	}
	// Without these it is no CloudEvent, and must not say that it is one.
	isEvent := event.ID != "" && event.Type != "" && event.Source != ""
	size := len(m.Key) + len(m.Payload) + len(event.ID) + len(event.Source) + len(m.Type) + len(m.Subject) + len(m.Key) + len(m.ContentType) +
		len("1.0") + len(time.RFC3339Nano)
	for _, value := range m.Headers {
		size += len(value)
	}
	buf := o.buf[:0]
	if cap(buf) < size {
		buf = make([]byte, 0, size)
	}
	piece := func(from int) []byte { return buf[from:len(buf):len(buf)] }
	headers := o.room[:0]
	if at := event.Time; !at.IsZero() { // as Attributes has it, without a string of its own
		buf = at.UTC().AppendFormat(buf, time.RFC3339Nano)
		headers = append(headers, kgo.RecordHeader{Key: "ce_time", Value: piece(0)})
		event.Time = time.Time{}
	}
	add := func(name, value string) {
		from := len(buf)
		buf = append(buf, value...)
		headers = append(headers, kgo.RecordHeader{Key: name, Value: piece(from)})
	}
	for name, value := range event.Attributes() {
		switch {
		case name == ceSpecVersion && !isEvent:
		case name == ceContentType:
			add(headerContentType, value)
		default:
			add(ceHeader(name), value)
		}
	}
	for name, value := range m.Headers {
		if !strings.HasPrefix(name, reserved) {
			add(name, value)
		}
	}
	o.rec = kgo.Record{Topic: topic, Headers: headers}
	if m.Key != "" {
		buf = append(buf, m.Key...)
		o.rec.Key = piece(len(buf) - len(m.Key))
	}
	// Never nil: without a value it would be a tombstone, which deletes its key.
	buf = append(buf, m.Payload...)
	o.rec.Value = piece(len(buf) - len(m.Payload))
	o.buf = buf
}

// ceHeader returns the header of an attribute. The names that every message has
// are there already, ready made.
func ceHeader(attribute string) string {
	switch attribute {
	case "specversion":
		return "ce_specversion"
	case "id":
		return "ce_id"
	case "source":
		return "ce_source"
	case "type":
		return "ce_type"
	case "subject":
		return "ce_subject"
	case "time":
		return "ce_time"
	case "partitionkey":
		return "ce_partitionkey"
	}
	return cePrefix + attribute
}

// due returns when a record may leave its rung: the zero time for one that does
// not say, and no later than latest. What is there now was put there before, so
// nothing waits for longer from now than the rung's delay; who says otherwise has
// a clock that is ahead, and would hold up all that come after.
func due(rec *kgo.Record, latest time.Time) time.Time {
	for i := range rec.Headers {
		if h := &rec.Headers[i]; h.Key == headerDue {
			if ms, ok := number(h.Value); ok {
				if at := time.UnixMilli(ms); at.Before(latest) {
					return at
				}
				return latest
			}
		}
	}
	return time.Time{}
}

// successor returns rec as it was published, without what this package added, for
// another topic.
func successor(rec *kgo.Record, topic string, keep func(name string) bool) *kgo.Record {
	next := &kgo.Record{Topic: topic, Key: rec.Key, Value: rec.Value, Headers: make([]kgo.RecordHeader, 0, len(rec.Headers)+8)}
	hasID := false
	for _, h := range rec.Headers {
		if strings.HasPrefix(h.Key, reserved) && !keep(h.Key) {
			continue
		}
		hasID = hasID || h.Key == "ce_id" && len(h.Value) > 0
		next.Headers = append(next.Headers, h)
	}
	if !hasID { // the copy has another offset
		setHeader(next, "ce_id", synthesise(rec))
		setHeader(next, "ce_time", rec.Timestamp.UTC().Format(time.RFC3339Nano))
	}
	return next
}

// again returns the successor of rec for its next attempt, in a rung that it
// leaves at due.
func again(rec *kgo.Record, topic string, attempt int, due time.Time, rest time.Duration) *kgo.Record {
	next := successor(rec, topic, func(string) bool { return false })
	if attempt > 1 {
		setHeader(next, headerAttempt, strconv.Itoa(min(attempt, maxAttempt)))
	}
	if !due.IsZero() {
		setHeader(next, headerDue, strconv.FormatInt(due.Add(time.Millisecond-1).UnixMilli(), 10))
	}
	if rest > 0 {
		setHeader(next, headerWait, strconv.FormatInt((min(rest, maxWait)+time.Millisecond-1).Milliseconds(), 10))
	}
	return next
}

// dead returns the successor of rec among the dead letters, with the headers why.
func dead(rec *kgo.Record, topic string, why map[string]string) *kgo.Record {
	next := successor(rec, topic, func(string) bool { return false })
	for name, value := range why {
		setHeader(next, name, value)
	}
	return next
}

// still returns the successor of a dead letter that stays one, for the reasons it
// has.
func still(rec *kgo.Record, topic string) *kgo.Record {
	return successor(rec, topic, func(name string) bool { return strings.HasPrefix(name, headersDead) })
}

func setHeader(rec *kgo.Record, name, value string) {
	rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
}

// synthesise returns an ID for a record that has none, the same each time that it
// is read, and another for each record.
func synthesise(rec *kgo.Record) string {
	return fmt.Sprintf("kafka-%s-%d-%d", rec.Topic, rec.Partition, rec.Offset)
}

// isName reports whether name may be that of a Message's header.
func isName(name string) bool {
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return 0 < len(name) && len(name) <= 128
}
