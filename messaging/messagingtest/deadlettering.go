package messagingtest

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/parley-go/parley/messaging"
)

func deadLettering() []guarantee {
	return []guarantee{
		{name: "a dead letter is the message byte for byte with the reason", check: deadLetterContent},
		{name: "a subscription to dead letters receives them alone and the oldest first", check: deadLetterOrder},
		{name: "a subscription to dead letters receives what dies while it runs", check: deadLetterLater},
		{name: "Ack deletes a dead letter and Release leaves it where it is", check: deadLetterRelease},
		{name: "DeadLetter puts a dead letter unchanged at the end", check: deadLetterToEnd},
		{name: "Retry moves a dead letter back as one that was never tried", check: deadLetterBack},
		{name: "DeadLetters shows dead letters and leaves them there", check: deadLettersShown},
		{name: "Redrive moves what its filter takes and leaves the rest in order", check: redriveFilter},
		{name: "several Redrives at once lose nothing", check: redriveCrowd},
		{name: "Redrive moves no message twice that dies again", check: redriveAgain},
	}
}

// dead subscribes to the dead letters of group g.
func (h *harness) dead() *subscription {
	h.Helper()
	return h.subscribe(messaging.Subscription{Group: "g", DeadLetters: true}, nil)
}

// bury has group g set aside messages of the given types, and returns them.
func (h *harness) bury(types ...string) []messaging.Message {
	h.Helper()
	sub := h.group("g")
	msgs := make([]messaging.Message, len(types))
	for i, typ := range types {
		msgs[i] = message(typ)
		h.publish(msgs[i])
		h.settle(sub.receive(), messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent, Err: errors.New("bad")})
	}
	sub.stop()
	return msgs
}

// types asserts what the next deliveries are of, and returns them.
func (s *subscription) types(want ...string) []arrival {
	s.h.Helper()
	got := make([]arrival, len(want))
	for i, typ := range want {
		if got[i] = s.receive(); got[i].Type != typ {
			s.h.Fatalf("delivery %d is of type %s, want %s of %s", i, got[i].Type, typ, want)
		}
	}
	return got
}

func deadLetterContent(h *harness) {
	const longest = 1 << 10
	sub := h.group("g")
	want := messaging.Message{
		ID: "id", Type: "T", Source: "/s", Subject: "sub", Key: "k", ContentType: "text/plain", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Headers: map[string]string{"mine": "kept"}, Payload: []byte("\x00\xff{not json"),
	}
	h.publish(want)
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond})
	a := sub.receive()
	a.Payload, a.Headers = []byte("changed by the handler"), nil
	before := time.Now()
	h.settle(a, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonExhausted, Err: errors.New("\x00\xff" + strings.Repeat("ü", longest))})
	sub.stop()

	letter := h.dead().receive()
	defer h.ack(letter)
	got := letter.Headers
	for name, want := range map[string]string{
		messaging.HeaderDeadReason:   messaging.ReasonExhausted,
		messaging.HeaderDeadAttempts: "2",
		messaging.HeaderDeadTopic:    h.topic,
		messaging.HeaderDeadGroup:    "g",
	} {
		if got[name] != want {
			h.Errorf("header %s = %q, want %q", name, got[name], want)
		}
	}
	if text := got[messaging.HeaderDeadError]; !strings.Contains(text, "üüü") || len(text) > longest || !utf8.ValidString(text) || strings.Contains(text, "\x00") {
		h.Errorf("header %s = %d bytes %.40q, want at most %d of UTF-8 without NUL", messaging.HeaderDeadError, len(text), text, longest)
	}
	at, err := time.Parse(time.RFC3339Nano, got[messaging.HeaderDeadTime])
	if err != nil || at.Before(before.Add(-time.Hour)) || at.After(before.Add(time.Hour)) {
		h.Errorf("header %s = %q, want the time at which it was set aside", messaging.HeaderDeadTime, got[messaging.HeaderDeadTime])
	}
	maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, "msg-dlq-") })
	if fault := differs(letter.Message, want); fault != "" {
		h.Error(fault)
	}
}

