package messagingtest

import (
	"errors"
	"time"

	"github.com/parley-go/parley/messaging"
)

func settling() []guarantee {
	return []guarantee{
		{name: "Ack ends a message", check: ackEnds},
		{name: "Retry comes again after its delay with Attempt one higher while others pass", check: retry},
		{name: "a Retry with KeepAttempt leaves Attempt as it is", check: keepAttempt},
		{name: "Release comes again with Attempt as it was", check: release},
		{name: "DeadLetter ends a message for its group", check: deadLetterEnds},
		{name: "the first Settle wins and later ones do nothing", check: firstSettle},
		{name: "a receiver's changes reach no other group and no later attempt", check: receiverReuse},
		{name: "Extend succeeds while a delivery is held", check: extend},
	}
}

func ackEnds(h *harness) {
	sub := h.group("g")
	h.publish(message("m"))
	h.ack(sub.receive())
	sub.stop()
	h.nothingLeft()
}

func retry(h *harness) {
	const delay = 200 * time.Millisecond
	sub := h.group("g")
	failing, passing := message("failing"), message("passing")
	failing.Headers = map[string]string{"a": "b"}
	h.publish(failing)
	a := sub.receive()
	began := time.Now()
	h.settle(a, messaging.Verdict{Kind: messaging.Retry, After: delay, Err: errors.New("failed")})
	h.publish(passing)
	p := sub.receive()
	h.ack(p)
	if p.ID != passing.ID {
		h.Errorf("the %s message came first, want the passing one while the other waits", p.Type)
	}
	b := sub.receive()
	if took := b.at.Sub(began); took < delay {
		h.Errorf("the message came again after %v, want at least %v", took, delay)
	}
	if fault := differs(b.Message, failing); fault != "" || b.Attempt != 2 {
		h.Errorf("the second attempt has Attempt %d, want 2; %s", b.Attempt, fault)
	}
	h.settle(b, messaging.Verdict{Kind: messaging.Retry})
	c := sub.receive()
	if c.ID != failing.ID || c.Attempt != 3 {
		h.Errorf("after a Retry without delay: %s at attempt %d, want failing at 3", c.Type, c.Attempt)
	}
	h.ack(c)
	sub.stop()
	h.nothingLeft()
}

func keepAttempt(h *harness) {
	sub := h.group("g")
	m := message("m")
	h.publish(m)
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond})
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond, KeepAttempt: true})
	a := sub.receive()
	if a.ID != m.ID || a.Attempt != 2 && !h.broker.Promises().CountsRelease {
		h.Errorf("Attempt = %d, want 2 as before the Retry", a.Attempt)
	}
	h.ack(a)
}

func release(h *harness) {
	sub := h.group("g")
	m := message("m")
	h.publish(m)
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.Release})
	a := sub.receive()
	if a.ID != m.ID || !a.Redelivered {
		h.Errorf("received %s, Redelivered %t, want %s, true", a.ID, a.Redelivered, m.ID)
	}
	if counts := h.broker.Promises().CountsRelease; counts != (a.Attempt > 1) {
		h.Errorf("Attempt = %d after a Release, and Promises().CountsRelease = %t", a.Attempt, counts)
	}
	h.ack(a)
}

func deadLetterEnds(h *harness) {
	sub, other := h.group("g"), h.group("other")
	h.publish(message("m"))
	h.settle(sub.receive(), messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent, Err: errors.New("bad")})
	sub.stop()
	h.ack(other.receive()) // for whom it is alive
	h.nothingLeft()
}

func firstSettle(h *harness) {
	sub := h.group("g")
	h.publish(message("m"))
	a := sub.receive()
	h.ack(a)
	for _, kind := range []messaging.Kind{messaging.Release, messaging.Retry, messaging.DeadLetter, messaging.Ack} {
		h.settle(a, messaging.Verdict{Kind: kind})
	}
	h.publish(message("n"))
	b := sub.receive()
	h.settle(b, messaging.Verdict{Kind: messaging.Release})
	h.settle(b, messaging.Verdict{Kind: messaging.Ack}) // must not settle the delivery that follows
	c := sub.receive()
	if c.ID != b.ID {
		h.Errorf("received the %s message, want the one that was released", c.Type)
	}
	h.ack(c)
	sub.stop()
	h.nothingLeft()
}

func receiverReuse(h *harness) {
	a, b := h.group("a"), h.group("b")
	want := messaging.NewMessage("m", []byte("payload"))
	want.Headers = map[string]string{"name": "value"}
	h.publish(want)
	spoil := func(d arrival) {
		copy(d.Payload, "spoiled")
		d.Headers["name"], d.Headers["more"] = "spoiled", "spoiled"
		d.ID, d.Attempt, d.Topic = "spoiled", 99, "spoiled"
	}
	first := a.receive()
	spoil(first)
	h.settle(first, messaging.Verdict{Kind: messaging.Release})
	second := a.receive()
	if fault := differs(second.Message, want); fault != "" {
		h.Errorf("after a Release: %s", fault)
	}
	spoil(second)
	h.settle(second, messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond})
	third := a.receive()
	if fault := differs(third.Message, want); fault != "" {
		h.Errorf("after a Retry: %s", fault)
	}
	if got := third.Attempt; got != 2 && !h.broker.Promises().CountsRelease {
		h.Errorf("Attempt = %d after a Retry of the first, want 2", got)
	}
	h.ack(third)
	other := b.receive()
	if fault := differs(other.Message, want); fault != "" {
		h.Errorf("in the other group: %s", fault)
	}
	h.ack(other)
}

func extend(h *harness) {
	sub := h.group("g")
	h.publish(message("m"))
	a := sub.receive()
	if err := a.Extend(h.ctx, time.Second); err != nil {
		h.Errorf("Extend() = %v, want nil", err)
	}
	h.ack(a)
}
