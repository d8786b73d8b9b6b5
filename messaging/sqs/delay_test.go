package sqs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

func TestARetryLongerThanSQSCanWaitIsPutOffUntilItIsDue(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	c := awssqs.NewFromConfig(cfg)
	b := newBroker(t, sqs.Config{Client: c, Visibility: 20 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	m := message("k", 1)
	m.Headers = map[string]string{"a": "b"}
	publish(t, b, topic, m)
	sub.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: 20 * time.Hour})
	// The copy that waits is received, and put off as far as SQS lets it be.
	for s.Requests("ChangeMessageVisibilityBatch") == 0 {
		time.Sleep(time.Millisecond)
	}
	if n := s.Len(topic + "_to_g"); n != 1 || len(sub.come) != 0 {
		t.Errorf("the queue holds %d messages and %d were delivered, want 1 and none", n, len(sub.come))
	}

	// One that is due in 2 seconds, after the attempts that it says.
	sent := time.Now()
	_, err := c.SendMessage(t.Context(), &awssqs.SendMessageInput{
		QueueUrl: urlOf(t, c, topic+"_to_g"), MessageBody: aws.String("due"), MessageAttributes: map[string]types.MessageAttributeValue{
			"ce_id":       {DataType: aws.String("String"), StringValue: aws.String("i")},
			"msg-headers": {DataType: aws.String("String"), StringValue: aws.String(`{"msg-wait":"2000","msg-attempt":"3","a":"b"}`)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := sub.receive()
	if took := time.Since(sent); took < 2*time.Second || d.Attempt != 3 || len(d.Headers) != 1 {
		t.Errorf("it came after %v at attempt %d with the headers %q, want 2s or more, 3, and its own", took, d.Attempt, d.Headers)
	}
	d.settle(t, messaging.Verdict{Kind: messaging.Retry})
	if d = sub.receive(); d.Attempt != 4 {
		t.Errorf("Attempt = %d after another Retry, want 4", d.Attempt)
	}
	d.settle(t, messaging.Verdict{Kind: messaging.DeadLetter})
	letter := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true}).receive()
	if got := letter.Headers[messaging.HeaderDeadAttempts]; got != "4" {
		t.Errorf("%s = %s, want 4", messaging.HeaderDeadAttempts, got)
	}
	letter.ack(t)
}

func TestARetryOfAFIFOQueueIsCutToWhatSQSCanWait(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{FIFO: true, Visibility: 20 * time.Second})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("k", 1), message("k", 2))
	sub.receive().settle(t, messaging.Verdict{Kind: messaging.Retry, After: 20 * time.Hour})
	sub.stop()
	if n := s.Len(topic + "_to_g.fifo"); n != 2 {
		t.Errorf("the queue holds %d messages, want both, the first in its place", n)
	}
	next := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	publish(t, b, topic, message("other", 3))
	d := next.receive()
	if !strings.HasPrefix(d.Key, "other") {
		t.Errorf("message %s of %s came, want the key that does not wait", d.Payload, d.Key)
	}
	d.ack(t)
}
