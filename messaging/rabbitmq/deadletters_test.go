package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// bury has the group set n numbered messages aside, after two attempts each.
func bury(t *testing.T, b *rabbitmq.Broker, topic, group string, n int) []messaging.Message {
	t.Helper()
	done := make(chan *messaging.Delivery, n)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: group}, failing(done))
	msgs := numbered(n)
	for i := range msgs { // one after the other, so that they die in this order
		msgs[i].Headers = map[string]string{"own": "v"}
		if err := b.Publish(within(t, patience), topic, msgs[i]); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
		receive(t, done)
	}
	sub.stop()
	return msgs
}

// failing returns a Deliver that sets aside what was tried twice, and passes it on
// to done.
func failing(done chan<- *messaging.Delivery) messaging.Deliver {
	return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if d.Attempt == 1 {
			return s.Settle(lease, messaging.Verdict{Kind: messaging.Retry, After: time.Millisecond})
		}
		err := s.Settle(lease, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent, Err: errors.New("bad")})
		done <- d
		return err
	}
}

// A letter is a dead letter in the hands of its reader.
type letter struct {
	d     *messaging.Delivery
	s     messaging.Settler
	lease context.Context
}

func (l letter) settle(t *testing.T, k messaging.Kind) {
	t.Helper()
	if err := l.s.Settle(t.Context(), messaging.Verdict{Kind: k, Reason: "other", Err: errors.New("other")}); err != nil {
		t.Errorf("Settle(%v) = %v, want nil", k, err)
	}
}

// readDead subscribes to dead letters.
func readDead(t *testing.T, b *rabbitmq.Broker, topic, group string) (*subscription, <-chan letter) {
	t.Helper()
	letters := make(chan letter, 100)
	return subscribe(t, b, messaging.Subscription{Topic: topic, Group: group, DeadLetters: true},
		func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			letters <- letter{d, s, lease}
			return nil
		}), letters
}

func TestDeadLettersAreReadOldestFirstAndSettledAsAsked(t *testing.T) {
	for name, classic := range map[string]bool{"quorum": false, "classic": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdmin(t)
			topic := a.topic("g")
			b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1], Classic: classic})
			want := bury(t, b, topic, "g", 5)
			sub, letters := readDead(t, b, topic, "g")
			var got []letter
			for i := range 5 {
				l := receive(t, letters)
				if l.d.ID != want[i].ID || l.d.Attempt != 1 || l.d.Headers[messaging.HeaderDeadAttempts] != "2" || l.d.Headers["own"] != "v" {
					t.Errorf("dead letter %d is %+v, want message %s with its reasons", i, l.d, want[i].ID)
				}
				got = append(got, l)
			}
			back := make(chan *messaging.Delivery, 10)
			work := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(back, messaging.Verdict{}))
			got[0].settle(t, messaging.Ack)
			before := maps.Clone(got[1].d.Headers)
			got[1].settle(t, messaging.DeadLetter)
			again := receive(t, letters)
			if again.d.ID != want[1].ID || !maps.Equal(again.d.Headers, before) || string(again.d.Payload) != string(want[1].Payload) {
				t.Errorf("put at the end it came as %+v, want message %s unchanged", again.d, want[1].ID)
			}
			got[2].settle(t, messaging.Retry)
			d := receive(t, back)
			if d.ID != want[2].ID || d.Attempt != 1 || !maps.Equal(d.Headers, want[2].Headers) || string(d.Payload) != string(want[2].Payload) {
				t.Errorf("moved back it came as %+v, want message %s, never tried and with its own headers", d, want[2].ID)
			}
			sub.cancel()
			again.settle(t, messaging.Release)
			got[4].settle(t, messaging.Release)
			got[3].settle(t, messaging.Release)
			sub.stop()
			work.stop()
			if n, dead := a.count(topic+".g"), a.count(topic+".g.dlq"); n != 0 || dead != 3 {
				t.Errorf("%d messages are in the queue and %d among the dead letters, want 0 and 3", n, dead)
			}
			_, letters = readDead(t, b, topic, "g")
			for _, i := range []int{3, 4, 1} {
				if l := receive(t, letters); l.d.ID != want[i].ID {
					t.Errorf("left as number %s, want %d", l.d.Payload, i)
				} else {
					l.settle(t, messaging.Ack)
				}
			}
		})
	}
}

func TestAReaderOfDeadLettersThatDiesLosesNothing(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	p, via := newProxy(t)
	want := bury(t, newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]}), topic, "g", 3)
	sub, letters := readDead(t, newBroker(t, rabbitmq.Config{URL: via, RetryDelays: rungs[:1]}), topic, "g")
	for round := range 3 {
		for i := range want {
			l := receive(t, letters)
			if l.d.ID != want[i].ID {
				t.Fatalf("round %d: dead letter %d is %s, want %s", round, i, l.d.ID, want[i].ID)
			}
			if i == len(want)-1 {
				p.Cut()
				receive(t, l.lease.Done())
			}
		}
		sub.awaitReady()
	}
	for range want {
		receive(t, letters).settle(t, messaging.Ack)
	}
	sub.stop()
}

