package messaging

import (
	"context"
	"fmt"
	"reflect"
	"strings"
)

// An EventsConfig says how [Events] treats messages. The zero value is ready for
// use.
type EventsConfig struct {
	// Codec decodes the payloads of all types. Default [JSON].
	Codec Codec
	// Unknown handles messages whose Type has no entry. [Skip] drops them, which
	// suits a group that wants some of the events of a topic. A handler that
	// returns an error has them retried, until an instance takes them that was
	// deployed with a newer version. Default: they are dead-lettered at once, with
	// [ReasonUnknownType], so that nothing is lost by a type that was forgotten or
	// misspelt.
	Unknown Handler
	// Undecodable handles messages whose payload cannot be decoded, or cannot be
	// brought to the current version; err says why. Its result counts as that of a
	// Handler. Default: they are dead-lettered at once, with [ReasonDecode].
	Undecodable func(ctx context.Context, d *Delivery, err error) error
}

// An Event says what [Events] does with the messages of one Type. Make one with
// [On] or [Upcast].
type Event struct {
	typ    string
	in     reflect.Type // what the payload is decoded into
	decode func(Codec, *Message) (any, error)

	// One of the two is set.
	handle func(context.Context, any, *Delivery) error
	upcast func(any) (any, error)

	to    string       // upcast: the type it leads to,
	out   reflect.Type // and the Go type that it makes
	isNil bool         // the function that it was made with
}

// On has fn handle the messages of type typ, with their payloads decoded into T,
// as [Typed] does.
// An empty typ stands for messages without a Type.
func On[T any](typ string, fn func(context.Context, T, *Delivery) error) Event {
	e := newEvent[T](typ)
	e.isNil = fn == nil
	e.handle = func(ctx context.Context, v any, d *Delivery) error { return fn(ctx, as[T](v), d) }
	return e
}

// Upcast turns the messages of type typ, an old version, into those of type to:
// their payloads are decoded into Old, and what fn makes of that goes where the
// payloads of to go, which may be a further Upcast. The [Delivery] stays as it
// was received, with Type typ. A message for which fn returns an error is treated
// as one that cannot be decoded.
func Upcast[Old, New any](typ, to string, fn func(Old) (New, error)) Event {
	e := newEvent[Old](typ)
	e.isNil = fn == nil
	e.to, e.out = to, reflect.TypeFor[New]()
	e.upcast = func(v any) (any, error) { return fn(as[Old](v)) }
	return e
}

func newEvent[T any](typ string) Event {
	return Event{
		typ: typ, in: reflect.TypeFor[T](),
		decode: func(codec Codec, m *Message) (any, error) { return decode[T](codec, m) },
	}
}

// as returns v, which is a T: nil where T is an interface that holds nothing.
func as[T any](v any) T {
	t, _ := v.(T)
	return t
}

// Skip is a [Handler] that does nothing, so that the message is acknowledged: for
// EventsConfig.Unknown.
func Skip(context.Context, *Delivery) error { return nil }

// Events returns a Handler that tells the messages of a topic apart by their Type
// and hands each one, decoded and brought to its current version, to the function
// for it. The error, an [ErrInvalid], says all that is wrong with events: none at
// all, two for one type, a nil function, an Upcast that leads nowhere, in a circle
// or to another Go type.
//
//	h, err := messaging.Events(messaging.EventsConfig{},
//		messaging.On("OrderPlaced.v2", func(ctx context.Context, e OrderPlaced, d *messaging.Delivery) error { … }),
//		messaging.Upcast("OrderPlaced", "OrderPlaced.v2", func(old OrderPlacedV1) (OrderPlaced, error) { … }),
//		messaging.On("OrderShipped", shipped),
//	)
func Events(cfg EventsConfig, events ...Event) (Handler, error) {
	if cfg.Codec == nil {
		cfg.Codec = JSON{}
	}
	if cfg.Unknown == nil {
		cfg.Unknown = unknownType
	}
	if cfg.Undecodable == nil {
		cfg.Undecodable = func(_ context.Context, _ *Delivery, err error) error {
			return &markedError{err: err, reason: ReasonDecode}
		}
	}
	byType, faults := register(events)
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: events: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	ways := make(map[string]way, len(byType))
	for _, e := range events {
		w, ok := follow(byType, e)
		if !ok {
			return nil, fmt.Errorf("%w: events: the upcasts from type %q go in a circle: let one lead to a type with a handler", ErrInvalid, e.typ)
		}
		ways[e.typ] = w
	}
	return func(ctx context.Context, d *Delivery) error {
		w, ok := ways[d.Type]
		if !ok {
			return cfg.Unknown(ctx, d)
		}
		v, err := w.value(cfg.Codec, &d.Message)
		if err != nil {
			return cfg.Undecodable(ctx, d, err)
		}
		return w.handle(ctx, v, d)
	}, nil
}

func unknownType(_ context.Context, d *Delivery) error {
	return &markedError{
		err:    fmt.Errorf("messaging: no handler for messages of type %q: add it to Events, or say in EventsConfig.Unknown what to do", clip(d.Type, maxName)),
		reason: ReasonUnknownType,
	}
}

// register returns events by type, and what is wrong with them but for circles.
func register(events []Event) (byType map[string]Event, faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if len(events) == 0 {
		fault("there are none: add some with On")
	}
	byType = make(map[string]Event, len(events))
	for i, e := range events {
		switch _, known := byType[e.typ]; {
		case e.decode == nil:
			fault("entry %d is empty: make it with On or Upcast", i)
			continue
		case known:
			fault("type %q has two entries", e.typ)
			continue
		case e.isNil:
			fault("the function for type %q is nil", e.typ)
		}
		byType[e.typ] = e
	}
	for _, e := range events {
		if e.upcast == nil {
			continue
		}
		switch next, ok := byType[e.to]; {
		case !ok:
			fault("the upcast of type %q leads to %q, which has no entry", e.typ, e.to)
		case next.in != e.out:
			fault("the upcast of type %q makes a %v, and type %q is decoded into a %v", e.typ, e.out, e.to, next.in)
		}
	}
	return byType, faults
}

// A way leads from the payloads of one type to a handler.
type way struct {
	decode func(Codec, *Message) (any, error)
	upcast []func(any) (any, error)
	handle func(context.Context, any, *Delivery) error
}

// follow returns the way from e, and whether it has an end.
func follow(byType map[string]Event, e Event) (way, bool) {
	w := way{decode: e.decode}
	for ; e.upcast != nil; e = byType[e.to] {
		if len(w.upcast) == len(byType) { // more steps than there are types
			return way{}, false
		}
		w.upcast = append(w.upcast, e.upcast)
	}
	w.handle = e.handle
	return w, true
}

// value returns what m carries in its current version.
func (w way) value(codec Codec, m *Message) (any, error) {
	v, err := w.decode(codec, m)
	for _, upcast := range w.upcast {
		if err != nil {
			return nil, err
		}
		if v, err = upcast(v); err != nil {
			err = fmt.Errorf("messaging: upcast a message of type %q: %w", clip(m.Type, maxName), err)
		}
	}
	return v, err
}
