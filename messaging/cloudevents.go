package messaging

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// CloudEventsJSON is the ContentType of a message whose payload is a whole event
// in the JSON format of CloudEvents 1.0, which is called structured mode.
const CloudEventsJSON = "application/cloudevents+json"

// reservedPrefix begins the names of headers that are this package's own.
const reservedPrefix = "msg-"

// The members of the JSON format that hold the payload (its §3.1).
const (
	memberData   = "data"
	memberBase64 = "data_base64"
)

// CloudEvents is a [Middleware] that unpacks events in structured mode, so that
// one handler serves both modes: what comes with the ContentType
// [CloudEventsJSON] reaches next as the event itself, with its attributes, its
// data as Payload, and its extensions among the Headers, before those that the
// broker carried. All other messages pass as they are. List it first, so that
// tracing and inboxes see the event's own ID. What is no valid event is
// dead-lettered at once, with [ReasonDecode].
//
// Dead letters and retries keep the message as it was published. Lanes are chosen
// before, by the Key that the broker carried: order by a partitionkey that stands
// in the event alone is not kept.
func CloudEvents(next Handler) Handler {
	if next == nil {
		return nil
	}
	return func(ctx context.Context, d *Delivery) error {
		if mediaType(d.ContentType) != CloudEventsJSON {
			return next(ctx, d)
		}
		m, err := UnmarshalCloudEvent(d.Payload)
		if err != nil {
			return &markedError{err: err, reason: ReasonDecode}
		}
		if m.Key == "" {
			m.Key = d.Key
		}
		m.Headers = over(d.Headers, m.Headers)
		d.Message = m
		return next(ctx, d)
	}
}

// over returns the headers of both, those of top where both have one.
func over(base, top map[string]string) map[string]string {
	if len(base) == 0 {
		return top
	}
	both := maps.Clone(base)
	maps.Copy(both, top)
	return both
}

// Structured returns m in structured mode: a message with the same ID, Type,
// Source, Subject, Time and Key whose payload is m as a CloudEvent, for brokers or
// receivers that carry no headers. Headers whose names a CloudEvent can have as
// extensions become such; the others stay. The error is an [ErrInvalid], see
// [MarshalCloudEvent].
func Structured(m Message) (Message, error) {
	out := m
	inside := make(map[string]string, len(m.Headers))
	out.Headers = make(map[string]string)
	for name, value := range m.Headers {
		if isExtension(name) {
			inside[name] = value
		} else {
			out.Headers[name] = value
		}
	}
	m.Headers = inside
	payload, err := MarshalCloudEvent(m)
	if err != nil {
		return Message{}, err
	}
	out.Payload, out.ContentType = payload, CloudEventsJSON
	return out, nil
}

// MarshalCloudEvent returns m in the JSON format of CloudEvents 1.0, for the body
// of an HTTP request of type [CloudEventsJSON], for one. The Key is the
// partitionkey, and Headers are extensions, save those that begin with "msg-",
// which are left out. A payload of JSON stands in the event as it is, text of the
// types text/… in UTF-8 as a string, and all else in base64.
//
// The error is an [ErrInvalid] that says all that is wrong: ID, Source or Type is
// empty, Source is no URI reference, a header has a name of other than lower-case
// letters and digits or that of an attribute, a value is not UTF-8 or contains
// control characters, or Time is outside the years 0 to 9999.
func MarshalCloudEvent(m Message) ([]byte, error) {
	if faults := checkEvent(&m); len(faults) > 0 {
		return nil, fmt.Errorf("%w: CloudEvent: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	var w eventWriter
	for name, value := range m.Attributes() {
		w.text(name, value)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		if !strings.HasPrefix(name, reservedPrefix) {
			w.text(name, m.Headers[name])
		}
	}
	switch {
	case len(m.Payload) == 0:
	case isJSON(m.ContentType) && utf8.Valid(m.Payload) && json.Valid(m.Payload):
		w.member(memberData, m.Payload)
	case isText(m.ContentType) && utf8.Valid(m.Payload):
		w.text(memberData, string(m.Payload))
	default:
		w.text(memberBase64, base64.StdEncoding.EncodeToString(m.Payload))
	}
	w.buf.WriteByte('}')
	return w.buf.Bytes(), nil
}

// checkEvent says why m cannot be a CloudEvent.
func checkEvent(m *Message) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, a := range [...]struct{ field, value string }{{"ID", m.ID}, {"Source", m.Source}, {"Type", m.Type}} {
		if a.value == "" {
			fault("%s is empty, and required", a.field)
		}
	}
	if _, err := url.Parse(m.Source); err != nil {
		fault("Source is no URI reference: %v", errors.Unwrap(err))
	}
	if !isDatable(m.Time) {
		fault("Time is in the year %d, outside 0..9999", m.Time.UTC().Year())
	}
	for name, value := range m.Attributes() {
		if !isAttributeText(value) {
			fault("the attribute %s is not UTF-8 or contains control characters", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		switch {
		case strings.HasPrefix(name, reservedPrefix):
		case !isExtension(name):
			fault("the header %q cannot be an extension, whose name is of lower-case letters and digits and not that of an attribute: rename it, or see Structured", clip(name, maxName))
		case !isAttributeText(m.Headers[name]):
			fault("the header %s is not UTF-8 or contains control characters", name)
		}
	}
	return faults
}

// An eventWriter writes a JSON object member by member. Its zero value is ready
// for use.
type eventWriter struct{ buf bytes.Buffer }

func (w *eventWriter) member(name string, value []byte) {
	if w.buf.Len() == 0 {
		w.buf.WriteByte('{')
	} else {
		w.buf.WriteByte(',')
	}
	w.buf.WriteString(`"` + name + `":`) // names are checked: they need no escape
	w.buf.Write(value)
}

func (w *eventWriter) text(name, value string) {
	quoted, _ := json.Marshal(value) // of a string never fails
	w.member(name, quoted)
}

// mediaType returns the type of a ContentType without its parameters, in lower
// case.
func mediaType(contentType string) string {
	typ, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(typ))
}

// isJSON reports whether a ContentType declares JSON (JSON format §3.1.1).
func isJSON(contentType string) bool {
	_, sub, ok := strings.Cut(mediaType(contentType), "/")
	return ok && (sub == "json" || strings.HasSuffix(sub, "+json"))
}

// isText reports whether a ContentType declares text in UTF-8.
func isText(contentType string) bool {
	typ, params, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(params["charset"])
	return err == nil && strings.HasPrefix(typ, "text/") && (charset == "" || charset == "utf-8" || charset == "us-ascii")
}

// isExtension reports whether a CloudEvent can have an extension of this name:
// lower-case letters and digits, and not a name that has a meaning already.
func isExtension(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	var m Message
	return name != "" && name != memberData && !m.SetAttribute(name, "")
}

// isAttributeText reports whether s may be the value of an attribute: a string
// of Unicode without control characters.
func isAttributeText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || 0x7f <= r && r <= 0x9f }) < 0
}
