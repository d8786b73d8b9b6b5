package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestSubscribeGoesOnWhenItsQueueIsDeleted(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	got := make(chan *messaging.Delivery, 10)
	leases := make(chan context.Context, 10)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		leases <- lease
		got <- d
		if string(d.Payload) == "held" {
			return nil
		}
		return s.Settle(lease, messaging.Verdict{})
	})
	ctx := within(t, patience)
	if err := b.Publish(ctx, topic, messaging.NewMessage("T", []byte("held"))); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	receive(t, got)
	lease := receive(t, leases)
	if err := a.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(topic+".g", false, false, false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sub.awaitReady()
	receive(t, lease.Done())
	if cause := context.Cause(lease); !errors.Is(cause, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", cause)
	}
	if err := b.Publish(ctx, topic, messaging.NewMessage("T", []byte("after"))); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	if d := receive(t, got); string(d.Payload) != "after" {
		t.Errorf("received %q, want %q", d.Payload, "after")
	}
}

func TestSubscribeIsReadyOnlyWhenAllItsQueuesExist(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	a.declare(b, topic, "g")
	for _, suffix := range []string{"", ".dlq", ".retry.1000", ".retry.5000", ".retry.30000", ".retry.120000", ".retry.600000"} {
		if n := a.count(topic + ".g" + suffix); n != 0 {
			t.Errorf("queue %s holds %d messages, want 0", topic+".g"+suffix, n)
		}
	}
}

func TestSubscribeReportsAConflictingQueueAtOnce(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	if err := a.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(topic+".g", true, false, false, false, nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: topic, Group: "g"}, into(nil, messaging.Verdict{}))
	if !errors.Is(err, messaging.ErrTopology) {
		t.Errorf("Subscribe() = %v, want ErrTopology", err)
	}
	t.Run("and Publish a conflicting exchange", func(t *testing.T) {
		topic := a.topic()
		if err := a.do(func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(topic, "direct", false, false, false, false, nil)
		}); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(within(t, patience), topic, numbered(2)...); !errors.Is(err, messaging.ErrTopology) {
			t.Errorf("Publish() = %v, want ErrTopology", err)
		}
	})
}

func TestSubscribeRefusesBeforeTheNetwork(t *testing.T) {
	t.Parallel()
	b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	deliver := into(nil, messaging.Verdict{})
	for _, c := range []struct {
		s       messaging.Subscription
		deliver messaging.Deliver
	}{
		{messaging.Subscription{Topic: "t"}, deliver},
		{messaging.Subscription{Topic: "t", Group: "g", Prefetch: 1 << 16}, deliver},
		{messaging.Subscription{Topic: "amq.t", Group: "g"}, deliver},
		{messaging.Subscription{Topic: "t", Group: "g"}, nil},
	} {
		if err := b.Subscribe(t.Context(), c.s, c.deliver); !errors.Is(err, messaging.ErrInvalid) {
			t.Errorf("Subscribe(%+v) = %v, want ErrInvalid", c.s, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Subscribe(ended, messaging.Subscription{Topic: "t", Group: "g"}, deliver); err != nil {
		t.Errorf("Subscribe() with an ended context = %v, want nil", err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	if err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g"}, deliver); !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Subscribe() after Close = %v, want ErrClosed", err)
	}
}

func TestSubscribeEndsIntakeAndWaitsForWhatWasAccepted(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	a.declare(b, topic, "g")
	if err := b.Publish(within(t, patience), topic, numbered(20)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	type held struct {
		lease context.Context
		s     messaging.Settler
	}
	accepted, full, leave := make(chan held, 5), make(chan struct{}), make(chan struct{})
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
		if len(accepted) == 5 { // hold up the lane with the others prefetched
			close(full)
			<-leave
			return errors.New("stopping")
		}
		accepted <- held{lease, s}
		return nil
	})
	receive(t, full)
	sub.cancel()
	close(leave)
	for range 5 {
		h := receive(t, accepted)
		select {
		case <-sub.done:
			t.Fatal("Subscribe() returned before what it had accepted was settled")
		case <-time.After(moment):
		}
		if err := h.lease.Err(); err != nil {
			t.Errorf("the lease of an accepted delivery ended with %v", err)
		}
		if err := h.s.Settle(h.lease, messaging.Verdict{}); err != nil {
			t.Errorf("Settle() = %v, want nil", err)
		}
	}
	sub.stop()
	if n := a.count(topic + ".g"); n != 15 {
		t.Errorf("%d messages are left, want 15", n)
	}
}

func TestAcknowledgementsReachTheBrokerBeforeSubscribeReturns(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	const n = 2000
	for range 3 {
		a.declare(b, topic, "g")
		if err := b.Publish(within(t, patience), topic, numbered(n)...); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
		// All are settled at once, at the last moment.
		held := make([]messaging.Settler, 0, n)
		full := make(chan struct{})
		sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", Prefetch: n}, func(_ context.Context, _ *messaging.Delivery, s messaging.Settler) error {
			if held = append(held, s); len(held) == n {
				close(full)
			}
			return nil
		})
		receive(t, full)
		sub.cancel()
		for _, s := range held {
			if err := s.Settle(t.Context(), messaging.Verdict{}); err != nil {
				t.Errorf("Settle() = %v, want nil", err)
			}
		}
		sub.stop()
		if left := a.count(topic + ".g"); left != 0 {
			t.Errorf("%d of %d acknowledged messages are back in the queue", left, n)
		}
	}
}

