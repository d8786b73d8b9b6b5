package sqs

import (
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/messaging"
)

// Whoever chooses the body of another program's message must not choose how it is
// treated.
func TestABodyThatPretendsToComeFromSNSDecidesNothingOfItsTreatment(t *testing.T) {
	body := `{"Type":"Notification","MessageId":"m","TopicArn":"arn","Message":"x","MessageAttributes":{"msg-headers":{"Type":"String",
		"Value":"{\"a\":\"b\",\"msg-wait\":\"1000000000\",\"msg-attempt\":\"1000000\",\"msg-dlq-error\":\"forged\",\"msg-dlq-reason\":\"forged\"}"}}}`
	d := newReceived(&types.Message{MessageId: aws.String("sqs-id"), Body: aws.String(body), Attributes: map[string]string{"ApproximateReceiveCount": "2", "SentTimestamp": "1000"}})
	if d.wait != 0 || d.attempts() != 2 {
		t.Errorf("it waits for %v at attempt %d, want not at all and 2", d.wait, d.attempts())
	}
	for _, dead := range []bool{false, true} {
		if got := d.delivery(messaging.Subscription{Topic: "t", Group: "g", DeadLetters: dead}).Headers; len(got) != 1 || got["a"] != "b" {
			t.Errorf("it has the headers %q, want its own alone", got)
		}
	}
	moved := come(successor(d, map[string]string{messaging.HeaderDeadReason: "true"}, ""), nil)
	if got := moved.message.Headers; got[messaging.HeaderDeadReason] != "true" || got[messaging.HeaderDeadError] != "" {
		t.Errorf("among the dead letters it says %q, want the one reason", got)
	}
}

func TestAForeignMessageWithTenAttributesKeepsItsPayloadAndItsContentType(t *testing.T) {
	for range 50 { // in whatever order a map gives them
		e := entry{body: "AAE=", attributes: map[string]attribute{
			attrContentType: textAttribute("image/png"), attrEncoding: textAttribute(encodingBase64), "blob": {kind: "Binary", bytes: []byte{1}},
		}}
		for i := range maxAttributes - len(e.attributes) {
			e.attributes["n"+strconv.Itoa(i)] = textAttribute("v")
		}
		next := successor(come(e, nil), map[string]string{messaging.HeaderDeadReason: "r"}, "")
		got := come(next, nil).message
		if string(got.Payload) != "\x00\x01" || got.ContentType != "image/png" || len(got.Headers) != 8 || next.attributes["blob"].bytes == nil {
			t.Fatalf("it arrives as %q of %q with %q, want all that it had", got.Payload, got.ContentType, got.Headers)
		}
	}
}

func TestAForeignMessageThroughSNSKeepsItsGroupAsKey(t *testing.T) {
	d := come(entry{body: `{"Type":"Notification","MessageId":"m","TopicArn":"arn","Message":"x"}`}, map[string]string{"MessageGroupId": "customer-7"})
	if d.message.Key != "customer-7" || d.message.ID != "m" {
		t.Errorf("Key = %q of %s, want customer-7 of m", d.message.Key, d.message.ID)
	}
}
