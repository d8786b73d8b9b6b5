package sqs_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

func TestAMessageThatSomeGroupsHaveIsNotConfirmed(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "x"}).stop()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "y"}).stop()
	s.Break(func(op string, before int) *sqsfake.Fault {
		if op == "SendMessageBatch" && before > 0 { // the first goes to one of the two groups
			return &sqsfake.Fault{Status: http.StatusBadRequest, Code: "RequestThrottled"}
		}
		return nil
	})
	err := b.Publish(within(t, 700*time.Millisecond), topic, message("", 1))
	if !errors.Is(err, messaging.ErrNotConfirmed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish() = %v, want ErrNotConfirmed and the cause of its context", err)
	}
	if x, y := s.Len(topic+"_to_x"), s.Len(topic+"_to_y"); x+y != 1 {
		t.Errorf("the groups hold %d and %d, want 1 together", x, y)
	}
}

func TestAQueueDeletedAMinuteAgoIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	s.Break(failing("CreateQueue", 2, sqsfake.Fault{Status: http.StatusBadRequest, Code: "QueueDeletedRecently", Text: "You must wait 60 seconds"}))
	sub := subscribe(t, b, messaging.Subscription{Topic: "orders", Group: "mail"})
	publish(t, b, "orders", message("", 1))
	sub.receive().ack(t)
}

func TestAQueueThatAnotherMakesAtTheSameTimeIsAsGood(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	subscribe(t, newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg)}), messaging.Subscription{Topic: "orders", Group: "mail"}).stop()
	s.Break(failing("GetQueueUrl", 1, sqsfake.Fault{Status: http.StatusBadRequest, Code: "QueueDoesNotExist"}))
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Visibility: time.Minute}) // settings of its own
	sub := subscribe(t, b, messaging.Subscription{Topic: "orders", Group: "mail"})
	publish(t, b, "orders", message("", 1))
	sub.receive().ack(t)
}

func TestAMessageThatIsLostWhileItWaitsForTheOneBeforeItKeepsItsPlace(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{FIFO: true, Visibility: 2 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("k", 1), message("k", 2), message("k", 3))
	first := sub.receive()
	// Nothing that waits can be extended any more; the first is, before that.
	if err := first.Extend(t.Context(), 20*time.Second); err != nil {
		t.Fatalf("Extend() = %v, want nil", err)
	}
	s.Break(failing("ChangeMessageVisibilityBatch", 1<<30, sqsfake.Fault{Status: http.StatusInternalServerError, Code: "InternalError"}))
	time.Sleep(3 * time.Second) // until their visibility has ended
	s.Break(nil)
	first.ack(t)
	for _, want := range []string{"2", "3"} {
		d := sub.receive()
		if string(d.Payload) != want || d.Attempt != 1 {
			t.Fatalf("message %s came at attempt %d where %s was next at 1: no handler has had it", d.Payload, d.Attempt, want)
		}
		d.ack(t)
	}
}

func TestADeliveryThatSQSCallsLostEndsItsLease(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1), message("", 2))
	d, other := sub.receive(), sub.receive()
	s.Break(failing("ChangeMessageVisibilityBatch", 1, sqsfake.Fault{Fail: map[int]string{0: "ReceiptHandleIsInvalid"}}))
	if err := d.Extend(t.Context(), time.Second); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Extend() = %v, want ErrLost", err)
	}
	if got := context.Cause(d.lease); !errors.Is(got, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", got)
	}
	if err := d.Settle(t.Context(), messaging.Verdict{}); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Settle() = %v, want ErrLost", err)
	}
	if err := other.Settle(t.Context(), messaging.Verdict{Kind: 99}); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Settle() of an unknown kind = %v, want ErrInvalid", err)
	}
	if err := other.Extend(t.Context(), time.Second); err != nil {
		t.Errorf("Extend() of what is settled = %v, want nil", err)
	}
	if d := sub.receive(); d.ID != other.ID {
		t.Errorf("received %s, want what was settled in no known way, again", d.Payload)
	} else {
		d.ack(t)
	}
}

