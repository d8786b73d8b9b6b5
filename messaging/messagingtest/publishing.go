package messagingtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-go/parley/messaging"
)

func publishing() []guarantee {
	return []guarantee{
		{name: "a message arrives as it was published", check: roundTrip},
		{name: "every group receives every message", check: everyGroup},
		{name: "a group that does not settle holds up no other group", check: stuckGroup},
		{name: "a group keeps what is published while nobody subscribes", check: absentGroup},
		{name: "messages with one key arrive in the order of publishing", check: keyOrder, unless: unordered},
		{name: "nothing is lost under concurrent publishers and subscribers", check: crowd},
		{name: "a publisher may change a message once Publish has returned", check: publisherReuse},
		{name: "headers that begin with msg- are dropped", check: reservedHeaders},
		{name: "Publish refuses what is invalid and takes the rest of the call", check: partialBatch},
		{name: "Publish refuses an invalid topic", check: invalidTopic},
		{name: "Publish of nothing succeeds", check: publishNothing},
		{name: "Publish to a topic that no group subscribes to is refused", check: unroutable, unless: unrouted},
		{name: "Publish reports the cause of a context that has ended", check: endedContext},
	}
}

func unordered(p messaging.Promises) string {
	if p.Ordered {
		return ""
	}
	return "Ordered"
}

func unrouted(p messaging.Promises) string {
	if p.Routed {
		return ""
	}
	return "Routed"
}

func roundTrip(h *harness) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.FixedZone("", 3600))
	long := strings.Repeat("ü", 200) // over the 255 bytes of some protocols' short strings
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	full := messaging.Message{
		ID: "id-1", Type: "OrderPlaced", Source: "/orders", Subject: "orders/456", Time: at, Key: "customer 7", ContentType: "application/json",
		Headers: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Mixed-Case_1.x": "kept", "empty": ""},
		Payload: []byte(`{"orderId":456}`),
	}
	cases := map[string]messaging.Message{
		"all attributes":  full,
		"an ID alone":     {ID: "id-2"},
		"nil payload":     {ID: "id-3", Type: "T", Headers: map[string]string{"a": "b"}},
		"empty payload":   {ID: "id-4", Payload: []byte{}},
		"binary payload":  {ID: "id-5", Payload: every, ContentType: "application/octet-stream"},
		"text of Unicode": {ID: "id-6", Type: "Größe", Subject: "日本", Key: "ключ", Headers: map[string]string{"a": "π\r\n\t"}},
		"long attributes": {ID: "7" + long, Type: long, Source: long, Subject: long, Key: long, ContentType: long},
		"many headers":    {ID: "id-8", Headers: manyHeaders()},
		"large payload":   {ID: "id-9", Payload: bytes.Repeat(every, min(1<<20, h.broker.Promises().MaxPayload)/256)},
	}
	sub := h.group("g")
	for name, want := range cases {
		h.publish(want)
		got := sub.receive()
		if fault := differs(got.Message, want); fault != "" {
			h.Errorf("%s: %s", name, fault)
		}
		if got.Topic != h.topic || got.Group != "g" || got.Attempt != 1 || got.Redelivered {
			h.Errorf("%s: Topic, Group, Attempt, Redelivered = %s, %s, %d, %t, want %s, g, 1, false", name, got.Topic, got.Group, got.Attempt, got.Redelivered, h.topic)
		}
		h.ack(got)
	}
}

// manyHeaders returns as many headers as a message may have beside its ID.
func manyHeaders() map[string]string {
	headers := map[string]string{}
	for i := range 31 {
		name := fmt.Sprintf("header-%02d", i)
		headers[name] = strings.Repeat("v", 1024-len(name))
	}
	return headers
}

