package rabbitmq

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// Headers that this package adds. Receivers see only those of dead letters.
const (
	reserved      = "msg-"
	headerSeq     = "msg-seq"     // finds the call again to which a returned message belongs
	headerAttempt = "msg-attempt" // Delivery.Attempt; none means 1
	headerWait    = "msg-wait"    // milliseconds still to wait when the message leaves its rung

	headersDead = "msg-dlq-" // begins those of messaging.DeadHeaders
)

// Headers for attributes that have no AMQP property, or do not fit in it. The
// names are those of the CloudEvents binding for AMQP.
const (
	ceSpecVersion = "cloudEvents_specversion"
	ceID          = "cloudEvents_id"
	ceType        = "cloudEvents_type"
	ceSource      = "cloudEvents_source"
	ceSubject     = "cloudEvents_subject"
	ceTime        = "cloudEvents_time"
	ceKey         = "cloudEvents_partitionkey"
	ceContentType = "cloudEvents_datacontenttype"
)

// maxAttempt and maxWait bound what this package writes into headerAttempt and
// headerWait. Other values are not its own, and are not believed.
const (
	maxAttempt = 1 << 20
	maxWait    = 366 * 24 * time.Hour
)

// maxShort is what an AMQP property or routing key holds, in bytes.
const maxShort = 255

// check refuses what AMQP or RabbitMQ keeps for itself.
func check(topic string, m *messaging.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	for name := range m.Headers {
		if isAttribute(name) {
			return fmt.Errorf("%w: the header %s carries a field of Message: set that field", messaging.ErrInvalid, name)
		}
		if isBrokers(name) || isCopies(name) {
			return fmt.Errorf("%w: the header name %s has a meaning of its own to RabbitMQ: choose another", messaging.ErrInvalid, name)
		}
	}
	return nil
}

// routingKey returns the Type of m, by which programs other than this package
// may bind their queues to a topic.
func routingKey(m *messaging.Message) string {
	if len(m.Type) > maxShort {
		return ""
	}
	return m.Type
}

// encode returns m as AMQP has it, sharing no memory with m: attributes are
// properties where AMQP has one, and headers where it has none or the value is
// too long for it. What has all that CloudEvents 1.0 requires is an event in
// binary mode: its receivers look for these attributes among the headers alone.
func encode(m *messaging.Message, source string) amqp.Publishing {
	headers := make(amqp.Table, len(m.Headers)+7)
	for name, value := range m.Headers {
		if !strings.HasPrefix(name, reserved) {
			headers[name] = value
		}
	}
	set := func(name, value string) {
		if value != "" {
			headers[name] = value
		}
	}
	property := func(name, value string) string {
		if len(value) <= maxShort {
			return value
		}
		headers[name] = value
		return ""
	}
	if m.Source != "" {
		source = m.Source
	}
	if m.ID != "" && m.Type != "" && source != "" {
		headers[ceSpecVersion], headers[ceID], headers[ceType] = "1.0", m.ID, m.Type
	}
	set(ceSource, source)
	set(ceSubject, m.Subject)
	set(ceKey, m.Key)
	if !m.Time.IsZero() { // the property holds whole seconds only
		set(ceTime, m.Time.UTC().Format(time.RFC3339Nano))
	}
	return amqp.Publishing{
		Headers:      headers,
		DeliveryMode: amqp.Persistent,
		MessageId:    property(ceID, m.ID),
		Type:         property(ceType, m.Type),
		ContentType:  property(ceContentType, m.ContentType),
		Timestamp:    m.Time,
		Body:         bytes.Clone(m.Payload),
	}
}

// decode returns d as this library has it, and what is left of its delay. It
// reads what any AMQP program may have published: what is not text becomes text
// or, for lists and tables, is left out, and so are headers whose names no
// Message can have; CloudEvents extensions become headers of their names. What it
// says of its attempt and its wait counts only when it
// comes over the default exchange, as retries do: what is published to the topic
// begins anew.
func decode(d *amqp.Delivery, topic, group string) (msg *messaging.Delivery, rest time.Duration) {
	headers := canonical(d.Headers)
	m := messaging.Message{
		ID:          clean(d.MessageId),
		Type:        clean(d.Type),
		ContentType: clean(d.ContentType),
		Time:        d.Timestamp,
		Payload:     bytes.Clone(d.Body), // the receiver may change it, and a successor must not
	}
	for name, field := range headers {
		value, ok := text(field)
		if !ok {
			continue
		}
		attribute, isCE := strings.CutPrefix(name, cePrefix)
		if isCE && m.SetAttribute(attribute, value) {
			continue
		}
		if _, twice := headers[attribute]; isCE && twice {
			continue // a header of the extension's own name wins
		}
		own := strings.HasPrefix(attribute, reserved) && (isCE || !strings.HasPrefix(attribute, headersDead))
		if own || isBrokers(attribute) || !isName(attribute) {
			continue
		}
		if m.Headers == nil {
			m.Headers = make(map[string]string, len(headers))
		}
		m.Headers[attribute] = value
	}
	if m.ID == "" {
		m.ID = synthesise(d)
	}
	msg = &messaging.Delivery{Message: m, Topic: topic, Group: group, Redelivered: d.Redelivered, Attempt: 1}
	if d.Exchange != "" {
		return msg, 0
	}
	msg.Attempt = attemptOf(headers)
	if ms := number(headers[headerWait]); 0 < ms && ms <= maxWait.Milliseconds() {
		rest = time.Duration(ms) * time.Millisecond
	}
	return msg, rest
}