func TestADeadLetterThatCannotBeStoredIsNotDeleted(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1))
	d := sub.receive()
	s.Break(failing("SendMessageBatch", 1<<30, sqsfake.Fault{Status: http.StatusForbidden, Code: "AccessDenied", Text: "no sqs:SendMessage"}))
	err := d.Settle(t.Context(), messaging.Verdict{Kind: messaging.DeadLetter})
	if !errors.Is(err, messaging.ErrDenied) || !strings.Contains(err.Error(), "stays where it was") {
		t.Errorf("Settle() = %v, want ErrDenied and what became of the message", err)
	}
	if n, dead := s.Len(topic+"_to_g"), s.Len(topic+"_to_g_dlq"); n != 1 || dead != 0 {
		t.Errorf("the queue holds %d and the dead letters %d, want 1 and 0", n, dead)
	}
}

func TestADeniedReceiveEndsTheSubscription(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	sub := subscribe(t, b, messaging.Subscription{Topic: "orders", Group: "mail"})
	var denied atomic.Bool
	denied.Store(true)
	s.Break(func(op string, _ int) *sqsfake.Fault {
		if op == "ReceiveMessage" && denied.Load() {
			return &sqsfake.Fault{Status: http.StatusForbidden, Code: "AccessDenied", Text: "no sqs:ReceiveMessage"}
		}
		return nil
	})
	receive(t, sub.done)
	if !errors.Is(sub.err, messaging.ErrDenied) {
		t.Errorf("Subscribe() = %v, want ErrDenied", sub.err)
	}
	if err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "orders", Group: "mail"}, nil); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Subscribe() without a deliver = %v, want ErrInvalid", err)
	}
}

func TestADeletedTopicOfSNSIsUnroutable(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: topicsOf(cfg)})
	topic := unique()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}).stop()
	publish(t, b, topic, message("", 1))
	s.Forget(topic)
	if err := b.Publish(within(t, patience), topic, message("", 2)); !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() = %v, want ErrUnroutable", err)
	}
}

func TestEntriesThatSNSRefusesFailAlone(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: topicsOf(cfg)})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	s.Break(failing("PublishBatch", 1, sqsfake.Fault{Fail: map[int]string{1: "SenderInvalid", 2: "InternalError"}}))
	err := b.Publish(within(t, patience), topic, message("", 0), message("", 1), message("", 2))
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok || batch.Errs[0] != nil || !errors.Is(batch.Errs[1], messaging.ErrInvalid) || batch.Errs[2] != nil {
		t.Errorf("Publish() = %v, want ErrInvalid of the second alone", err)
	}
	for range 2 {
		sub.receive().ack(t)
	}
}

func TestSubscribeReturnsAfterTheDeletesWereAnswered(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1), message("", 2), message("", 3))
	s.Break(failing("DeleteMessageBatch", 3, sqsfake.Fault{Status: http.StatusInternalServerError, Code: "InternalError"}))
	for range 3 {
		d := sub.receive()
		go func() { _ = d.Settle(context.WithoutCancel(t.Context()), messaging.Verdict{Kind: messaging.Ack}) }()
	}
	sub.stop()
	if n := s.Len(topic + "_to_g"); n != 0 {
		t.Errorf("the queue holds %d messages when Subscribe has returned, want all deleted", n)
	}
}