// differs says how got differs from want, or "".
func differs(got, want messaging.Message) string {
	switch {
	case got.ID != want.ID || got.Type != want.Type || got.Source != want.Source || got.Subject != want.Subject || got.Key != want.Key || got.ContentType != want.ContentType:
		return fmt.Sprintf("attributes = %q, want %q",
			[]string{got.ID, got.Type, got.Source, got.Subject, got.Key, got.ContentType},
			[]string{want.ID, want.Type, want.Source, want.Subject, want.Key, want.ContentType})
	case !got.Time.Equal(want.Time):
		return fmt.Sprintf("Time = %v, want %v", got.Time, want.Time)
	case !maps.Equal(got.Headers, want.Headers):
		return fmt.Sprintf("Headers = %q, want %q", got.Headers, want.Headers)
	case !bytes.Equal(got.Payload, want.Payload):
		return fmt.Sprintf("Payload has %d bytes (%.40q), want %d (%.40q)", len(got.Payload), got.Payload, len(want.Payload), want.Payload)
	}
	return ""
}

func everyGroup(h *harness) {
	a, b := h.group("a"), h.group("b")
	want := map[string]bool{}
	for i := range 20 {
		m := message(strconv.Itoa(i))
		want[m.ID] = true
		h.publish(m)
	}
	for name, sub := range map[string]*subscription{"a": a, "b": b} {
		got := map[string]bool{}
		for range want {
			d := sub.receive()
			got[d.ID] = true
			h.ack(d)
		}
		if !maps.Equal(got, want) {
			h.Errorf("group %s received %d of the %d messages", name, len(got), len(want))
		}
	}
}

func stuckGroup(h *harness) {
	stuck, free := h.subscribe(messaging.Subscription{Group: "stuck", Prefetch: 1}, nil), h.group("free")
	for range 20 {
		h.publish(message("m"))
	}
	held := stuck.receive()
	for range 20 {
		h.ack(free.receive())
	}
	h.ack(held)
	for range 19 {
		h.ack(stuck.receive())
	}
}

func absentGroup(h *harness) {
	h.group("g").stop()
	m := message("kept")
	h.publish(m)
	got := h.group("g").receive()
	if got.ID != m.ID || got.Attempt != 1 {
		h.Errorf("the next subscriber received %s at attempt %d, want %s at attempt 1", got.ID, got.Attempt, m.ID)
	}
	h.ack(got)
}

func keyOrder(h *harness) {
	const publishers, calls, batch = 4, 10, 25
	sub := h.group("g")
	wait := h.each(publishers, func(p int) {
		for c := range calls {
			msgs := make([]messaging.Message, batch)
			for i := range msgs {
				msgs[i] = messaging.NewMessage("m", []byte(strconv.Itoa(c*batch+i)))
				msgs[i].Key = strconv.Itoa(p)
			}
			if err := h.broker.Publish(h.ctx, h.topic, msgs...); err != nil {
				h.Errorf("Publish() = %v, want nil", err)
			}
		}
	})
	next := map[string]int{}
	for range publishers * calls * batch {
		a := sub.receive()
		n, _ := strconv.Atoi(string(a.Payload))
		if n != next[a.Key] && !a.Redelivered {
			h.Fatalf("key %s: message %d arrived where %d was next", a.Key, n, next[a.Key])
		}
		next[a.Key] = n + 1
		h.ack(a)
	}
	wait()
}

