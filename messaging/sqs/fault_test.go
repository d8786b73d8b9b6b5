package sqs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

// failing returns a Fault that goes wrong with the first n requests of op.
func failing(op string, n int, f sqsfake.Fault) func(string, int) *sqsfake.Fault {
	return func(got string, before int) *sqsfake.Fault {
		if got == op && before < n {
			return &f
		}
		return nil
	}
}

func TestAMessageOverTheLimitFailsBeforeTheNetwork(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	for name, m := range map[string]messaging.Message{
		"300 KiB of text":      messaging.NewMessage("T", bytes.Repeat([]byte("x"), 300<<10)),
		"binary over 3/4":      messaging.NewMessage("T", make([]byte, b.Promises().MaxPayload+1)),
		"text and attributes":  {ID: "i", Payload: bytes.Repeat([]byte("x"), 256<<10-100), Headers: map[string]string{"h": strings.Repeat("v", 200)}},
		"escapes in a header":  {ID: "i", Payload: bytes.Repeat([]byte("x"), 200<<10), Headers: map[string]string{"h": strings.Repeat("\x01", 30<<10)}},
		"more than a megabyte": messaging.NewMessage("T", bytes.Repeat([]byte("x"), 1<<20+1)),
	} {
		if err := b.Publish(t.Context(), "orders", m); !errors.Is(err, messaging.ErrTooLarge) {
			t.Errorf("Publish() of %s = %v, want ErrTooLarge", name, err)
		}
	}
	if n := len(s.Log()); n != 0 {
		t.Errorf("%d requests were made, want none", n)
	}
}

func TestABatchReportsExactlyTheMessagesThatFailed(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	s.Break(failing("SendMessageBatch", 1, sqsfake.Fault{Fail: map[int]string{1: "SenderInvalid", 4: "SenderInvalid", 7: "SenderInvalid"}}))
	msgs := make([]messaging.Message, 10)
	for i := range msgs {
		msgs[i] = message("", i)
	}
	err := b.Publish(within(t, patience), topic, msgs...)
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok {
		t.Fatalf("Publish() = %v, want a *BatchError", err)
	}
	var failed []int
	for i, err := range batch.Errs {
		if err != nil {
			failed = append(failed, i)
		}
	}
	if want := []int{1, 4, 7}; !slices.Equal(failed, want) {
		t.Errorf("messages %v failed, want %v", failed, want)
	}
	for range 7 {
		d := sub.receive()
		if n, _ := strconv.Atoi(string(d.Payload)); slices.Contains(failed, n) {
			t.Errorf("message %d was received, and its Publish had failed", n)
		}
		d.ack(t)
	}
}

func TestADeleteThatFailsInABatchFailsItsOwnSettleOnly(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 0), message("", 1), message("", 2))
	var failures, lost atomic.Int64
	s.Break(func(op string, before int) *sqsfake.Fault {
		if op == "DeleteMessageBatch" && before == 0 {
			return &sqsfake.Fault{Fail: map[int]string{0: "ReceiptHandleIsInvalid"}}
		}
		return nil
	})
	var all sync.WaitGroup
	for range 3 {
		d := sub.receive()
		all.Go(func() {
			if err := d.Settle(within(t, patience), messaging.Verdict{Kind: messaging.Ack}); err != nil {
				failures.Add(1)
				if errors.Is(err, messaging.ErrLost) && errors.Is(d.Settle(t.Context(), messaging.Verdict{}), messaging.ErrLost) {
					lost.Add(1)
				}
			}
		})
	}
	all.Wait()
	if failures.Load() != 1 || lost.Load() != 1 {
		t.Errorf("%d settles failed, %d of them with ErrLost each time, want 1 and 1", failures.Load(), lost.Load())
	}
}