// attemptOf returns the attempt that headers tell, 1 where they tell none.
func attemptOf(headers amqp.Table) int {
	if n := number(headers[headerAttempt]); 1 <= n && n <= maxAttempt {
		return int(n)
	}
	return 1
}

// again returns the successor of d for its next attempt.
func again(d *amqp.Delivery, attempt int, rest time.Duration) amqp.Publishing {
	p := successor(d)
	p.Headers[headerAttempt] = int64(min(attempt, maxAttempt))
	if rest > 0 {
		p.Headers[headerWait] = (min(rest, maxWait) + time.Millisecond - 1).Milliseconds()
	}
	return p
}

// dead returns the successor of d among the dead letters. It says nothing of its
// attempt but why it is there: moved back to its queue, by whatever tool, it has
// all attempts again.
func dead(d *amqp.Delivery, s messaging.Subscription, v messaging.Verdict, attempt int, now time.Time) amqp.Publishing {
	p := successor(d)
	why := messaging.DeadHeaders(&messaging.Delivery{Topic: s.Topic, Group: s.Group, Attempt: attempt}, v, now)
	for name, value := range why {
		p.Headers[name] = value
	}
	return p
}

// still returns the successor of a dead letter that stays one, for the reasons it
// has.
func still(d *amqp.Delivery) amqp.Publishing {
	p := successor(d)
	for name, field := range d.Headers {
		if strings.HasPrefix(name, headersDead) {
			p.Headers[name] = field
		}
	}
	return p
}

// explain gives a dead letter that RabbitMQ has set aside by itself the headers of
// any other. RabbitMQ says why in a header x-death.
func explain(d *amqp.Delivery, s messaging.Subscription) {
	if _, ok := d.Headers[messaging.HeaderDeadReason]; ok {
		return
	}
	deaths, _ := d.Headers["x-death"].([]any)
	if len(deaths) == 0 {
		return
	}
	death, _ := deaths[0].(amqp.Table) // the latest
	reason, _ := text(death["reason"])
	at, _ := death["time"].(time.Time)
	attempt := 1
	if exchange, _ := text(death["exchange"]); exchange == "" { // as in decode
		attempt = attemptOf(d.Headers)
	}
	why := messaging.DeadHeaders(&messaging.Delivery{Topic: s.Topic, Group: s.Group, Attempt: attempt}, messaging.Verdict{Reason: reason}, at)
	for name, value := range why {
		d.Headers[name] = value
	}
}

// successor returns d as it was published, with what RabbitMQ added and what
// would steer the copy elsewhere taken off.
func successor(d *amqp.Delivery) amqp.Publishing {
	headers := canonical(d.Headers)
	p := amqp.Publishing{
		Headers:         copyHeaders(headers),
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp.Persistent,
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		AppId:           d.AppId,
		Body:            d.Body,
	}
	if attribute(headers, ceID, d.MessageId) == "" {
		p.MessageId = synthesise(d) // the copy has another routing key
	}
	return p
}

// maxCopied bounds the headers of a successor. They travel in one frame of at
// most 128 KiB, together with those that this package adds; a frame that is too
// large ends the connection.
const maxCopied = 112 << 10

// copyHeaders returns the headers of a delivery that its successor keeps.
func copyHeaders(headers amqp.Table) amqp.Table {
	kept := make(amqp.Table, len(headers)+4)
	left := maxCopied
	for name, field := range headers {
		if strings.HasPrefix(name, reserved) || isBrokers(name) || isCopies(name) {
			continue
		}
		if left -= len(name) + size(field) + 8; left < 0 || (amqp.Table{name: field}).Validate() != nil {
			continue
		}
		kept[name] = field
	}
	return kept
}

// size returns about how many bytes field takes in a frame, rather too many.
func size(field any) int {
	n := 16
	switch v := field.(type) {
	case string:
		n += len(v)
	case []byte:
		n += len(v)
	case []any:
		for _, e := range v {
			n += size(e)
		}
	case amqp.Table:
		for name, e := range v {
			n += len(name) + size(e)
		}
	}
	return n
}

// isAttribute reports whether a header carries an attribute.
func isAttribute(name string) bool {
	switch name {
	case ceID, ceType, ceSource, ceSubject, ceTime, ceKey, ceContentType:
		return true
	}
	return false
}

// isBrokers reports whether RabbitMQ sets a header when it hands a message from
// queue to queue, or back.
func isBrokers(name string) bool {
	return name == "x-death" || name == "x-delivery-count" || name == "x-acquired-count" ||
		strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-")
}

// isCopies reports whether a header names queues to which RabbitMQ sends copies.
func isCopies(name string) bool { return name == "CC" || name == "BCC" }

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

// attribute returns the text of a header, or that of the property where there is
// no such header.
func attribute(headers amqp.Table, name, property string) string {
	if value, ok := text(headers[name]); ok {
		return value
	}
	return clean(property)
}

// text returns the value of a header as text.
func text(field any) (string, bool) {
	switch v := field.(type) {
	case string:
		return clean(v), true
	case []byte:
		return clean(string(v)), true
	case bool, int, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64:
		return fmt.Sprint(v), true
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano), true
	}
	return "", false
}

// number returns the value of a header as a number, 0 where it is none.
func number(field any) int64 {
	if s, ok := text(field); ok {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
	}
	return 0
}

// clean makes s fit to be published again.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
