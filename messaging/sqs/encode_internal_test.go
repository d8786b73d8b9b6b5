package sqs

import (
	"bytes"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/messaging"
)

// come returns e as it is received.
func come(e entry, system map[string]string) *received {
	return newReceived(&types.Message{
		MessageId: aws.String("sqs-id"), ReceiptHandle: aws.String("r"), Body: aws.String(e.body), MessageAttributes: queueAttributes(e.attributes), Attributes: system,
	})
}

// FuzzEncode holds that a message arrives as it was published, and its successor
// too, in what SQS takes.
func FuzzEncode(f *testing.F) {
	f.Add("id", "Type", "key", "name", "value", "application/json", []byte(`{"a":1}`))
	f.Add("id\x01", "\uFFFE", "\uFFFF", "ce", "\x02\r\n", "", []byte{0, 255})
	f.Add("i", "", "", "content-type", "", "text/plain", []byte("-"))
	f.Fuzz(func(t *testing.T, id, typ, key, name, value, contentType string, payload []byte) {
		c := Config{MessageLimit: topicLimit, FIFO: true}
		m := messaging.Message{ID: id, Type: typ, Key: key, ContentType: contentType, Headers: map[string]string{name: value}, Payload: payload, Time: time.Unix(1, 2)}
		if messaging.Check("t", c.MessageLimit, []messaging.Message{m}) != nil || strings.HasPrefix(name, reserved) {
			t.Skip("not published")
		}
		e, err := c.encode(&m)
		if err != nil {
			if !errors.Is(err, messaging.ErrTooLarge) {
				t.Errorf("encode() = %v, want nil or ErrTooLarge", err)
			}
			return
		}
		why := map[string]string{messaging.HeaderDeadReason: "permanent"}
		next := successor(come(e, nil), why, "once")
		for what, e := range map[string]entry{"the message": e, "its successor": next} {
			if len(e.attributes) > maxAttributes || !isText(e.body) {
				t.Errorf("%s has %d attributes and the body %q", what, len(e.attributes), e.body)
			}
			for name, a := range e.attributes {
				if !isText(a.text) {
					t.Errorf("%s has the attribute %s of %q", what, name, a.text)
				}
			}
			got := come(e, nil).message
			maps.DeleteFunc(got.Headers, func(name, _ string) bool { return strings.HasPrefix(name, headersDead) })
			want := map[string]string{name: value}
			if got.ID != id || got.Type != typ || got.Key != key || got.ContentType != contentType || !got.Time.Equal(m.Time) || !maps.Equal(got.Headers, want) || !bytes.Equal(got.Payload, payload) {
				t.Errorf("%s arrives as %+v, want %+v", what, got, m)
			}
		}
	})
}

// FuzzDecode holds that whatever comes from a queue can be published again.
func FuzzDecode(f *testing.F) {
	f.Add(`{"Type":"Notification","MessageId":"m","TopicArn":"a","Message":"hi","Timestamp":"2026-01-02T03:04:05Z","MessageAttributes":{"ce_id":{"Type":"String","Value":"x"},"b":{"Type":"Binary","Value":"AA=="}}}`, "n", "String", "v")
	f.Add("body", "msg-headers", "String", `{"ce_id":"x","msg-dlq-reason":"r","a":"b"}`)
	f.Add("body", "msg-headers", "String", "null")
	f.Add("%", "msg-encoding", "String", "base64")
	f.Add("body", "ce_time", "String", "no time")
	f.Fuzz(func(t *testing.T, body, name, kind, value string) {
		attributes := map[string]types.MessageAttributeValue{}
		if name != "" {
			attributes[name] = types.MessageAttributeValue{DataType: aws.String(kind), StringValue: aws.String(value)}
		}
		d := newReceived(&types.Message{MessageId: aws.String("sqs-id"), Body: aws.String(body), MessageAttributes: attributes})
		for _, dead := range []bool{false, true} {
			m := d.delivery(messaging.Subscription{Topic: "t", Group: "g", DeadLetters: dead}).Message
			for name := range m.Headers {
				if strings.HasPrefix(name, reserved) && !dead {
					t.Errorf("the header %s came to a handler", name)
				}
			}
			err := messaging.Check("t", 1<<20, []messaging.Message{m})
			if err != nil && !errors.Is(err, messaging.ErrTooLarge) && !strings.Contains(err.Error(), "belongs to brokers") {
				t.Errorf("what came cannot be published again: %v", err)
			}
		}
	})
}