func TestThrottlingAndServerErrorsAreRiddenOutWhileTheContextLasts(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]sqsfake.Fault{
		"throttled":           {Status: http.StatusBadRequest, Code: "RequestThrottled", Text: "slow down"},
		"an internal error":   {Status: http.StatusInternalServerError, Code: "InternalError", Text: "oops"},
		"a lost answer":       {Lose: true},
		"all entries failing": {Fail: map[int]string{0: "InternalError", 1: "ServiceUnavailable"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &sqsfake.Server{}
			b := fakeBroker(t, s, sqs.Config{FIFO: true})
			topic := unique()
			sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
			s.Break(failing("SendMessageBatch", 4, f)) // more than the SDK repeats by itself
			publish(t, b, topic, message("k", 1), message("k", 2))
			for _, want := range []string{"1", "2"} {
				d := sub.receive()
				if string(d.Payload) != want {
					t.Errorf("message %s came where %s was next", d.Payload, want)
				}
				d.ack(t)
			}
			if n := s.Len(topic + "_to_g.fifo"); n != 0 {
				t.Errorf("%d messages are left, want none: what was sent twice is stored once", n)
			}
		})
	}
}

func TestAPublishWithoutAnAnswerIsNotConfirmed(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}).stop()
	s.Break(failing("SendMessageBatch", 1000, sqsfake.Fault{Lose: true}))
	err := b.Publish(within(t, 500*time.Millisecond), topic, message("", 1))
	if !errors.Is(err, messaging.ErrNotConfirmed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish() = %v, want ErrNotConfirmed and the cause of its context", err)
	}
}

func TestAnEntryThatItsSuccessorHasPassedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{FIFO: true})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	s.Break(failing("SendMessageBatch", 1, sqsfake.Fault{Fail: map[int]string{0: "InternalError", 2: "InternalError"}}))
	err := b.Publish(within(t, patience), topic, message("k", 1), message("k", 2), message("k", 3))
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok || !errors.Is(batch.Errs[0], messaging.ErrRefused) || batch.Errs[1] != nil || batch.Errs[2] != nil {
		t.Fatalf("Publish() = %v, want ErrRefused of the first alone", err)
	}
	for _, want := range []string{"2", "3"} {
		d := sub.receive()
		if string(d.Payload) != want {
			t.Errorf("message %s came where %s was next", d.Payload, want)
		}
		d.ack(t)
	}
}

func TestWrongCredentialsAreToldAtOnceAndRepeatNothingSecret(t *testing.T) {
	t.Parallel()
	const secret = "AQoDYXdzEJr-a-session-token"
	for _, code := range []string{"InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied", "KmsAccessDenied"} {
		var log bytes.Buffer
		text := "not authorized to perform sqs:SendMessage"
		if code == "SignatureDoesNotMatch" {
			text = "The Canonical String was x-amz-security-token:" + secret
		}
		s := &sqsfake.Server{}
		s.Break(func(string, int) *sqsfake.Fault {
			return &sqsfake.Fault{Status: http.StatusForbidden, Code: code, Text: text}
		})
		b := fakeBroker(t, s, sqs.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		err := b.Publish(within(t, patience), "orders", message("", 1))
		if !errors.Is(err, messaging.ErrDenied) || strings.Contains(err.Error(), secret) {
			t.Errorf("Publish() with %s = %v, want ErrDenied without the token", code, err)
		}
		err = b.Subscribe(within(t, patience), messaging.Subscription{Topic: "orders", Group: "g"}, func(context.Context, *messaging.Delivery, messaging.Settler) error { return nil })
		if !errors.Is(err, messaging.ErrDenied) || strings.Contains(err.Error()+log.String(), secret) {
			t.Errorf("Subscribe() with %s = %v, want ErrDenied without the token", code, err)
		}
	}
}

func TestAnInterruptionIsToldAndWhatWasAcceptedStaysAccepted(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1))
	d := sub.receive()
	var down atomic.Bool
	down.Store(true)
	s.Break(func(op string, _ int) *sqsfake.Fault {
		if op == "ReceiveMessage" && down.Load() {
			return &sqsfake.Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"}
		}
		return nil
	})
	if err := receive(t, sub.lost); err == nil {
		t.Error("OnLost was called without a reason")
	}
	down.Store(false)
	receive(t, sub.ready)
	if err := context.Cause(d.lease); err != nil {
		t.Errorf("the lease ended with %v, want it alive", err)
	}
	d.ack(t)
	sub.stop()
}

func TestADeletedQueueIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg)})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("", 1))
	d := sub.receive()
	c := awssqs.NewFromConfig(cfg)
	if _, err := c.DeleteQueue(t.Context(), &awssqs.DeleteQueueInput{QueueUrl: urlOf(t, c, topic+"_to_g")}); err != nil {
		t.Fatal(err)
	}
	receive(t, sub.lost)
	receive(t, d.lease.Done()) // its message went with the queue
	receive(t, sub.ready)
	publish(t, b, topic, message("", 2))
	again := sub.receive()
	if string(again.Payload) != "2" {
		t.Errorf("received %s, want 2", again.Payload)
	}
	again.ack(t)
}

