package messaging

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// UnmarshalCloudEvent returns the event that data is, in the JSON format of
// CloudEvents 1.0: the reverse of [MarshalCloudEvent]. It shares no memory with
// data. Extensions become Headers, numbers and booleans as text; data without a
// datacontenttype is application/json.
//
// The error is an [ErrInvalid] that says what is wrong, or [ErrTooLarge] when
// attributes and extensions take more than [MaxHeaderBytes]. The event's payload
// is shorter than data, so a bound on what is read bounds it.
func UnmarshalCloudEvent(data []byte) (Message, error) {
	var e eventReader
	switch err := e.read(data); {
	case errors.Is(err, errEventSize):
		return Message{}, fmt.Errorf("%w: CloudEvent: %w", ErrTooLarge, err)
	case err != nil:
		return Message{}, fmt.Errorf("%w: CloudEvent: %w", ErrInvalid, err)
	}
	return e.m, nil
}

var (
	errEventSize = fmt.Errorf("attributes and extensions take more than %d bytes", MaxHeaderBytes)
	errEventJSON = errors.New("it is not one JSON object")
)

// An eventReader collects the members of an event.
type eventReader struct {
	m       Message
	size    int // of what is not the payload
	version string
	data    json.RawMessage
	bytes   string // the text of data_base64,
	base64  bool   // where it is there
	seen    map[string]struct{}
}

func (e *eventReader) read(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("it is not UTF-8")
	}
	e.seen = make(map[string]struct{}, 12)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // which keeps their text
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errEventJSON
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return errEventJSON
		}
		name, _ := t.(string) // a decoder takes nothing else for a key
		// Two members of one name would let an event have one ID for an inbox and
		// another for someone else's reader.
		if _, twice := e.seen[name]; twice {
			return fmt.Errorf("the member %q stands in it twice", clip(name, maxName))
		}
		e.seen[name] = struct{}{}
		if name == memberData {
			err = dec.Decode(&e.data)
		} else if t, err = dec.Token(); err == nil {
			if err := e.member(name, t); err != nil {
				return err
			}
		}
		if err != nil {
			return errEventJSON
		}
	}
	if _, err := dec.Token(); err != nil {
		return errEventJSON
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errEventJSON
	}
	return e.finish()
}

// member takes one member of the object, other than data. Null stands for one that
// is not there.
func (e *eventReader) member(name string, value json.Token) error {
	text, isString := value.(string)
	if name == memberBase64 {
		if value != nil {
			e.base64, e.bytes = true, text
		}
		if value != nil && !isString {
			return errors.New("data_base64 is not a string")
		}
		return nil
	}
	switch v := value.(type) {
	case json.Number:
		text = v.String()
	case bool:
		text = strconv.FormatBool(v)
	case json.Delim:
		return fmt.Errorf("the attribute %q is a list or an object, and no attribute is", clip(name, maxName))
	}
	if e.size += len(name) + len(text); e.size > MaxHeaderBytes {
		return errEventSize
	}
	if value == nil {
		return nil
	}
	if strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("the attribute %q contains NUL", clip(name, maxName))
	}
	if name == attrSpecVersion {
		e.version = text
	}
	if name == attrTime {
		// RFC 3339 §5.6 allows "t" and "z" in lower case, package time does not.
		if text = strings.ToUpper(text); !isTime(text) {
			return fmt.Errorf("the time %q is not in RFC 3339 form", clip(text, maxName))
		}
	}
	if e.m.SetAttribute(name, text) {
		if !isString {
			return fmt.Errorf("the attribute %s is not a string", name)
		}
		return nil
	}
	return e.extension(name, text)
}

// extension takes an extension attribute. Its name should be of lower-case
// letters and digits; others that a header may have do no harm.
func (e *eventReader) extension(name, text string) error {
	if checkName("header", name) != nil || strings.HasPrefix(name, reservedPrefix) {
		return fmt.Errorf("%q cannot be the name of an extension", clip(name, maxName))
	}
	if e.m.Headers == nil {
		e.m.Headers = map[string]string{}
	}
	e.m.Headers[name] = text
	return nil
}

// finish checks what must be there and decodes the payload.
func (e *eventReader) finish() error {
	if e.version != specVersion {
		return fmt.Errorf("its specversion is %q, and only %q is known", clip(e.version, maxName), specVersion)
	}
	var missing []string
	for _, a := range [...]struct{ name, value string }{{attrID, e.m.ID}, {attrSource, e.m.Source}, {attrType, e.m.Type}} {
		if a.value == "" {
			missing = append(missing, a.name)
		}
	}
	switch {
	case missing != nil:
		return fmt.Errorf("it lacks the required %s", strings.Join(missing, " and "))
	case e.base64 && e.data != nil:
		return errors.New("it has both data and data_base64")
	case e.base64:
		payload, err := base64.StdEncoding.DecodeString(e.bytes)
		if err != nil {
			return fmt.Errorf("data_base64: %w", err)
		}
		e.m.Payload = payload
	case e.data == nil:
	case e.m.ContentType == "" || isJSON(e.m.ContentType):
		e.m.Payload = e.data
		if e.m.ContentType == "" { // what is implied must be said outside of this format
			e.m.ContentType = "application/json"
		}
	default:
		var text *string // null, which is no text, is none
		if json.Unmarshal(e.data, &text) != nil {
			return fmt.Errorf("data is not a string, and %q is no kind of JSON", clip(e.m.ContentType, maxName))
		}
		if text != nil {
			e.m.Payload = []byte(*text)
		}
	}
	return nil
}

func isTime(s string) bool {
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil
}
