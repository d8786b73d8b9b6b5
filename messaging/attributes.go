package messaging

import (
	"iter"
	"time"
)

// The attributes of CloudEvents 1.0 that a Message has fields for. Every binding
// carries them under these names behind a prefix of its own.
const (
	attrSpecVersion = "specversion"
	attrID          = "id"
	attrSource      = "source"
	attrType        = "type"
	attrSubject     = "subject"
	attrTime        = "time"
	attrContentType = "datacontenttype"
	attrKey         = "partitionkey" // of the partitioning extension

	specVersion = "1.0"
)

// Attributes yields the CloudEvents 1.0 attributes of m by name, in a fixed
// order: specversion, and id, source, type, subject, time, partitionkey (the Key)
// and datacontenttype (the ContentType) where they are set. Time is in RFC 3339
// form, in UTC.
//
// It is for those who carry messages in binary mode: they put the prefix of their
// binding before each name ("ce_" for Kafka, "cloudEvents_" for AMQP, "ce-" for
// HTTP and NATS) save for datacontenttype, for which bindings have a header of
// their own. Headers travel under their own names beside them.
func (m *Message) Attributes() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		at := ""
		if !m.Time.IsZero() {
			at = m.Time.UTC().Format(time.RFC3339Nano)
		}
		for _, a := range [...]struct{ name, value string }{
			{attrSpecVersion, specVersion},
			{attrID, m.ID},
			{attrSource, m.Source},
			{attrType, m.Type},
			{attrSubject, m.Subject},
			{attrTime, at},
			{attrKey, m.Key},
			{attrContentType, m.ContentType},
		} {
			if a.value != "" && !yield(a.name, a.value) {
				return
			}
		}
	}
}

// isDatable reports whether t can be written in RFC 3339 form, which has the years 0
// to 9999. It asks for seconds, because a year takes a division or two.
func isDatable(t time.Time) bool {
	const first, end = -62_167_219_200, 253_402_300_800 // when the years 0 and 10000 begin
	return first <= t.Unix() && t.Unix() < end
}

// SetAttribute sets the field of m that holds the CloudEvents attribute of this
// name, and reports whether there is one; an extension attribute, for which there
// is none, belongs into Headers. It is the reverse of [Message.Attributes], and
// takes what any program may have sent: a time that is not in RFC 3339 form
// leaves Time as it is, and a specversion changes nothing.
func (m *Message) SetAttribute(name, value string) bool {
	switch name {
	case attrSpecVersion:
	case attrID:
		m.ID = value
	case attrSource:
		m.Source = value
	case attrType:
		m.Type = value
	case attrSubject:
		m.Subject = value
	case attrTime:
		if t, err := time.Parse(time.RFC3339Nano, value); err == nil {
			m.Time = t
		}
	case attrKey:
		m.Key = value
	case attrContentType:
		m.ContentType = value
	default:
		return false
	}
	return true
}
