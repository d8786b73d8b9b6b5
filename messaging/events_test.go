package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/parley-go/parley/messaging"
)

// Three versions of one event.
type (
	placedV1 struct {
		Order int `json:"order"`
	}
	placedV2 struct {
		OrderID int    `json:"orderId"`
		Via     string `json:"via"`
	}
	placedV3 struct {
		OrderIDs []int  `json:"orderIds"`
		Via      string `json:"via"`
	}
)

func toV2(old placedV1) (placedV2, error) {
	if old.Order < 0 {
		return placedV2{}, errFailed
	}
	return placedV2{OrderID: old.Order, Via: "v1"}, nil
}

func toV3(old placedV2) (placedV3, error) {
	return placedV3{OrderIDs: []int{old.OrderID}, Via: old.Via + "v2"}, nil
}

func deliveryOf(typ, payload string) *messaging.Delivery {
	return &messaging.Delivery{Message: messaging.Message{ID: "id", Type: typ, Payload: []byte(payload)}}
}

// verdictOf returns what a Consumer does with a message that h handles.
func verdictOf(t *testing.T, h messaging.Handler, m messaging.Message) messaging.Verdict {
	t.Helper()
	verdicts := make(chan messaging.Verdict, 1)
	b := newMemory(t)
	r := runOne(t, b, messaging.ConsumerConfig{OnSettle: func(s messaging.Settled) { verdicts <- s.Verdict }}, h)
	if m.ID == "" {
		m.ID = "id"
	}
	publish(t, b, m)
	v := <-verdicts
	if err := r.end(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	return v
}

func TestEventsHandsEachTypeToItsFunctionInItsCurrentVersion(t *testing.T) {
	var got []string
	h, err := messaging.Events(messaging.EventsConfig{},
		messaging.Upcast("Placed", "Placed.v2", toV2),
		messaging.On("Shipped", func(_ context.Context, e order, d *messaging.Delivery) error {
			got = append(got, fmt.Sprint(d.Type, e.ID))
			return nil
		}),
		messaging.On("Placed.v3", func(_ context.Context, e placedV3, d *messaging.Delivery) error {
			got = append(got, fmt.Sprint(d.Type, e.OrderIDs, e.Via))
			return nil
		}),
		messaging.Upcast("Placed.v2", "Placed.v3", toV3),
		messaging.On("", func(_ context.Context, e any, d *messaging.Delivery) error {
			got = append(got, fmt.Sprint("plain ", e))
			return errFailed
		}),
	)
	if err != nil {
		t.Fatalf("Events() = %v, want nil", err)
	}
	for _, d := range []*messaging.Delivery{
		deliveryOf("Placed", `{"order":1}`), deliveryOf("Placed.v2", `{"orderId":2}`), deliveryOf("Placed.v3", `{"orderIds":[3,4]}`), deliveryOf("Shipped", `{"orderId":5}`),
	} {
		if err := h(t.Context(), d); err != nil {
			t.Errorf("Handler of %s = %v, want nil", d.Type, err)
		}
	}
	for _, payload := range []string{`null`, `"x"`} {
		if err := h(t.Context(), deliveryOf("", payload)); err != errFailed { //nolint:errorlint // the same, not one that wraps it
			t.Errorf("Handler = %v, want what the function returned as it is", err)
		}
	}
	want := "Placed[1]v1v2 Placed.v2[2]v2 Placed.v3[3 4] Shipped5 plain <nil> plain x"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("handled %s, want %s", s, want)
	}
}

func TestEventsReportsAllFaults(t *testing.T) {
	on := messaging.On("A", func(context.Context, placedV2, *messaging.Delivery) error { return nil })
	back := func(placedV2) (placedV1, error) { return placedV1{}, nil }
	for name, c := range map[string]struct {
		events []messaging.Event
		says   string
	}{
		"none":          {nil, "there are none: add some with On"},
		"an empty one":  {[]messaging.Event{on, {}}, "entry 1 is empty: make it with On or Upcast"},
		"a nil handler": {[]messaging.Event{messaging.On[order]("B", nil)}, `the function for type "B" is nil`},
		"a nil upcast":  {[]messaging.Event{on, messaging.Upcast[order, placedV2]("B", "A", nil)}, `the function for type "B" is nil`},
		"two for one":   {[]messaging.Event{on, on}, `type "A" has two entries`},
		"one that leads nowhere, and two for one": {
			[]messaging.Event{on, messaging.Upcast("B", "C", toV2), on}, `type "A" has two entries; the upcast of type "B" leads to "C", which has no entry`,
		},
		"one that leads to another Go type": {
			[]messaging.Event{on, messaging.Upcast("B", "A", toV3)},
			`the upcast of type "B" makes a messaging_test.placedV3, and type "A" is decoded into a messaging_test.placedV2`,
		},
		"a circle": {
			[]messaging.Event{on, messaging.Upcast("V1", "V2", toV2), messaging.Upcast("V2", "V1", back)}, `the upcasts from type "V1" go in a circle`,
		},
		"one that leads to itself": {
			[]messaging.Event{messaging.Upcast("V1", "V1", func(p placedV1) (placedV1, error) { return p, nil })}, `the upcasts from type "V1" go in a circle`,
		},
	} {
		h, err := messaging.Events(messaging.EventsConfig{}, c.events...)
		if h != nil || !errors.Is(err, messaging.ErrInvalid) || !strings.HasPrefix(err.Error(), "messaging: invalid: events: "+c.says) {
			t.Errorf("Events() with %s = %v, want no handler and ErrInvalid that says %q", name, err, c.says)
		}
	}
}

