package rabbitmq_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestRetryIsNotHeldUpByALongerDelay(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: []time.Duration{time.Second, 4 * time.Second}})
	back := make(chan *messaging.Delivery, 2)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if d.Attempt > 1 {
			back <- d
			return s.Settle(lease, messaging.Verdict{})
		}
		after, err := time.ParseDuration(string(d.Payload))
		if err != nil {
			return err
		}
		return s.Settle(lease, messaging.Verdict{Kind: messaging.Retry, After: after})
	})
	if err := b.Publish(within(t, patience), topic, messaging.NewMessage("T", []byte("4s")), messaging.NewMessage("T", []byte("900ms"))); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	for i, want := range []string{"900ms", "4s"} {
		if d := receive(t, back); string(d.Payload) != want || d.Attempt != 2 {
			t.Errorf("back as number %d: the one with delay %s, attempt %d, want %s, attempt 2", i+1, d.Payload, d.Attempt, want)
		}
	}
}

func TestAMessageThatFailsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: []time.Duration{5 * time.Second}})
	const n = 100
	done := make(chan string, 2*n)
	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{
		Concurrency: 1, Backoff: func(int) time.Duration { return 5 * time.Second }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Handle(messaging.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *messaging.Delivery) error {
		if string(d.Payload) == "7" && d.Attempt == 1 {
			return errors.New("on purpose")
		}
		done <- string(d.Payload)
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	receive(t, c.Ready())
	if err := b.Publish(within(t, patience), topic, numbered(n)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	for i := range n {
		if got := receive(t, done); (got == "7") != (i == n-1) {
			t.Errorf("number %d to be handled is message %s, want 7 after all others", i, got)
		}
	}
	cancel()
	running.Wait()
}

func TestRetryComesBackNoEarlierThanAsked(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}})
	type seen struct {
		d  *messaging.Delivery
		at time.Time
	}
	got := make(chan seen, 10)
	// Longer than the longest rung: the message passes through several.
	const after = 1100 * time.Millisecond
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{}
		if d.Attempt < 3 {
			v = messaging.Verdict{Kind: messaging.Retry, After: after * time.Duration(2-d.Attempt)}
		}
		now := time.Now()
		err := s.Settle(lease, v)
		got <- seen{d, now}
		return err
	})
	m := messaging.NewMessage("T", []byte("x"))
	m.Headers = map[string]string{"own": "v"}
	if err := b.Publish(within(t, patience), topic, m); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	first, second, third := receive(t, got), receive(t, got), receive(t, got)
	if first.d.Attempt != 1 || second.d.Attempt != 2 || third.d.Attempt != 3 {
		t.Errorf("attempts %d, %d, %d, want 1, 2, 3", first.d.Attempt, second.d.Attempt, third.d.Attempt)
	}
	if waited := second.at.Sub(first.at); waited < after {
		t.Errorf("came back after %v, want at least %v", waited, after)
	}
	if third.d.ID != m.ID || third.d.Headers["own"] != "v" || len(third.d.Headers) != 1 || !third.d.Time.Equal(m.Time) {
		t.Errorf("the third attempt has %+v, want the message as it was published", third.d.Message)
	}
}

func TestDeadLetterKeepsTheMessageByteForByteWithReasons(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	const attempts = 5
	calls := make(chan int, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{Kind: messaging.Retry}
		if d.Attempt >= attempts {
			v = messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonExhausted, Err: errors.New("no such order")}
		}
		calls <- d.Attempt
		clear(d.Payload) // the receiver's own
		return s.Settle(lease, v)
	})
	m := messaging.NewMessage("OrderPlaced", []byte{0, 0xff, '{', 0xfe})
	m.Headers = map[string]string{"own": "v"}
	if err := b.Publish(within(t, patience), topic, m); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	d := a.get(topic + ".g.dlq")
	if string(d.Body) != string(m.Payload) || d.MessageId != m.ID || d.Type != m.Type || d.DeliveryMode != amqp.Persistent {
		t.Errorf("dead letter has body %v, ID %q, type %q, mode %d", d.Body, d.MessageId, d.Type, d.DeliveryMode)
	}
	for name, want := range map[string]string{
		"msg-dlq-reason": "exhausted", "msg-dlq-error": "no such order", "msg-dlq-attempts": strconv.Itoa(attempts),
		"msg-dlq-topic": topic, "msg-dlq-group": "g", "own": "v",
	} {
		if d.Headers[name] != want {
			t.Errorf("header %s = %v, want %q", name, d.Headers[name], want)
		}
	}
	if _, err := time.Parse(time.RFC3339, d.Headers["msg-dlq-time"].(string)); err != nil {
		t.Errorf("header msg-dlq-time: %v", err)
	}
	if len(calls) != attempts {
		t.Errorf("the message was delivered %d times, want %d", len(calls), attempts)
	}
	if n := a.count(topic + ".g"); n != 0 {
		t.Errorf("%d messages are left in the queue, want 0", n)
	}
}

