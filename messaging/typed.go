package messaging

import (
	"context"
	"encoding/json"
	"fmt"
)

// A Codec turns the payloads of messages into values. Its method is called by
// several goroutines at once.
type Codec interface {
	// Decode stores what m carries in the value that v points to. It may tell by
	// m's ContentType and Type how. It does not change m, and v keeps no memory
	// of it. An error means that m can never be decoded.
	Decode(m *Message, v any) error
}

// JSON decodes payloads with encoding/json, whatever their ContentType. Members
// that the Go type does not have are ignored, so that publishers may add some.
type JSON struct{}

// Decode implements [Codec].
func (JSON) Decode(m *Message, v any) error { return json.Unmarshal(m.Payload, v) }

// Typed returns a Handler that decodes each payload into a new T and passes it
// to fn. A payload that cannot be decoded is dead-lettered at its first attempt,
// with [ReasonDecode]. What fn returns is returned as it is.
//
// Where codec or fn is nil, so is the Handler, which [Consumer.Run] reports.
func Typed[T any](codec Codec, fn func(context.Context, T, *Delivery) error) Handler {
	if codec == nil || fn == nil {
		return nil
	}
	return func(ctx context.Context, d *Delivery) error {
		var v T
		if err := codec.Decode(&d.Message, &v); err != nil {
			return &markedError{
				err:    fmt.Errorf("messaging: decode the payload of %d bytes into %T: %w", len(d.Payload), v, err),
				reason: ReasonDecode,
			}
		}
		return fn(ctx, v, d)
	}
}
