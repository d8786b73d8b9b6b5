package kafka

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// A decoder reads the records of one partition, one after the other.
type decoder struct {
	own bool // of a topic of the group, to which nobody publishes

	// What the last record had: the next has mostly the same, and need not hold it in
	// memory of its own.
	source, kind, contentType string
	second                    second

	// Room for what records have that is small, a few of them to a piece of memory.
	texts    strings.Builder
	payloads []byte
}

const (
	// shared is how large a piece of memory is that records share, one for texts and one
	// for payloads: who keeps either of one record keeps the piece. The runtime takes eight
	// of this size from its heap in one turn, and two of 4 KiB, so these cost less.
	shared = 3 << 10
	// small is how much of a record is put there at most.
	small = shared / 3
)

// text returns the text of a header, fit to be published again.
func (d *decoder) text(value []byte) string {
	if len(value) > small {
		return clean(string(value))
	}
	if d.texts.Cap()-d.texts.Len() < len(value) {
		d.texts.Reset() // what it was has its own memory from now on
		d.texts.Grow(shared)
	}
	from := d.texts.Len()
	d.texts.Write(value)
	return clean(d.texts.String()[from:])
}

// payload returns a copy of value: the receiver may change it, and a successor must
// not.
func (d *decoder) payload(value []byte) []byte {
	if len(value) > small {
		return slices.Clone(value)
	}
	if len(d.payloads) < len(value) {
		d.payloads = make([]byte, shared)
	}
	p := d.payloads[:len(value):len(value)]
	d.payloads = d.payloads[len(value):]
	copy(p, value)
	return p
}

// decode reads a record that any program may have published, into r, whose
// attempt, and what is left of its delay, count only in a topic of the group. What
// is not text becomes text; headers whose names no Message can have are left out;
// CloudEvents extensions become headers of their names.
func (d *decoder) decode(r *messaging.Delivery, rec *kgo.Record) (rest time.Duration) {
	m := &r.Message
	m.Payload = d.payload(rec.Value)
	r.Attempt = 1
	more := 0
	for i := range rec.Headers {
		h := &rec.Headers[i]
		switch h.Key {
		case "ce_specversion":
		case "ce_id":
			m.ID = d.text(h.Value)
		case "ce_partitionkey":
			m.Key = d.text(h.Value)
		case "ce_source":
			m.Source = repeated(&d.source, h.Value)
		case "ce_type":
			m.Type = repeated(&d.kind, h.Value)
		case headerContentType:
			m.ContentType = repeated(&d.contentType, h.Value)
		case "ce_time":
			if at, ok := d.second.read(h.Value); ok { // as SetAttribute has it
				m.Time = at
			}
		default:
			if attribute, ok := strings.CutPrefix(h.Key, cePrefix); ok && m.SetAttribute(attribute, d.text(h.Value)) {
				continue
			}
			more++
			if d.own {
				rest = max(rest, d.count(r, h))
			}
		}
	}
	if more > 0 {
		m.Headers = headersOf(rec, d.own)
	}
	if m.Key == "" && len(rec.Key) > 0 {
		m.Key = d.text(rec.Key)
	}
	if m.ID == "" {
		m.ID = synthesise(rec)
		if m.Time.IsZero() {
			m.Time = rec.Timestamp
		}
	}
	return rest
}

// count reads a header of this package into r, or returns it, if it is what is left
// of a delay.
func (*decoder) count(r *messaging.Delivery, h *kgo.RecordHeader) (rest time.Duration) {
	switch n, ok := number(h.Value); {
	case !ok:
	case h.Key == headerAttempt && 1 <= n && n <= maxAttempt:
		r.Attempt = int(n)
	case h.Key == headerWait && 0 < n && n <= maxWait.Milliseconds():
		return time.Duration(n) * time.Millisecond
	}
	return 0
}

// repeated returns the text of a header, which is that of last where they are equal,
// and becomes last if it is small.
func repeated(last *string, value []byte) string {
	if len(value) > small {
		return clean(string(value))
	}
	if string(value) != *last { // which copies nothing
		*last = clean(string(value))
	}
	return *last
}

// headersOf returns the headers of rec that are no attributes, or nil. Where a
// name occurs twice, the last wins, and a header of an extension's own name wins
// over the extension.
func headersOf(rec *kgo.Record, own bool) map[string]string {
	var headers map[string]string
	var probe messaging.Message
	put := func(name string, value []byte) {
		if headers == nil {
			headers = make(map[string]string, len(rec.Headers))
		}
		headers[name] = clean(string(value))
	}
	for _, h := range rec.Headers {
		attribute, ok := strings.CutPrefix(h.Key, cePrefix)
		if ok && !probe.SetAttribute(attribute, "") && isName(attribute) && !strings.HasPrefix(attribute, reserved) {
			put(attribute, h.Value)
		}
	}
	for _, h := range rec.Headers {
		mine := strings.HasPrefix(h.Key, reserved) && (!own || !strings.HasPrefix(h.Key, headersDead))
		if h.Key == headerContentType || strings.HasPrefix(h.Key, cePrefix) || mine || !isName(h.Key) {
			continue
		}
		put(h.Key, h.Value)
	}
	return headers
}

// number returns the value of a header as a number, and whether it is one.
func number(value []byte) (int64, bool) {
	if len(value) > 20 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil
}

// clean returns s, fit to be published again.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