func TestPrefetchBoundsWhatIsAcceptedAndUnsettled(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	a.declare(b, topic, "g")
	if err := b.Publish(within(t, patience), topic, numbered(50)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	held := make(chan messaging.Settler, 50)
	var open, most atomic.Int32
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", Prefetch: 3}, func(_ context.Context, _ *messaging.Delivery, s messaging.Settler) error {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		held <- s
		return nil
	})
	for range 50 {
		s := receive(t, held)
		open.Add(-1)
		if err := s.Settle(t.Context(), messaging.Verdict{}); err != nil {
			t.Errorf("Settle() = %v, want nil", err)
		}
	}
	if most.Load() > 3 {
		t.Errorf("%d deliveries were open at once, want at most 3", most.Load())
	}
}

func TestOrderHoldsWithinASubscriber(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	got := make(chan *messaging.Delivery, 1000)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
	const n = 1000
	if err := b.Publish(within(t, patience), topic, numbered(n)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	for i := range n {
		if d := receive(t, got); string(d.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d carries %s", i, d.Payload)
		}
	}
}

func TestCloseEndsSubscribeAndItsLeases(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	type held struct {
		lease context.Context
		s     messaging.Settler
	}
	accepted := make(chan held, 1)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, _ *messaging.Delivery, s messaging.Settler) error {
		accepted <- held{lease, s}
		return nil
	})
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	h := receive(t, accepted)
	if err := b.Close(within(t, patience)); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	<-sub.done
	if !errors.Is(sub.err, messaging.ErrClosed) {
		t.Errorf("Subscribe() = %v, want ErrClosed", sub.err)
	}
	if cause := context.Cause(h.lease); !errors.Is(cause, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", cause)
	}
	if err := h.s.Settle(t.Context(), messaging.Verdict{Kind: messaging.Retry}); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Settle() after the lease = %v, want ErrLost", err)
	}
	if d := a.get(topic + ".g"); !d.Redelivered {
		t.Errorf("the message that was not settled is in the queue as %+v", d)
	}
}

func TestAPanicInDeliverGoesOnAndGivesTheMessageBack(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(){
		"panic":          func() { panic("on purpose") },
		"runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdmin(t)
			topic := a.topic("g")
			b := newBroker(t, rabbitmq.Config{})
			a.declare(b, topic, "g")
			if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
				t.Fatalf("Publish() = %v, want nil", err)
			}
			ended, leases := make(chan any, 1), make(chan context.Context, 1)
			go func() {
				defer func() { ended <- recover() }()
				_ = b.Subscribe(context.Background(), messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, _ *messaging.Delivery, _ messaging.Settler) error {
					leases <- lease
					leave()
					return nil
				})
			}()
			got := receive(t, ended)
			if name == "panic" && got != "on purpose" {
				t.Errorf("Subscribe() ended with %v, want the panic of deliver", got)
			}
			receive(t, receive(t, leases).Done())
			if d := a.get(topic + ".g"); !d.Redelivered {
				t.Error("the message was not given back")
			}
		})
	}
}

func TestForeignMessagesArrive(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	deliveries := make(chan *messaging.Delivery, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{}
		if d.Attempt == 1 {
			v.Kind = messaging.Retry
		}
		err := s.Settle(lease, v)
		deliveries <- d
		return err
	})
	if err := a.do(func(ch *amqp.Channel) error {
		return ch.PublishWithContext(t.Context(), topic, "any.key", true, false, amqp.Publishing{
			Headers: amqp.Table{"n": int32(7), "CC": []any{"nowhere"}}, UserId: "guest", Expiration: "60000", Body: []byte("hello"),
		})
	}); err != nil {
		t.Fatal(err)
	}
	first := receive(t, deliveries)
	if string(first.Payload) != "hello" || first.Headers["n"] != "7" || first.ID == "" || first.Attempt != 1 {
		t.Errorf("received %+v", first)
	}
	second := receive(t, deliveries)
	if second.ID != first.ID || second.Attempt != 2 || string(second.Payload) != "hello" || second.Headers["n"] != "7" {
		t.Errorf("retried as %+v, want the same with Attempt 2", second)
	}
}

func TestAttemptAndWaitAreBelievedOnlyOfRetries(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	deliveries := make(chan *messaging.Delivery, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		v := messaging.Verdict{}
		if d.Attempt == 1 {
			v = messaging.Verdict{Kind: messaging.Retry, After: 150 * time.Millisecond} // through two rungs
		}
		err := s.Settle(lease, v)
		deliveries <- d
		return err
	})
	if err := a.do(func(ch *amqp.Channel) error {
		return ch.PublishWithContext(t.Context(), topic, "any.key", true, false, amqp.Publishing{
			MessageId: "1", Headers: amqp.Table{"msg-attempt": int64(9), "msg-wait": int64(1 << 40)},
		})
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 2} {
		if d := receive(t, deliveries); d.Attempt != want {
			t.Errorf("delivered with attempt %d, want %d", d.Attempt, want)
		}
	}
}
