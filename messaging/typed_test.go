package messaging_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/parley-go/parley/messaging"
)

type order struct {
	ID int `json:"orderId"`
}

func TestTypedPassesTheDecodedPayloadOn(t *testing.T) {
	var got order
	var at *messaging.Delivery
	h := messaging.Typed(messaging.JSON{}, func(_ context.Context, o order, d *messaging.Delivery) error {
		got, at = o, d
		return errFailed
	})
	d := &messaging.Delivery{Message: messaging.Message{Payload: []byte(`{"orderId":456,"added":"later"}`)}}
	if err := h(t.Context(), d); !errors.Is(err, errFailed) || err != errFailed { //nolint:errorlint // the same, not one that wraps it
		t.Errorf("Handler = %v, want what the function returned as it is", err)
	}
	if got.ID != 456 || at != d {
		t.Errorf("the function was given %+v and %p, want order 456 and %p", got, at, d)
	}
}

func TestTypedRefusesWhatCannotBeDecoded(t *testing.T) {
	for name, payload := range map[string]string{
		"nothing":         ``,
		"not JSON":        `hello`,
		"truncated JSON":  `{"orderId":4`,
		"another type":    `{"orderId":"four"}`,
		"two JSON values": `{"orderId":1} {"orderId":2}`,
	} {
		h := messaging.Typed(messaging.JSON{}, func(context.Context, order, *messaging.Delivery) error {
			t.Errorf("%s: the function was called", name)
			return nil
		})
		err := h(t.Context(), &messaging.Delivery{Message: messaging.Message{Payload: []byte(payload)}})
		if err == nil || !strings.HasPrefix(err.Error(), "messaging: decode the payload of ") || !strings.Contains(err.Error(), "messaging_test.order") {
			t.Errorf("%s: Handler = %v, want an error that names the type", name, err)
		}
	}
	h := messaging.Typed(messaging.JSON{}, func(context.Context, order, *messaging.Delivery) error { return nil })
	err := h(t.Context(), &messaging.Delivery{Message: messaging.Message{Payload: []byte(`{"orderId":"four"}`)}})
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
		t.Errorf("Handler = %v, want the codec's error in it", err)
	}
}

// upper is a codec of another kind.
type upper struct{}

func (upper) Encode(m *messaging.Message, v any) error {
	s, ok := v.(string)
	if !ok {
		return errors.New("not text")
	}
	m.ContentType, m.Payload = "text/plain", []byte(strings.ToLower(s))
	return nil
}

func (upper) Decode(m *messaging.Message, v any) error {
	s, ok := v.(*string)
	if !ok || m.ContentType != "text/plain" {
		return errors.New("not text")
	}
	*s = strings.ToUpper(string(m.Payload))
	return nil
}

func TestTypedTakesAnyCodec(t *testing.T) {
	var got string
	h := messaging.Typed(upper{}, func(_ context.Context, s string, _ *messaging.Delivery) error {
		got = s
		return nil
	})
	err := h(t.Context(), &messaging.Delivery{Message: messaging.Message{ContentType: "text/plain", Payload: []byte("hello")}})
	if err != nil || got != "HELLO" {
		t.Errorf("Handler = %v with %q, want nil with HELLO", err, got)
	}
}

func TestTypedDecodesIntoAPointerThatIsNeverNil(t *testing.T) {
	var got []*order
	h := messaging.Typed(messaging.JSON{}, func(_ context.Context, o *order, _ *messaging.Delivery) error {
		got = append(got, o)
		return nil
	})
	for _, payload := range []string{`{"orderId":456}`, `null`} {
		if err := h(t.Context(), &messaging.Delivery{Message: messaging.Message{Payload: []byte(payload)}}); err != nil {
			t.Errorf("Handler = %v, want nil", err)
		}
	}
	if len(got) != 2 || got[0] == nil || got[0].ID != 456 || got[1] == nil || got[1].ID != 0 {
		t.Errorf("the function was given %v, want order 456 and an empty one", got)
	}
}

func TestTypedWithoutCodecOrFunctionIsReportedByRun(t *testing.T) {
	fn := func(context.Context, order, *messaging.Delivery) error { return nil }
	for name, h := range map[string]messaging.Handler{
		"codec": messaging.Typed(nil, fn), "function": messaging.Typed[order](messaging.JSON{}, nil),
	} {
		c, err := messaging.NewConsumer(newScript(), messaging.ConsumerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		c.Handle(messaging.Subscription{Topic: "t", Group: "g"}, h)
		if err := c.Run(t.Context()); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "a handler is nil") {
			t.Errorf("Run() without a %s = %v, want ErrInvalid that says that the handler is nil", name, err)
		}
	}
}

func TestEncodeMakesAMessageThatTypedReads(t *testing.T) {
	m, err := messaging.Encode(messaging.JSON{}, "OrderPlaced", order{ID: 456})
	if err != nil {
		t.Fatalf("Encode() = %v, want nil", err)
	}
	if m.ID == "" || m.Time.IsZero() || m.Type != "OrderPlaced" || m.ContentType != "application/json" || string(m.Payload) != `{"orderId":456}` {
		t.Errorf("Encode() = %+v, want a new message of type OrderPlaced with the order as JSON", m)
	}
	h := messaging.Typed(messaging.JSON{}, func(_ context.Context, o order, _ *messaging.Delivery) error {
		if o.ID != 456 {
			t.Errorf("decoded order %d, want 456", o.ID)
		}
		return nil
	})
	if err := h(t.Context(), &messaging.Delivery{Message: m}); err != nil {
		t.Errorf("Handler = %v, want nil", err)
	}
	if m, err = messaging.Encode(upper{}, "T", "Hello"); err != nil || m.ContentType != "text/plain" || string(m.Payload) != "hello" {
		t.Errorf("Encode() with another codec = %+v, %v, want hello as text/plain", m, err)
	}
}

func TestEncodeReportsWhatCannotBeEncoded(t *testing.T) {
	_, err := messaging.Encode(messaging.JSON{}, "T", make(chan int))
	if _, ok := errors.AsType[*json.UnsupportedTypeError](err); !ok || !strings.HasPrefix(err.Error(), "messaging: encode chan int: ") {
		t.Errorf("Encode() of a channel = %v, want the codec's error behind the type", err)
	}
	if _, err := messaging.Encode(nil, "T", 1); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Encode() without a codec = %v, want ErrInvalid", err)
	}
}