func TestOrderIsKeptThoughRequestsFail(t *testing.T) {
	t.Parallel()
	const total = 60
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{FIFO: true, Visibility: 20 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	s.Break(func(op string, before int) *sqsfake.Fault {
		switch {
		case op == "SendMessageBatch" && before%5 == 1:
			return &sqsfake.Fault{Lose: true}
		case op == "SendMessageBatch" && before%5 == 3, op == "DeleteMessageBatch" && before%7 == 3:
			return &sqsfake.Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"}
		}
		return nil
	})
	msgs := make([]messaging.Message, 0, 2*total)
	for i := range total {
		msgs = append(msgs, message("a", i), message("b", i))
	}
	sent := make(chan error, 1)
	go func() { sent <- b.Publish(within(t, patience), topic, msgs...) }()
	next := map[string]int{}
	for range msgs {
		d := sub.receive()
		if got, want := string(d.Payload), strconv.Itoa(next[d.Key]); got != want {
			t.Fatalf("message %s of %s came where %s was next", got, d.Key, want)
		}
		next[d.Key]++
		d.ack(t)
	}
	if err := receive(t, sent); err != nil {
		t.Errorf("Publish() = %v, want nil", err)
	}
}

func TestAQueueDeletedUnderAPublisherIsForgotten(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	c := awssqs.NewFromConfig(cfg)
	b := newBroker(t, sqs.Config{Client: c})
	sqs.SetFreshly(b, time.Hour, 0) // it learns of it by the answers alone
	for _, group := range []string{"x", "y"} {
		if _, err := c.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String("orders_to_" + group)}); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, "orders", message("", 1))
	remove := func(group string) {
		t.Helper()
		if _, err := c.DeleteQueue(t.Context(), &awssqs.DeleteQueueInput{QueueUrl: urlOf(t, c, "orders_to_"+group)}); err != nil {
			t.Fatal(err)
		}
	}
	remove("x")
	publish(t, b, "orders", message("", 2))
	if n := s.Len("orders_to_y"); n != 2 {
		t.Errorf("the queue that is left holds %d messages, want 2: each once", n)
	}
	remove("y")
	if err := b.Publish(within(t, patience), "orders", message("", 3)); !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() without a group = %v, want ErrUnroutable", err)
	}
}

// SQS lists a queue for up to a minute after it was deleted.
func TestAQueueThatIsListedAndDoesNotExistIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "x"}).stop()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "y"}).stop()
	s.Break(func(op string, before int) *sqsfake.Fault {
		if op == "SendMessageBatch" && before > 0 { // the first goes to one of the two groups
			return &sqsfake.Fault{Status: http.StatusBadRequest, Code: "QueueDoesNotExist"}
		}
		return nil
	})
	err := b.Publish(within(t, 1200*time.Millisecond), topic, message("", 1))
	if !errors.Is(err, messaging.ErrNotConfirmed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish() = %v, want ErrNotConfirmed, since a group has it, and the cause of its context", err)
	}
	s.Break(nil)
	publish(t, b, topic, message("", 2))
}

func TestAPurgedQueueEndsTheLeasesOfWhatItHeld(t *testing.T) {
	t.Parallel()
	c := client(serverURL(t))
	b := newBroker(t, sqs.Config{Client: c})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1), message("", 2))
	first, second := sub.receive(), sub.receive()
	if _, err := c.PurgeQueue(t.Context(), &awssqs.PurgeQueueInput{QueueUrl: urlOf(t, c, topic+"_to_g")}); err != nil {
		t.Fatal(err)
	}
	if err := first.Extend(t.Context(), time.Minute); !errors.Is(err, messaging.ErrLost) || first.lease.Err() == nil {
		t.Errorf("Extend() of what was purged = %v, want ErrLost and the lease ended", err)
	}
	if err := second.Settle(t.Context(), messaging.Verdict{}); err != nil && !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Settle() of what was purged = %v, want nil or ErrLost", err)
	}
	publish(t, b, topic, message("", 3))
	if d := sub.receive(); string(d.Payload) != "3" {
		t.Errorf("received %s, want 3", d.Payload)
	} else {
		d.ack(t)
	}
}

func TestAnEntryThatSpoilsARequestFailsAlone(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"InvalidParameterValue", "BatchRequestTooLong"} {
		s := &sqsfake.Server{}
		b := fakeBroker(t, s, sqs.Config{FIFO: true})
		topic := unique()
		sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
		s.Break(func(op string, before int) *sqsfake.Fault {
			if op == "SendMessageBatch" && (before == 0 || before == 2) { // all three, and then the second alone
				return &sqsfake.Fault{Status: http.StatusBadRequest, Code: code, Text: "no"}
			}
			return nil
		})
		err := b.Publish(within(t, patience), topic, message("k", 1), message("k", 2), message("k", 3))
		batch, ok := errors.AsType[*messaging.BatchError](err)
		if !ok || batch.Errs[0] != nil || batch.Errs[1] == nil || batch.Errs[2] != nil {
			t.Errorf("Publish() with %s = %v, want an error of the second alone", code, err)
		}
		for _, want := range []string{"1", "3"} {
			d := sub.receive()
			if string(d.Payload) != want {
				t.Errorf("message %s came where %s was next", d.Payload, want)
			}
			d.ack(t)
		}
	}
}