func deadLetterOrder(h *harness) {
	h.bury("first", "second", "third")
	h.publish(message("alive"))
	sub := h.dead()
	for i, a := range sub.types("first", "second", "third") {
		if a.Topic != h.topic || a.Group != "g" || a.Headers[messaging.HeaderDeadReason] != messaging.ReasonPermanent {
			h.Errorf("dead letter %d has Topic %s, Group %s, reason %q, want %s, g, permanent", i, a.Topic, a.Group, a.Headers[messaging.HeaderDeadReason], h.topic)
		}
		h.ack(a)
	}
	alive := h.group("g")
	h.ack(alive.types("alive")[0])
	if n := len(sub.arrivals); n != 0 {
		h.Errorf("%d more deliveries came with the dead letters, want 0", n)
	}
	sub.stop()
}

func deadLetterLater(h *harness) {
	h.group("g").stop()
	sub := h.dead()
	h.bury("later")
	h.ack(sub.types("later")[0])
	sub.stop()
}

func deadLetterRelease(h *harness) {
	h.bury("deleted", "left", "last")
	sub := h.dead()
	got := sub.types("deleted", "left", "last")
	h.ack(got[0])
	sub.cancel() // before the others are given back, or they would come again
	h.settle(got[2], messaging.Verdict{Kind: messaging.Release})
	h.settle(got[1], messaging.Verdict{Kind: messaging.Release})
	if err := sub.returned(); err != nil {
		h.Errorf("Subscribe() = %v, want nil", err)
	}
	again := h.dead()
	for _, a := range again.types("left", "last") {
		h.ack(a)
	}
	again.stop()
	h.noneDead()
}

// noneDead asserts that group g has set nothing aside but what dies from now on.
func (h *harness) noneDead() {
	h.Helper()
	h.bury("marker")
	sub := h.dead()
	h.ack(sub.types("marker")[0])
	sub.stop()
}

func deadLetterToEnd(h *harness) {
	want := h.bury("moved", "other")
	sub := h.subscribe(messaging.Subscription{Group: "g", DeadLetters: true, Prefetch: 1}, nil)
	first := sub.types("moved")[0]
	before := maps.Clone(first.Headers)
	h.settle(first, messaging.Verdict{Kind: messaging.DeadLetter, Reason: "another", Err: errors.New("other")})
	h.ack(sub.types("other")[0])
	last := sub.types("moved")[0]
	if !maps.Equal(last.Headers, before) {
		h.Errorf("its headers are now %q, want %q as before", last.Headers, before)
	}
	last.Headers = nil
	if fault := differs(last.Message, want[0]); fault != "" {
		h.Error(fault)
	}
	h.ack(last)
	sub.stop()
}

func deadLetterBack(h *harness) {
	sub, other := h.group("g"), h.group("other")
	want := message("m")
	want.Headers, want.Key = map[string]string{"mine": "kept"}, "k"
	h.publish(want)
	h.ack(other.receive())
	other.stop() // or what it receives meanwhile would outlive its lease
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond})
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonExhausted})
	dead := h.dead()
	h.settle(dead.receive(), messaging.Verdict{Kind: messaging.Retry})
	a := sub.receive()
	if fault := differs(a.Message, want); fault != "" || a.Attempt != 1 {
		h.Errorf("Attempt = %d, want 1; %s", a.Attempt, fault)
	}
	h.ack(a)
	dead.stop()
	sub.stop()
	h.nothingLeft()
	h.noneDead()
	h.publish(message("marker"))
	if a := h.group("other").receive(); a.ID == want.ID {
		h.Error("another group received the message a second time")
	} else {
		h.ack(a)
	}
}

func deadLettersShown(h *harness) {
	want := h.bury("1", "2", "3")
	for _, n := range []int{2, 4} { // fewer than there are, and more
		got, err := messaging.DeadLetters(h.ctx, h.broker, messaging.Subscription{Topic: h.topic, Group: "g"}, n)
		if err != nil || len(got) != min(n, 3) {
			h.Fatalf("DeadLetters(%d) = %d, %v, want %d, nil", n, len(got), err, min(n, 3))
		}
		for i, m := range got {
			if m.ID != want[i].ID || m.Headers[messaging.HeaderDeadError] != "bad" {
				h.Errorf("dead letter %d is message %s with error %q, want %s, bad", i, m.Type, m.Headers[messaging.HeaderDeadError], want[i].Type)
			}
		}
	}
}