func TestAMessageHasAtMostTenAttributes(t *testing.T) {
	c := Config{MessageLimit: topicLimit}
	full := messaging.Message{
		ID: "i", Type: "T", Source: "/s", Subject: "s", Key: "k", ContentType: "c", Time: time.Unix(1, 0), Headers: map[string]string{"a": "b"}, Payload: []byte{0},
	}
	e, err := c.encode(&full)
	if err != nil || len(e.attributes) != maxAttributes {
		t.Fatalf("encode() = %d attributes, %v, want %d, nil", len(e.attributes), err, maxAttributes)
	}
	foreign := entry{body: "b", attributes: map[string]attribute{}}
	for i := range maxAttributes {
		foreign.attributes["n"+strconv.Itoa(i)] = textAttribute("v")
	}
	foreign.attributes["n0"] = attribute{kind: "Binary", bytes: []byte{1}}
	next := successor(come(foreign, nil), map[string]string{messaging.HeaderDeadReason: "r"}, "once")
	if len(next.attributes) != maxAttributes {
		t.Errorf("the successor of a message with ten attributes has %d, want ten", len(next.attributes))
	}
	got := come(next, nil).message
	if got.ID != "sqs-id" || got.Headers[messaging.HeaderDeadReason] != "r" || got.Headers["n9"] != "v" {
		t.Errorf("it arrives as %s with %q, want the ID, the reason and what it had", got.ID, got.Headers)
	}
}

func TestAForeignFIFOMessageKeepsItsGroupAsKey(t *testing.T) {
	d := come(entry{body: "b"}, map[string]string{"MessageGroupId": "customer-7", "ApproximateReceiveCount": "3", "SentTimestamp": "1000"})
	if d.message.Key != "customer-7" || d.receives != 3 || !d.sent.Equal(time.Unix(1, 0)) {
		t.Errorf("Key = %q, received %d times, sent %v, want customer-7, 3, one second", d.message.Key, d.receives, d.sent)
	}
	moved := come(successor(d, map[string]string{messaging.HeaderDeadReason: "r"}, "once"), map[string]string{"MessageGroupId": "other"})
	if moved.message.Key != "customer-7" || moved.message.ID != "sqs-id" {
		t.Errorf("among the dead letters its Key is %q, its ID %q, want them as they were", moved.message.Key, moved.message.ID)
	}
}