func crowd(h *harness) {
	const publishers, each, subscribers = 8, 50, 3
	var mu sync.Mutex
	seen := map[string]int{}
	all := make(chan struct{})
	deliver := func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if err := s.Settle(lease, messaging.Verdict{Kind: messaging.Ack}); err != nil {
			h.Errorf("Settle(ack) = %v, want nil", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if seen[d.ID]++; seen[d.ID] > 1 && !d.Redelivered {
			h.Errorf("message %s arrived %d times, and is not marked as redelivered", d.ID, seen[d.ID])
		}
		if len(seen) == publishers*each && seen[d.ID] == 1 {
			close(all)
		}
		return nil
	}
	for range subscribers {
		h.subscribe(messaging.Subscription{Group: "g", Prefetch: 10}, deliver)
	}
	wait := h.each(publishers, func(int) {
		for range each {
			if err := h.broker.Publish(h.ctx, h.topic, message("m")); err != nil {
				h.Errorf("Publish() = %v, want nil", err)
			}
		}
	})
	wait()
	select {
	case <-all:
	case <-time.After(patience):
		mu.Lock()
		defer mu.Unlock()
		h.Errorf("%d of %d messages arrived", len(seen), publishers*each)
	}
}

func publisherReuse(h *harness) {
	sub := h.subscribe(messaging.Subscription{Group: "g", Prefetch: 1}, nil)
	m := messaging.NewMessage("m", []byte("first"))
	m.Headers = map[string]string{"name": "first"}
	first := m.Clone()
	h.publish(m)
	copy(m.Payload, "other")
	m.Headers["name"], m.Headers["more"] = "other", "other"
	got := sub.receive()
	if fault := differs(got.Message, first); fault != "" {
		h.Error(fault)
	}
	h.ack(got)
}

func reservedHeaders(h *harness) {
	sub := h.group("g")
	m := message("m")
	m.Headers = map[string]string{"mine": "kept", messaging.HeaderDeadReason: "forged", "msg-attempt": "7"}
	h.publish(m)
	got := sub.receive()
	if want := map[string]string{"mine": "kept"}; !maps.Equal(got.Headers, want) || got.Attempt != 1 {
		h.Errorf("Headers, Attempt = %q, %d, want %q, 1", got.Headers, got.Attempt, want)
	}
	if len(m.Headers) != 3 {
		h.Errorf("Publish changed the headers of its argument to %q", m.Headers)
	}
	h.ack(got)
}

func partialBatch(h *harness) {
	sub := h.group("g")
	good := []messaging.Message{message("good"), message("good")}
	large := message("large")
	large.Payload = make([]byte, h.broker.Promises().MaxPayload+1)
	wide := message("wide")
	wide.Headers = map[string]string{"a": strings.Repeat("v", messaging.MaxHeaderBytes)}
	badName, badText := message("name"), message("text")
	badName.Headers = map[string]string{"no spaces": "v"}
	badText.Headers = map[string]string{"binary": "\xff"}
	anonymous := message("anonymous")
	anonymous.ID = ""

	err := h.broker.Publish(h.ctx, h.topic, good[0], large, wide, badName, badText, anonymous, good[1])
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok || len(batch.Errs) != 7 {
		h.Fatalf("Publish() = %v, want a *BatchError with 7 entries", err)
	}
	for i, want := range []error{nil, messaging.ErrTooLarge, messaging.ErrTooLarge, messaging.ErrInvalid, messaging.ErrInvalid, messaging.ErrInvalid, nil} {
		if got := batch.Errs[i]; (want == nil) != (got == nil) || !errors.Is(got, want) {
			h.Errorf("message %d: error = %v, want %v", i, got, want)
		}
	}
	// A nil entry says that the broker has taken the message.
	got := map[string]bool{}
	for range good {
		a := sub.receive()
		got[a.ID] = true
		h.ack(a)
	}
	if !got[good[0].ID] || !got[good[1].ID] {
		h.Errorf("received %v, want the two valid messages", got)
	}
}

func invalidTopic(h *harness) {
	for _, topic := range []string{"", "no spaces", "-x", ".x", "ü", "a/b", "a*", "#", strings.Repeat("x", 129)} {
		if err := h.broker.Publish(h.ctx, topic, message("m")); !errors.Is(err, messaging.ErrInvalid) {
			h.Errorf("Publish() to topic %q = %v, want ErrInvalid", topic, err)
		}
	}
}

func publishNothing(h *harness) {
	if err := h.broker.Publish(h.ctx, h.topic); err != nil {
		h.Errorf("Publish() of no message = %v, want nil", err)
	}
}

func unroutable(h *harness) {
	err := h.broker.Publish(h.ctx, h.topic, message("m"), message("m"))
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok || len(batch.Errs) != 2 || !errors.Is(batch.Errs[0], messaging.ErrUnroutable) || !errors.Is(batch.Errs[1], messaging.ErrUnroutable) {
		h.Errorf("Publish() = %v, want a *BatchError with twice ErrUnroutable", err)
	}
	h.group("g").stop()
	h.publish(message("m"))
}

func endedContext(h *harness) {
	h.group("g").stop()
	cause := errors.New("the caller has left")
	ctx, cancel := context.WithCancelCause(h.ctx)
	cancel(cause)
	if err := h.broker.Publish(ctx, h.topic, message("m")); !errors.Is(err, cause) {
		h.Errorf("Publish() = %v, want the cause of its context", err)
	}
}