// redrive runs Redrive, which must succeed.
func (h *harness) redrive(cfg messaging.RedriveConfig) messaging.Redriven {
	h.Helper()
	cfg.Rate = 10_000
	got, err := messaging.Redrive(h.ctx, h.broker, messaging.Subscription{Topic: h.topic, Group: "g"}, cfg)
	if err != nil {
		h.Errorf("Redrive() = %v, want nil", err)
	}
	return got
}

func redriveFilter(h *harness) {
	h.bury("left 1", "taken 1", "left 2", "left 3", "taken 2", "taken 3")
	sub := h.group("g")
	taken := func(d *messaging.Delivery) bool { return strings.HasPrefix(d.Type, "taken") }
	if got, want := h.redrive(messaging.RedriveConfig{Filter: taken}), (messaging.Redriven{Moved: 3, Kept: 3, Complete: true}); got != want {
		h.Fatalf("Redrive() = %+v, want %+v", got, want)
	}
	for _, a := range sub.types("taken 1", "taken 2", "taken 3") {
		h.ack(a)
	}
	if got, want := h.redrive(messaging.RedriveConfig{Max: 1}), (messaging.Redriven{Moved: 1}); got != want {
		h.Errorf("Redrive() of 1 = %+v, want %+v", got, want)
	}
	h.ack(sub.types("left 1")[0])
	if got, want := h.redrive(messaging.RedriveConfig{}), (messaging.Redriven{Moved: 2, Complete: true}); got != want {
		h.Errorf("Redrive() of all = %+v, want %+v", got, want)
	}
	for _, a := range sub.types("left 2", "left 3") {
		h.ack(a)
	}
	sub.stop()
	h.nothingLeft()
	h.noneDead()
}

func redriveCrowd(h *harness) {
	const total, redrives = 60, 3
	types := make([]string, total)
	for i := range types {
		types[i] = strconv.Itoa(i % 2)
	}
	want := map[string]bool{}
	for _, m := range h.bury(types...) {
		want[m.ID] = true
	}
	even := func(d *messaging.Delivery) bool { return d.Type == "0" }
	var mu sync.Mutex
	moved := 0
	h.each(redrives, func(int) {
		got := h.redrive(messaging.RedriveConfig{Filter: even})
		mu.Lock()
		defer mu.Unlock()
		moved += got.Moved
	})()
	// One may end while another one still holds what it would have moved.
	moved += h.redrive(messaging.RedriveConfig{Filter: even}).Moved
	if moved != total/2 {
		h.Errorf("together they moved %d, want %d", moved, total/2)
	}
	alive, dead := h.group("g"), h.dead()
	for i := range total {
		sub, typ := alive, "0"
		if i >= total/2 {
			sub, typ = dead, "1"
		}
		a := sub.types(typ)[0]
		if !want[a.ID] {
			h.Errorf("message %s came twice", a.ID)
		}
		delete(want, a.ID)
		h.ack(a)
	}
	dead.stop()
	alive.stop()
	h.nothingLeft()
	h.noneDead()
}

func redriveAgain(h *harness) {
	const total = 5
	h.bury("m", "m", "m", "m", "m")
	var deaths atomic.Int64
	all := make(chan struct{})
	stop := h.consume(messaging.ConsumerConfig{OnSettle: func(messaging.Settled) {
		if deaths.Add(1) == total {
			close(all)
		}
	}}, func(context.Context, *messaging.Delivery) error { return messaging.Permanent(errors.New("still bad")) })
	got := h.redrive(messaging.RedriveConfig{})
	if got.Moved != total || !got.Complete {
		h.Fatalf("Redrive() = %+v, want %d moved and complete", got, total)
	}
	await(h, all, "the dead-lettering of all")
	if err := stop(); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
	if n := deaths.Load(); n != total {
		h.Errorf("the messages were handled %d times, want %d, once each", n, total)
	}
	dead := h.dead()
	for range total {
		a := dead.receive()
		if a.Headers[messaging.HeaderDeadError] != "still bad" {
			h.Errorf("a dead letter says %q, want still bad", a.Headers[messaging.HeaderDeadError])
		}
		h.ack(a)
	}
	dead.stop()
}