func TestUnknownTypesAreDeadLetteredUnlessThePolicySaysOtherwise(t *testing.T) {
	on := messaging.On("Placed", func(context.Context, order, *messaging.Delivery) error { return nil })
	for name, c := range map[string]struct {
		unknown messaging.Handler
		kind    messaging.Kind
		reason  string
	}{
		"by default":                      {nil, messaging.DeadLetter, messaging.ReasonUnknownType},
		"with Skip":                       {messaging.Skip, messaging.Ack, ""},
		"with a handler that fails":       {func(context.Context, *messaging.Delivery) error { return errFailed }, messaging.Retry, ""},
		"with a handler that gives it up": {func(context.Context, *messaging.Delivery) error { return messaging.Permanent(errFailed) }, messaging.DeadLetter, messaging.ReasonPermanent},
	} {
		h, err := messaging.Events(messaging.EventsConfig{Unknown: c.unknown}, on)
		if err != nil {
			t.Fatalf("Events() = %v, want nil", err)
		}
		v := verdictOf(t, h, messaging.NewMessage("Plaecd", []byte(`{}`)))
		if v.Kind != c.kind || v.Reason != c.reason {
			t.Errorf("%s: verdict = %v %q, want %v %q", name, v.Kind, v.Reason, c.kind, c.reason)
		}
		if c.unknown == nil && !strings.Contains(v.Err.Error(), `no handler for messages of type "Plaecd"`) {
			t.Errorf("%s: error = %v, want it to name the type", name, v.Err)
		}
	}
}

func TestUndecodableEventsAreDeadLetteredUnlessThePolicySaysOtherwise(t *testing.T) {
	events := []messaging.Event{
		messaging.On("Placed.v3", func(context.Context, placedV3, *messaging.Delivery) error {
			t.Error("the function was called")
			return nil
		}),
		messaging.Upcast("Placed.v2", "Placed.v3", toV3), messaging.Upcast("Placed", "Placed.v2", toV2),
	}
	for name, payload := range map[string]string{
		"a payload that is no JSON": `{`, "a payload of another type": `{"order":"x"}`, "an upcast that fails": `{"order":-1}`,
	} {
		h, err := messaging.Events(messaging.EventsConfig{}, events...)
		if err != nil {
			t.Fatalf("Events() = %v, want nil", err)
		}
		m := messaging.NewMessage("Placed", []byte(payload))
		if v := verdictOf(t, h, m); v.Kind != messaging.DeadLetter || v.Reason != messaging.ReasonDecode {
			t.Errorf("%s: verdict = %v %q, want dead_letter decode", name, v.Kind, v.Reason)
		}
		var told error
		h, err = messaging.Events(messaging.EventsConfig{Undecodable: func(_ context.Context, d *messaging.Delivery, err error) error {
			if d.ID == m.ID {
				told = err
			}
			return nil
		}}, events...)
		if err != nil {
			t.Fatalf("Events() = %v, want nil", err)
		}
		if v := verdictOf(t, h, m); v.Kind != messaging.Ack || told == nil || !strings.HasPrefix(told.Error(), "messaging: ") {
			t.Errorf("%s: verdict = %v after Undecodable was told %v, want ack and the fault", name, v.Kind, told)
		}
	}
}

func TestEventsTakesAnyCodec(t *testing.T) {
	var got string
	h, err := messaging.Events(messaging.EventsConfig{Codec: upper{}}, messaging.On("T", func(_ context.Context, s string, _ *messaging.Delivery) error {
		got = s
		return nil
	}))
	if err != nil {
		t.Fatalf("Events() = %v, want nil", err)
	}
	d := deliveryOf("T", "hello")
	d.ContentType = "text/plain"
	if err := h(t.Context(), d); err != nil || got != "HELLO" {
		t.Errorf("Handler = %v with %q, want nil with HELLO", err, got)
	}
}

func BenchmarkEvents(b *testing.B) {
	events, err := messaging.Events(messaging.EventsConfig{},
		messaging.On("Placed.v2", func(context.Context, placedV2, *messaging.Delivery) error { return nil }),
		messaging.Upcast("Placed", "Placed.v2", toV2),
	)
	if err != nil {
		b.Fatal(err)
	}
	typed := messaging.Typed(messaging.JSON{}, func(context.Context, placedV2, *messaging.Delivery) error { return nil })
	for name, c := range map[string]struct {
		h messaging.Handler
		d *messaging.Delivery
	}{
		"Typed":            {typed, deliveryOf("Placed.v2", `{"orderId":456,"via":"web"}`)},
		"current version":  {events, deliveryOf("Placed.v2", `{"orderId":456,"via":"web"}`)},
		"previous version": {events, deliveryOf("Placed", `{"order":456}`)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.h(b.Context(), c.d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