func TestADeadLetterIsMovedBackOnlyOnceItIsStored(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	bury(t, b, topic, "g", 1)
	// A queue of the group's name that is full from the start.
	if err := a.do(func(ch *amqp.Channel) error {
		if _, err := ch.QueueDelete(topic+".g", false, false, false); err != nil {
			return err
		}
		_, err := ch.QueueDeclare(topic+".g", true, false, false, false, amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, letters := readDead(t, b, topic, "g")
	l := receive(t, letters)
	if err := l.s.Settle(t.Context(), messaging.Verdict{Kind: messaging.Retry}); err == nil {
		t.Error("Settle(Retry) = nil, want an error: the queue refused it")
	}
	if again := receive(t, letters); again.d.ID != l.d.ID || again.d.Headers[messaging.HeaderDeadError] != "bad" {
		t.Errorf("the dead letter is there as %+v, want it as it was", again.d)
	} else {
		again.settle(t, messaging.Ack)
	}
}

func TestWhatRabbitMQSetAsideByItselfTellsItsReason(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	a.declare(b, topic, "g")
	began := time.Now()
	if err := a.do(func(ch *amqp.Channel) error { // as a message ends that exceeds the queue's own limit
		// What publishes to the topic cannot set its attempt.
		if err := ch.Publish(topic, "", true, false, amqp.Publishing{MessageId: "1", Headers: amqp.Table{"msg-attempt": int64(7)}}); err != nil {
			return err
		}
		for {
			d, ok, err := ch.Get(topic+".g", false)
			if err != nil || ok {
				return errors.Join(err, d.Reject(false))
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	_, letters := readDead(t, b, topic, "g")
	l := receive(t, letters)
	h := l.d.Headers
	if h[messaging.HeaderDeadReason] != "rejected" || h[messaging.HeaderDeadTopic] != topic || h[messaging.HeaderDeadGroup] != "g" || h[messaging.HeaderDeadAttempts] != "1" {
		t.Errorf("its headers are %q, want the reason rejected, the topic, the group and 1 attempt", h)
	}
	if at, err := time.Parse(time.RFC3339Nano, h[messaging.HeaderDeadTime]); err != nil || at.Before(began.Add(-time.Minute)) {
		t.Errorf("header %s = %q, want about now", messaging.HeaderDeadTime, h[messaging.HeaderDeadTime])
	}
	l.settle(t, messaging.DeadLetter)
	again := receive(t, letters)
	if !maps.Equal(again.d.Headers, h) {
		t.Errorf("put at the end its headers are %q, want %q", again.d.Headers, h)
	}
	again.settle(t, messaging.Ack)
}

// The context of a reader may end while its deliver runs, and what was delivered before
// be given back at that time: nobody in the adapter knows of the end but the context.
func TestDeadLettersThatAReaderLeavesWhileItsDeliverRunsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	topic := newAdmin(t).topic("g")
	b := newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]})
	want := bury(t, b, topic, "g", 3)
	ctx, cancel := context.WithCancel(within(t, patience))
	defer cancel()
	var got []letter
	err := b.Subscribe(ctx, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true},
		func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			if got = append(got, letter{d, s, lease}); len(got) < len(want) {
				return nil
			}
			cancel()
			for _, l := range slices.Backward(got) {
				l.settle(t, messaging.Release)
			}
			time.Sleep(100 * time.Millisecond) // enough to catch a nack that does not wait for the others
			return nil
		})
	if err != nil {
		t.Fatalf("Subscribe() = %v, want nil", err)
	}
	_, letters := readDead(t, b, topic, "g")
	for i, m := range want {
		l := receive(t, letters)
		if l.d.ID != m.ID {
			t.Errorf("dead letter %d is message %s, want %s", i, l.d.ID, m.ID)
		}
		l.settle(t, messaging.Ack)
	}
}

func TestDeadLettersOfAGroupThatNeverWasAreNotFound(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("typo")
	b := newBroker(t, rabbitmq.Config{})
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: topic, Group: "typo", DeadLetters: true}, into(nil, messaging.Verdict{}))
	if !errors.Is(err, messaging.ErrNotFound) {
		t.Errorf("Subscribe() = %v, want ErrNotFound", err)
	}
	for _, queue := range []string{topic + ".typo", topic + ".typo.dlq"} {
		if err := a.do(func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err
		}); err == nil {
			t.Errorf("the queue %s was made", queue)
		}
	}
}

func TestAcknowledgementsEndTheirOwnDeliveriesWhateverTheirOrder(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	b := newBroker(t, rabbitmq.Config{})
	a.declare(b, topic, "g")
	const n = 300
	if err := b.Publish(within(t, patience), topic, numbered(n)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	first := newBroker(t, rabbitmq.Config{})
	settlers, full := map[string]messaging.Settler{}, make(chan struct{})
	subscribe(t, first, messaging.Subscription{Topic: topic, Group: "g", Prefetch: n}, func(_ context.Context, d *messaging.Delivery, s messaging.Settler) error {
		settlers[string(d.Payload)] = s
		if len(settlers) == n {
			close(full)
		}
		return nil
	})
	receive(t, full)
	// The order of a map: any. A third is acknowledged, the others come again.
	left := map[string]bool{}
	for number, s := range settlers {
		var i int
		if _, err := fmt.Sscan(number, &i); err != nil {
			t.Fatal(err)
		}
		if i > 5 && i%3 == 0 {
			if err := s.Settle(t.Context(), messaging.Verdict{}); err != nil {
				t.Errorf("Settle() = %v, want nil", err)
			}
			continue
		}
		left[number] = true
	}
	if err := first.Close(within(t, patience)); err != nil {
		t.Fatalf("Close() = %v, want nil", err)
	}
	got := make(chan *messaging.Delivery, n)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
	for range len(left) {
		d := receive(t, got)
		if !left[string(d.Payload)] {
			t.Errorf("message %s came again, though it was acknowledged or came already", d.Payload)
		}
		delete(left, string(d.Payload))
	}
	sub.stop()
	if rest := a.count(topic + ".g"); rest != 0 || len(got) != 0 {
		t.Errorf("%d messages are left and %d more came, want none", rest, len(got))
	}
}