func TestFaultsAreToldApart(t *testing.T) {
	for _, c := range []struct {
		f    fault
		want error
	}{
		{fault{code: "AccessDeniedException"}, messaging.ErrDenied},
		{fault{code: "X", status: 403}, messaging.ErrDenied},
		{fault{code: "ExpiredToken"}, messaging.ErrDenied},
		{fault{code: "IncompleteSignatureException", status: 400, sender: true}, messaging.ErrDenied},
		{fault{code: "Unknown", status: 400, sender: true, text: "not valid: Authorization: AWS4-HMAC-SHA256 Credential=a"}, messaging.ErrDenied},
		{fault{code: "QueueDoesNotExist", sender: true}, messaging.ErrNotFound},
		{fault{code: "NotFound", sender: true}, messaging.ErrNotFound},
		{fault{code: "ReceiptHandleIsInvalid"}, messaging.ErrLost},
		{fault{code: "InvalidParameterValue", sender: true, text: "Value x for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."}, messaging.ErrLost},
		{fault{code: "MessageNotInflight"}, messaging.ErrLost},
		{fault{code: "BatchRequestTooLong", sender: true}, messaging.ErrTooLarge},
		{fault{code: "InvalidParameterValue", sender: true, text: "Message must be shorter than 262144 bytes."}, messaging.ErrTooLarge},
		{fault{code: "InvalidMessageContents", sender: true}, messaging.ErrInvalid},
		{fault{code: "RequestThrottled", status: 400, sender: true}, nil},
		{fault{code: "ThrottlingException", status: 400, sender: true}, nil},
		{fault{code: "KMSThrottling", status: 400, sender: true}, nil},
		{fault{code: "RequestTimeout", status: 400, sender: true}, nil},
		{fault{code: "Unknown", status: 408, sender: true}, nil},
		{fault{code: "InternalError"}, nil},
		{fault{code: "Unknown", status: 503}, nil},
	} {
		if got := c.f.reason(); !errors.Is(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%+v means %v, want %v", c.f, got, c.want)
		}
	}
	if err := (&fault{code: "Unknown", text: "x-amz-security-token:secret"}).reason(); strings.Contains(err.Error(), "secret") {
		t.Errorf("reason() = %v, want it without what was signed", err)
	}
	if got := shortCode("com.amazonaws.sqs#QueueDoesNotExist"); got != "QueueDoesNotExist" {
		t.Errorf("shortCode() = %s, want it without its name space", got)
	}
}

func TestNoVisibilityGoesBeyondTwelveHoursFromTheReceive(t *testing.T) {
	for _, c := range []struct{ held, asked, least, most time.Duration }{
		{0, time.Millisecond, time.Second, time.Second},
		{0, 0, 0, 0},
		{time.Hour, 1500 * time.Millisecond, 2 * time.Second, 2 * time.Second},
		{11 * time.Hour, 2 * time.Hour, 58 * time.Minute, time.Hour},
		{13 * time.Hour, time.Hour, 0, 0},
	} {
		s := settler{d: &received{at: time.Now().Add(-c.held)}}
		if got := s.within(c.asked); got < c.least || got > c.most || got%time.Second != 0 {
			t.Errorf("%v after the receive, within(%v) = %v, want %v to %v in whole seconds", c.held, c.asked, got, c.least, c.most)
		}
	}
	d := received{wait: 30 * time.Hour, attempt: 3, receives: 4}
	if got := d.attempts(); got != 3 {
		t.Errorf("attempts() = %d after 30 hours in three parts, want 3", got)
	}
}

func TestANotificationIsReadWithWhatItHas(t *testing.T) {
	d := newReceived(&types.Message{MessageId: aws.String("sqs-id"), Body: aws.String(`{"Type":"Notification","MessageId":"sns-id","TopicArn":"arn","Subject":"hello",
		"Message":"plain","Timestamp":"2026-01-02T03:04:05.678Z","MessageAttributes":{
		"ce_traceparent":{"Type":"String","Value":"00-a"},"blob":{"Type":"Binary","Value":"AAE="},"bad name":{"Type":"String","Value":"v"},"n":{"Type":"Number","Value":"1"}}}`)})
	m := d.delivery(messaging.Subscription{Topic: "t", Group: "g"}).Message
	if m.ID != "sns-id" || m.Subject != "hello" || string(m.Payload) != "plain" || m.Time.UnixMilli() != 1767323045678 || !maps.Equal(m.Headers, map[string]string{"traceparent": "00-a", "n": "1"}) {
		t.Errorf("received %+v with %q, want what SNS says of it, and the attributes that are text", m, m.Headers)
	}
	for _, body := range []string{"{", `{"Type":"Other","MessageId":"m","TopicArn":"a"}`, `{"Type":"Notification"}`, ` text`} {
		if d := newReceived(&types.Message{MessageId: aws.String("sqs-id"), Body: aws.String(body)}); string(d.message.Payload) != body || d.message.ID != "sqs-id" {
			t.Errorf("received %s of %q, want it as it is", d.message.ID, body)
		}
	}
}