func TestConcurrentPublishesShareRequests(t *testing.T) {
	t.Parallel()
	const publishers, each = 40, 5
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	before := s.Requests("SendMessageBatch")
	var all sync.WaitGroup
	for range publishers {
		all.Go(func() {
			for i := range each {
				if err := b.Publish(within(t, patience), topic, message("", i)); err != nil {
					t.Errorf("Publish() = %v, want nil", err)
				}
			}
		})
	}
	for range publishers * each {
		sub.receive().ack(t)
	}
	all.Wait()
	if n := s.Requests("SendMessageBatch") - before; n > publishers*each/2 {
		t.Errorf("%d messages took %d requests, want at most half as many", publishers*each, n)
	}
	for _, r := range s.Log() {
		if r.Entries > 10 {
			t.Errorf("%s had %d entries, want at most 10", r.Op, r.Entries)
		}
	}
}

func TestWhatSQSSetsAsideItselfIsExplained(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg)})
	topic := unique()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}).stop()
	c := awssqs.NewFromConfig(cfg)
	_, err := c.SetQueueAttributes(t.Context(), &awssqs.SetQueueAttributesInput{QueueUrl: urlOf(t, c, topic+"_to_g"), Attributes: map[string]string{
		"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:` + topic + `_to_g_dlq","maxReceiveCount":1}`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, topic, message("", 1))
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	sub.receive().settle(t, messaging.Verdict{Kind: messaging.Release})
	dead := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true})
	d := dead.receive()
	if got := d.Headers[messaging.HeaderDeadReason]; got != "max-receives" || d.Headers[messaging.HeaderDeadTopic] != topic {
		t.Errorf("%s = %q, want max-receives, beside the others", messaging.HeaderDeadReason, got)
	}
	d.ack(t)
}

func TestADeadLetterWithoutRoomForItsReasonsGoesWithFewer(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg)})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	m := messaging.NewMessage("T", nil)
	m.Payload = bytes.Repeat([]byte("x"), 256<<10-400)
	publish(t, b, topic, m)
	sub.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent, Err: errors.New(strings.Repeat("long ", 200))})
	d := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true}).receive()
	if !bytes.Equal(d.Payload, m.Payload) || d.Headers[messaging.HeaderDeadReason] != messaging.ReasonPermanent {
		t.Errorf("the dead letter has %d bytes and says %q, want %d and permanent", len(d.Payload), d.Headers, len(m.Payload))
	}
	d.ack(t)
}

func TestAPublisherUsesNoListOfGroupsThatIsTooOld(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}).stop()
	publish(t, b, topic, message("", 1))
	other := subscribe(t, fakeBroker(t, s, sqs.Config{}), messaging.Subscription{Topic: topic, Group: "new"}) // of another process
	publish(t, b, topic, message("", 2))
	if d := other.receive(); string(d.Payload) != "2" {
		t.Errorf("the new group received %s, want 2", d.Payload)
	} else {
		d.ack(t)
	}
	s.Break(failing("ListQueues", 1000, sqsfake.Fault{Status: http.StatusInternalServerError, Code: "InternalError"}))
	time.Sleep(150 * time.Millisecond) // until what it knows is too old
	err := b.Publish(within(t, time.Second), topic, message("", 3))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, messaging.ErrNotConfirmed) {
		t.Errorf("Publish() = %v, want the cause of its context: it was not sent", err)
	}
}

func TestCloseGivesUpWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b, err := sqs.New(sqs.Config{Client: awssqs.NewFromConfig(cfg), Wait: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	sqs.SetFreshly(b, 0, 0)
	sub := subscribe(t, b, messaging.Subscription{Topic: unique(), Group: "g"})
	for s.Requests("ReceiveMessage") == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close() = %v, want the cause of its context", err)
	}
	receive(t, sub.done)
	if !errors.Is(sub.err, messaging.ErrClosed) {
		t.Errorf("Subscribe() = %v, want ErrClosed", sub.err)
	}
}
