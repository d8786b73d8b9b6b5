package sqs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parley-go/parley/messaging"
)

// Attributes that this package sets. Those of a Message are "ce_" and their name by
// CloudEvents, save for the content type.
const (
	cePrefix        = "ce_"
	attrContentType = "content-type"
	// attrHeaders holds in JSON all headers, and what no attribute of SQS can: a
	// message has ten at most.
	attrHeaders = "msg-headers"
	// attrEncoding says how the body stands for the payload, if not as it is.
	attrEncoding   = "msg-encoding"
	encodingBase64 = "base64"
	encodingEmpty  = "empty" // for a body must not be

	// headerWait is how many milliseconds after it was sent a message is due, where
	// that is longer than SQS can keep it away, and headerAttempt the attempt that
	// follows. They are among the headers.
	headerWait    = "msg-wait"
	headerAttempt = "msg-attempt"

	ceContentType = "datacontenttype" // as messaging.Message.Attributes has it
	ceKey         = cePrefix + "partitionkey"
	ceID          = cePrefix + "id"

	reserved    = "msg-"
	headersDead = "msg-dlq-" // begins those of messaging.DeadHeaders

	maxAttributes = 10
)

// An entry is a message as SQS and SNS have it.
type entry struct {
	body       string
	attributes map[string]attribute
	group      string // the ordering unit, on FIFO queues alone
	once       string // what SQS tells duplicates by, on FIFO queues alone
}

// An attribute is one of SQS or SNS.
type attribute struct {
	kind  string // String, Number or Binary, with what may follow
	text  string
	bytes []byte
}

func textAttribute(text string) attribute { return attribute{kind: "String", text: text} }

// size returns how many bytes e counts for: what SQS limits is the body and the
// names, types and values of the attributes together.
func (e *entry) size() int {
	n := len(e.body)
	for name, a := range e.attributes {
		n += len(name) + len(a.kind) + len(a.text) + len(a.bytes)
	}
	return n
}

// encode returns m as SQS has it. Programs that use SQS directly see the payload as
// the body, where it is text, and the attributes of the CloudEvent.
func (c *Config) encode(m *messaging.Message) (entry, error) {
	e := entry{attributes: make(map[string]attribute, maxAttributes)}
	packed := make(map[string]string, len(m.Headers))
	for name, value := range m.Headers {
		if !strings.HasPrefix(name, reserved) {
			packed[name] = value
		}
	}
	out := *m
	if out.Source == "" {
		out.Source = c.Source
	}
	for name, value := range out.Attributes() {
		switch {
		case !isText(value):
			packed[cePrefix+name] = value
		case name == ceContentType:
			e.attributes[attrContentType] = textAttribute(value)
		default:
			e.attributes[cePrefix+name] = textAttribute(value)
		}
	}
	if len(packed) > 0 {
		e.attributes[attrHeaders] = textAttribute(pack(packed))
	}
	switch {
	case len(m.Payload) == 0:
		e.body = "-"
		e.attributes[attrEncoding] = textAttribute(encodingEmpty)
	case isText(string(m.Payload)):
		e.body = string(m.Payload)
	case len(m.Payload) > c.maxPayload():
		return entry{}, fmt.Errorf("%w: the payload has %d bytes that are not text, the limit is %d", messaging.ErrTooLarge, len(m.Payload), c.maxPayload())
	default:
		e.body = base64.StdEncoding.EncodeToString(m.Payload)
		e.attributes[attrEncoding] = textAttribute(encodingBase64)
	}
	if n := e.size(); n > c.MessageLimit {
		return entry{}, fmt.Errorf("%w: body and attributes take %d bytes, the limit is %d: send a reference to the data, or raise Config.MessageLimit", messaging.ErrTooLarge, n, c.MessageLimit)
	}
	if c.FIFO {
		// Two sources may number what they send alike, and both are to be stored.
		e.once, e.group = token((&messaging.Delivery{Message: out}).InboxID()), groupOf(m)
	}
	return e, nil
}

// successor returns what d came as, to be sent again: the body as it was, the same
// attributes, and more among the headers in place of what this package added before. The
// ID that a message of another program got from SQS stays with it. Once tells
// this move of this copy from all others, so that it is carried out once though it is
// tried again.
func successor(d *received, more map[string]string, once string) entry {
	e := entry{body: d.body, attributes: maps.Clone(d.attributes), group: d.group, once: token(once)}
	if e.attributes == nil {
		e.attributes = map[string]attribute{}
	}
	packed := unpack(e.attributes[attrHeaders].text)
	maps.DeleteFunc(packed, isReserved)
	maps.Copy(packed, more)
	if d.foreign {
		packed[ceID] = d.message.ID
		if d.message.Key != "" {
			packed[ceKey] = d.message.Key
		}
	}
	delete(e.attributes, attrHeaders)
	if len(packed) == 0 {
		return e
	}
	if len(e.attributes) == maxAttributes {
		makeRoom(e.attributes, packed)
	}
	e.attributes[attrHeaders] = textAttribute(pack(packed))
	return e
}

// makeRoom moves one of another program's ten attributes among the headers, where it
// is read alike; only if there is no such one, one that is binary.
func makeRoom(attributes map[string]attribute, packed map[string]string) {
	for _, binary := range []bool{false, true} {
		for _, name := range slices.Sorted(maps.Keys(attributes)) {
			a := attributes[name]
			if (a.bytes != nil) != binary || name == attrContentType || isReserved(name, "") {
				continue
			}
			if packed[name] = a.text; binary {
				packed[name] = base64.StdEncoding.EncodeToString(a.bytes)
			}
			delete(attributes, name)
			return
		}
	}
}

// isReserved reports whether an attribute or a header is this library's own.
func isReserved(name, _ string) bool { return strings.HasPrefix(name, reserved) }

// pack returns headers as JSON of characters that SQS takes.
func pack(headers map[string]string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(headers) // of strings never fails
	// The two characters that JSON leaves as they are and XML 1.0 has not.
	return strings.NewReplacer("\uFFFE", `\ufffe`, "\uFFFF", `\uffff`).Replace(strings.TrimSuffix(b.String(), "\n"))
}

// unpack is the reverse of pack. What is not of this form holds no header.
func unpack(text string) map[string]string {
	headers := map[string]string{}
	if text != "" && json.Unmarshal([]byte(text), &headers) != nil {
		return map[string]string{}
	}
	if headers == nil { // of "null"
		return map[string]string{}
	}
	return headers
}

// isText reports whether SQS takes s as it is: characters of XML 1.0 (its §2.2), at
// least one.
func isText(s string) bool {
	for i, r := range s {
		switch {
		case r >= 0x20 && r < 0xFFFD, r == '\t', r == '\n', r == '\r', r > 0xFFFF:
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		default:
			return false
		}
	}
	return s != ""
}

// groupOf returns the ordering unit of m.
func groupOf(m *messaging.Message) string {
	if m.Key != "" {
		return token(m.Key)
	}
	return token(m.ID)
}
