package messaging

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
)

// A Codec turns values into the payloads of messages and back. Its methods are
// called by several goroutines at once.
type Codec interface {
	// Encode stores v as m's Payload, and says in m's ContentType how; it may read
	// m's Type. It keeps no memory of v in m.
	Encode(m *Message, v any) error
	// Decode stores what m carries in the value that v points to. It may tell by
	// m's ContentType and Type how. It does not change m, and v keeps no memory
	// of it. An error means that m can never be decoded.
	Decode(m *Message, v any) error
}

// JSON is the [Codec] of encoding/json. It decodes payloads whatever their
// ContentType says. Members that the Go type does not have are ignored, so that
// publishers may add some.
type JSON struct{}

// Encode implements [Codec]. The ContentType is application/json.
func (JSON) Encode(m *Message, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m.Payload, m.ContentType = payload, "application/json"
	return nil
}

// Decode implements [Codec].
func (JSON) Decode(m *Message, v any) error { return json.Unmarshal(m.Payload, v) }

// Encode returns a message of the given type that carries v, with a new ID and
// the current time, as [NewMessage] does. The error is that of codec, or
// [ErrInvalid] when codec is nil.
func Encode(codec Codec, typ string, v any) (Message, error) {
	if codec == nil {
		return Message{}, fmt.Errorf("%w: encode %T: the codec is nil: pass JSON{}, for one", ErrInvalid, v)
	}
	m := NewMessage(typ, nil)
	if err := codec.Encode(&m, v); err != nil {
		return Message{}, fmt.Errorf("messaging: encode %T: %w", v, err)
	}
	return m, nil
}

// Typed returns a Handler that decodes each payload into a new T and passes it
// to fn. T may be a pointer, as the types of protobuf want it; it then points to
// a new value, which is what codec decodes into, and is never nil. A payload that
// cannot be decoded is dead-lettered at its first attempt, with [ReasonDecode].
// What fn returns is returned as it is. For a topic with events of several types,
// or versions of them, see [Events].
//
// Where codec or fn is nil, so is the Handler, which [Consumer.Run] reports.
func Typed[T any](codec Codec, fn func(context.Context, T, *Delivery) error) Handler {
	if codec == nil || fn == nil {
		return nil
	}
	return func(ctx context.Context, d *Delivery) error {
		v, err := decode[T](codec, &d.Message)
		if err != nil {
			return &markedError{err: err, reason: ReasonDecode}
		}
		return fn(ctx, v, d)
	}
}

// decode returns what m carries.
func decode[T any](codec Codec, m *Message) (v T, err error) {
	into := any(&v)
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Pointer {
		into = reflect.New(t.Elem()).Interface()
		v, _ = into.(T)
	}
	if err := codec.Decode(m, into); err != nil {
		return v, fmt.Errorf("messaging: decode the payload of %d bytes into %T: %w", len(m.Payload), v, err)
	}
	return v, nil
}