func TestRetryKeepsTheAttemptWhereAsked(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	got := make(chan *messaging.Delivery, 3)
	calls := 0
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{Kind: messaging.Retry, KeepAttempt: calls == 0, After: time.Duration(calls)}
		if calls++; calls == 3 {
			v.Kind = messaging.Ack
		}
		err := s.Settle(lease, v)
		got <- d
		return err
	})
	if err := b.Publish(within(t, patience), topic, messaging.NewMessage("T", []byte("payload"))); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	for i, want := range []int{1, 1, 2} {
		if d := receive(t, got); d.Attempt != want {
			t.Errorf("delivery %d has attempt %d, want %d", i+1, d.Attempt, want)
		}
	}
}

func TestTheFirstSettleWins(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	got := make(chan *messaging.Delivery, 10)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		for _, k := range []messaging.Kind{messaging.Ack, messaging.Ack, messaging.Release, messaging.Retry, messaging.DeadLetter} {
			if err := s.Settle(lease, messaging.Verdict{Kind: k}); err != nil {
				t.Errorf("Settle(%v) = %v, want nil", k, err)
			}
		}
		if err := s.Extend(lease, time.Minute); err != nil {
			t.Errorf("Extend() = %v, want nil", err)
		}
		got <- d
		return errors.New("a result after Settle changes nothing")
	})
	for i := range 10 {
		if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
		if d := receive(t, got); d.Redelivered || d.Attempt != 1 {
			t.Errorf("message %d was delivered again", i)
		}
	}
	sub.stop()
	if n, dead := a.count(topic+".g"), a.count(topic+".g.dlq"); n != 0 || dead != 0 {
		t.Errorf("%d messages are in the queue and %d among the dead letters, want none", n, dead)
	}
	if len(sub.ready) != 0 {
		t.Error("the channel was closed over a second settle")
	}
}

func TestReleaseGivesTheMessageBackWithItsAttempt(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	got := make(chan *messaging.Delivery, 10)
	calls := 0
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		calls++
		got <- d
		switch calls {
		case 1:
			return s.Settle(lease, messaging.Verdict{Kind: messaging.Release})
		case 2:
			return errors.New("not accepted")
		}
		return s.Settle(lease, messaging.Verdict{})
	})
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	for i := range 3 {
		if d := receive(t, got); d.Attempt != 1 || d.Redelivered != (i > 0) {
			t.Errorf("delivery %d: attempt %d, redelivered %v, want 1, %v", i+1, d.Attempt, d.Redelivered, i > 0)
		}
	}
}

func TestAMessageWhoseDeadLetterIsRefusedIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	results := make(chan error, 10)
	calls := 0
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if calls++; calls == 1 {
			results <- s.Settle(lease, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent})
			return nil
		}
		results <- nil
		return s.Settle(lease, messaging.Verdict{})
	})
	// A queue of the same name that is full from the start.
	if err := a.do(func(ch *amqp.Channel) error {
		if _, err := ch.QueueDelete(topic+".g.dlq", false, false, false); err != nil {
			return err
		}
		_, err := ch.QueueDeclare(topic+".g.dlq", true, false, false, false, amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	if err := receive(t, results); err == nil {
		t.Error("Settle(DeadLetter) = nil, want an error")
	}
	if err := receive(t, results); err != nil {
		t.Errorf("delivered again: %v", err)
	}
}

func TestDeletedRungsAndDeadLetterQueuesAreDeclaredAgain(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	attempts := make(chan int, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond}
		if d.Attempt == 2 {
			v.Kind = messaging.DeadLetter
		}
		if err := s.Settle(lease, v); err != nil {
			t.Errorf("Settle(%v) = %v, want nil", v.Kind, err)
		}
		attempts <- d.Attempt
		return nil
	})
	for round := range 2 {
		if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
		for want := 1; want <= 2; want++ {
			if got := receive(t, attempts); got != want {
				t.Errorf("round %d: attempt %d, want %d", round, got, want)
			}
		}
		if n := a.count(topic + ".g.dlq"); n != 1 {
			t.Errorf("round %d: %d dead letters, want 1", round, n)
		}
		for _, q := range []string{topic + ".g.dlq", topic + ".g.retry.100"} {
			if err := a.do(func(ch *amqp.Channel) error { _, err := ch.QueueDelete(q, false, false, false); return err }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestADeadLetterThatIsMovedBackHasAllItsAttempts(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	attempts := make(chan int, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{Kind: messaging.Retry}
		if d.Attempt == 2 {
			v.Kind = messaging.DeadLetter
		}
		err := s.Settle(lease, v)
		attempts <- d.Attempt
		return err
	})
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	for round := range 2 {
		for want := 1; want <= 2; want++ {
			if got := receive(t, attempts); got != want {
				t.Errorf("round %d: attempt %d, want %d", round, got, want)
			}
		}
		d := a.get(topic + ".g.dlq")
		// As a shovel does it: over the default exchange, with all headers.
		if err := a.do(func(ch *amqp.Channel) error {
			return ch.PublishWithContext(t.Context(), "", topic+".g", true, false, amqp.Publishing{MessageId: d.MessageId, Headers: d.Headers, Body: d.Body})
		}); err != nil {
			t.Fatal(err)
		}
	}
}
