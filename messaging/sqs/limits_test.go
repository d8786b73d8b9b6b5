package sqs_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

func TestMessagesOfTheLargestSizeGoOutOneByOne(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	m := messaging.Message{ID: "i"}
	m.Payload = bytes.Repeat([]byte("x"), 256<<10-len("ce_specversionString1.0")-len("ce_idStringi"))
	publish(t, b, topic, m, m, m)
	for range 3 {
		d := sub.receive()
		if len(d.Payload) != len(m.Payload) {
			t.Errorf("received %d bytes, want %d", len(d.Payload), len(m.Payload))
		}
		d.ack(t)
	}
	m.Payload = append(m.Payload, 'x')
	if err := b.Publish(within(t, patience), topic, m); !errors.Is(err, messaging.ErrTooLarge) {
		t.Errorf("Publish() of one byte more = %v, want ErrTooLarge", err)
	}
}

func TestAForeignMessageOfTheLargestSizeIsDeadLettered(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	c := awssqs.NewFromConfig(over(t, s))
	b := newBroker(t, sqs.Config{Client: c})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	body := strings.Repeat("x", 256<<10) // no room for its ID
	if _, err := c.SendMessage(t.Context(), &awssqs.SendMessageInput{QueueUrl: urlOf(t, c, topic+"_to_g"), MessageBody: aws.String(body)}); err != nil {
		t.Fatal(err)
	}
	sub.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonDecode})
	d := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true}).receive()
	if string(d.Payload) != body {
		t.Errorf("the dead letter has %d bytes, want all %d", len(d.Payload), len(body))
	}
	d.settle(t, messaging.Verdict{Kind: messaging.Retry})
	d = sub.receive()
	if string(d.Payload) != body || d.Attempt != 1 {
		t.Errorf("moved back it has %d bytes at attempt %d, want all %d at 1", len(d.Payload), d.Attempt, len(body))
	}
	// Nor has it room for when it is due: it waits for as long as SQS keeps it away.
	sent := s.Requests("SendMessageBatch")
	d.settle(t, messaging.Verdict{Kind: messaging.Retry, After: 20 * time.Hour})
	if n, again := s.Len(topic+"_to_g"), s.Requests("SendMessageBatch"); n != 1 || again != sent+1 || len(sub.come) != 0 {
		t.Errorf("the queue holds %d, after %d further requests, and %d were delivered, want 1, 1 that was refused, none", n, again-sent, len(sub.come))
	}
}

func TestATopicOfMoreThanAThousandQueuesIsListedWhole(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	c := awssqs.NewFromConfig(over(t, s))
	b := newBroker(t, sqs.Config{Client: c})
	for i := range 1001 {
		name := fmt.Sprintf("a_to_g%04d_dlq", i)
		if i == 1000 {
			name = "a_to_z"
		}
		if _, err := c.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String(name)}); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, "a", message("", 1))
	if n := s.Len("a_to_z"); n != 1 {
		t.Errorf("the queue of the second page holds %d messages, want 1", n)
	}
}

// By CloudEvents an ID is unique within its source only.
func TestTwoSourcesMayNumberTheirMessagesAlikeOnAFIFOQueue(t *testing.T) {
	t.Parallel()
	b := fakeBroker(t, &sqsfake.Server{}, sqs.Config{FIFO: true, Source: "/default"})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	want := map[string]bool{"/orders": true, "/returns": true, "/default": true}
	for _, source := range []string{"/orders", "/returns", ""} {
		m := messaging.Message{ID: "1", Source: source, Payload: []byte(source)}
		publish(t, b, topic, m, m) // and again, which is stored once
	}
	for range len(want) {
		d := sub.receive()
		if !want[d.Source] {
			t.Errorf("received 1 of %s twice", d.Source)
		}
		delete(want, d.Source)
		d.ack(t)
	}
}
