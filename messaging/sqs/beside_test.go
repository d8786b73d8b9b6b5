package sqs_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

func TestProgramsOnTheBareSDKReadAndWriteBesideIt(t *testing.T) {
	t.Parallel()
	c := client(serverURL(t))
	b := newBroker(t, sqs.Config{Client: c, Source: "/orders"})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	url := urlOf(t, c, topic+"_to_g")
	sent, err := c.SendMessage(within(t, patience), &awssqs.SendMessageInput{
		QueueUrl: url, MessageBody: aws.String(`{"orderId":456}`), MessageAttributes: map[string]types.MessageAttributeValue{
			"tenant":       {DataType: aws.String("String"), StringValue: aws.String("blue")},
			"count":        {DataType: aws.String("Number.int"), StringValue: aws.String("7")},
			"content-type": {DataType: aws.String("String"), StringValue: aws.String("application/json")},
			"blob":         {DataType: aws.String("Binary"), BinaryValue: []byte{0, 1, 2}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := sub.receive()
	if d.ID != *sent.MessageId || string(d.Payload) != `{"orderId":456}` || d.ContentType != "application/json" || !maps.Equal(d.Headers, map[string]string{"tenant": "blue", "count": "7"}) {
		t.Errorf("received %s of %s with %q, want the ID of SQS and the attributes that are text", d.ID, d.ContentType, d.Headers)
	}
	d.settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent})
	dead := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true})
	letter := dead.receive()
	if letter.ID != *sent.MessageId || letter.Headers["tenant"] != "blue" || letter.Headers[messaging.HeaderDeadReason] != messaging.ReasonPermanent {
		t.Errorf("the dead letter is %s with %q, want the same ID and why", letter.ID, letter.Headers)
	}
	letter.settle(t, messaging.Verdict{Kind: messaging.Retry})
	back := sub.receive()
	if back.ID != *sent.MessageId || back.Attempt != 1 || !maps.Equal(back.Headers, d.Headers) {
		t.Errorf("moved back it is %s at attempt %d with %q, want as it came first", back.ID, back.Attempt, back.Headers)
	}
	back.ack(t)
	dead.stop()
	sub.stop()

	m := messaging.Message{ID: "order-456", Type: "OrderPlaced", Key: "customer 7", ContentType: "application/json", Headers: map[string]string{"tenant": "blue"}, Payload: []byte(`{"orderId":456}`)}
	publish(t, b, topic, m)
	out, err := c.ReceiveMessage(within(t, patience), &awssqs.ReceiveMessageInput{QueueUrl: url, WaitTimeSeconds: 5, MessageAttributeNames: []string{"All"}})
	if err != nil || len(out.Messages) != 1 {
		t.Fatalf("ReceiveMessage() = %d messages, %v, want 1", len(out.Messages), err)
	}
	got := map[string]string{"body": *out.Messages[0].Body}
	for name, a := range out.Messages[0].MessageAttributes {
		got[name] = aws.ToString(a.StringValue)
	}
	want := map[string]string{
		"body": `{"orderId":456}`, "ce_specversion": "1.0", "ce_id": "order-456", "ce_source": "/orders", "ce_type": "OrderPlaced",
		"ce_partitionkey": "customer 7", "content-type": "application/json", "msg-headers": `{"tenant":"blue"}`,
	}
	if !maps.Equal(got, want) {
		t.Errorf("another program sees %q, want %q", got, want)
	}
}

func TestBinaryBodiesAndMoreThanTenHeadersRoundTrip(t *testing.T) {
	t.Parallel()
	b := newBroker(t, sqs.Config{})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	headers := map[string]string{}
	for i := range 15 {
		headers[fmt.Sprintf("header-%d", i)] = fmt.Sprintf("value %d \x01\uFFFE", i)
	}
	for name, payload := range map[string][]byte{
		"every byte": every, "text with a control character": []byte("a\x01b"), "not UTF-8": {0xff, 0xfe}, "a noncharacter": []byte("a\uFFFF"),
		"text": []byte("日本 \t\r\n"), "what looks like base64": []byte("AAEC"), "nothing": nil, "the mark of nothing": []byte("-"),
	} {
		m := messaging.NewMessage("T\x02", payload)
		m.Headers, m.Subject = headers, "\x03"
		publish(t, b, topic, m)
		d := sub.receive()
		if !bytes.Equal(d.Payload, payload) || !maps.Equal(d.Headers, headers) || d.Type != m.Type || d.Subject != m.Subject || d.ID != m.ID {
			t.Errorf("%s: received %q with %d headers, type %q, want %q with 15, %q", name, d.Payload, len(d.Headers), d.Type, payload, m.Type)
		}
		d.ack(t)
	}
}

func TestBothKindsOfSNSDeliveryAreDecoded(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(t *testing.T) aws.Config{
		"on the fake": func(t *testing.T) aws.Config { t.Helper(); return over(t, &sqsfake.Server{}) },
		"on a server": func(t *testing.T) aws.Config { t.Helper(); return settings(bothURL(t)) },
	} {
		for _, raw := range []string{"true", "false"} {
			t.Run(name+", raw "+raw, func(t *testing.T) {
				t.Parallel()
				cfg := url(t)
				b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg)})
				decoded(t, b, cfg, raw)
			})
		}
	}
}

// decoded has a message come through SNS, in a subscription of its own with or without
// raw delivery.
func decoded(t *testing.T, b *sqs.Broker, cfg aws.Config, raw string) {
	t.Helper()
	c, topics, topic := awssqs.NewFromConfig(cfg), sns.NewFromConfig(cfg), unique()
	ctx := within(t, patience)
	made, err := topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: aws.String(topic)})
	if err != nil {
		t.Fatal(err)
	}
	// The group's queue is there with a subscription that another has made, which stays.
	q, err := c.CreateQueue(ctx, &awssqs.CreateQueueInput{QueueName: aws.String(topic + "_to_g")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{QueueUrl: q.QueueUrl, AttributeNames: []types.QueueAttributeName{"QueueArn"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = topics.Subscribe(ctx, &sns.SubscribeInput{TopicArn: made.TopicArn, Protocol: aws.String("sqs"), Endpoint: aws.String(got.Attributes["QueueArn"]), Attributes: map[string]string{"RawMessageDelivery": raw}})
	if err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	want := messaging.Message{ID: "i", Type: "T", Source: "/s", Subject: "s", Key: "k", ContentType: "application/octet-stream", Time: time.Now().UTC(), Headers: map[string]string{"a": "b"}, Payload: []byte{0, 1, 2}}
	publish(t, b, topic, want)
	d := sub.receive()
	if d.ID != want.ID || d.Type != want.Type || d.Source != want.Source || d.Subject != want.Subject || d.Key != want.Key || !d.Time.Equal(want.Time) ||
		d.ContentType != want.ContentType || !maps.Equal(d.Headers, want.Headers) || !bytes.Equal(d.Payload, want.Payload) {
		t.Errorf("received %+v, want %+v", d.Message, want)
	}
	d.settle(t, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent})
	dead := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true})
	letter := dead.receive()
	if letter.ID != want.ID || !bytes.Equal(letter.Payload, want.Payload) || letter.Headers["a"] != "b" || letter.Headers[messaging.HeaderDeadReason] != messaging.ReasonPermanent {
		t.Errorf("the dead letter is %s with %q, want the message and why", letter.ID, letter.Headers)
	}
	letter.settle(t, messaging.Verdict{Kind: messaging.Retry})
	back := sub.receive()
	if back.ID != want.ID || !maps.Equal(back.Headers, want.Headers) || !bytes.Equal(back.Payload, want.Payload) {
		t.Errorf("moved back it is %+v, want %+v", back.Message, want)
	}
	back.ack(t)
	dead.stop()
	sub.stop()
}

func TestEveryGroupGetsACopyFromSNS(t *testing.T) {
	t.Parallel()
	cfg := settings(bothURL(t))
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg)})
	topic := unique()
	if err := b.Publish(within(t, patience), topic, message("", 0)); !errors.Is(err, messaging.ErrUnroutable) {
		t.Errorf("Publish() before any group subscribed = %v, want ErrUnroutable", err)
	}
	x, y := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "x"}), subscribe(t, b, messaging.Subscription{Topic: topic, Group: "y"})
	publish(t, b, topic, message("", 1))
	for _, sub := range []*subscription{x, y} {
		d := sub.receive()
		if string(d.Payload) != "1" {
			t.Errorf("received %s, want 1", d.Payload)
		}
		d.ack(t)
	}
}

func TestPassiveMakesNothingAndNamesAllThatIsMissing(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg), Passive: true})
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: "orders", Group: "mail"}, nothing)
	if !errors.Is(err, messaging.ErrNotFound) || strings.Contains(fmt.Sprint(err), "\n") {
		t.Fatalf("Subscribe() = %v, want ErrNotFound on one line", err)
	}
	for _, want := range []string{"queue orders_to_mail:", "queue orders_to_mail_dlq:", "topic orders on SNS", "deadLetterTargetArn", "maxReceiveCount"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Subscribe() = %v, which does not name %q", err, want)
		}
	}
	if names := s.Names(); names != nil {
		t.Errorf("the queues %v were made, want none", names)
	}
	active := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg)})
	subscribe(t, active, messaging.Subscription{Topic: "orders", Group: "mail"}).stop()
	sub := subscribe(t, b, messaging.Subscription{Topic: "orders", Group: "mail"})
	publish(t, b, "orders", message("", 1))
	sub.receive().ack(t)
}

func TestAQueueThatTakesSmallerMessagesIsAConflict(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	subscribe(t, newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg)}), messaging.Subscription{Topic: "orders", Group: "mail"}).stop()
	b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), MessageLimit: 1 << 20})
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: "orders", Group: "mail"}, nothing)
	if !errors.Is(err, messaging.ErrTopology) {
		t.Errorf("Subscribe() = %v, want ErrTopology", err)
	}
}

func TestDeadLettersOfAGroupThatNeverSubscribedAreNotFound(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	b := fakeBroker(t, s, sqs.Config{})
	_, err := messaging.DeadLetters(within(t, patience), b, messaging.Subscription{Topic: "orders", Group: "mail"}, 1)
	if !errors.Is(err, messaging.ErrNotFound) || s.Names() != nil {
		t.Errorf("DeadLetters() = %v and made %v, want ErrNotFound and none", err, s.Names())
	}
}

func TestWhatSQSSetsAsideItselfStaysExplainedAtTheEnd(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	c := awssqs.NewFromConfig(cfg)
	b := newBroker(t, sqs.Config{Client: c})
	topic := unique()
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
	_, err := c.SetQueueAttributes(t.Context(), &awssqs.SetQueueAttributesInput{QueueUrl: urlOf(t, c, topic+"_to_g"), Attributes: map[string]string{
		"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:` + topic + `_to_g_dlq","maxReceiveCount":1}`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, topic, message("", 1))
	sub.receive().settle(t, messaging.Verdict{Kind: messaging.Release})
	dead := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true})
	first := dead.receive()
	first.settle(t, messaging.Verdict{Kind: messaging.DeadLetter})
	again := dead.receive()
	if !maps.Equal(again.Headers, first.Headers) || again.Headers[messaging.HeaderDeadReason] != "max-receives" {
		t.Errorf("put at the end it says %q, want %q", again.Headers, first.Headers)
	}
	again.ack(t)
}

func TestAQueueThatHasAPolicyKeepsItAndIsTold(t *testing.T) {
	t.Parallel()
	s := &sqsfake.Server{}
	cfg := over(t, s)
	c := awssqs.NewFromConfig(cfg)
	var log bytes.Buffer
	b := newBroker(t, sqs.Config{Client: c, Topics: sns.NewFromConfig(cfg), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	made, err := c.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String("orders_to_mail"), Attributes: map[string]string{"Policy": "{}"}})
	if err != nil {
		t.Fatal(err)
	}
	subscribe(t, b, messaging.Subscription{Topic: "orders", Group: "mail"}).stop()
	out, err := c.GetQueueAttributes(t.Context(), &awssqs.GetQueueAttributesInput{QueueUrl: made.QueueUrl, AttributeNames: []types.QueueAttributeName{"Policy"}})
	if err != nil || out.Attributes["Policy"] != "{}" {
		t.Errorf("the policy is %q, %v, want it as it was", out.Attributes["Policy"], err)
	}
	if !strings.Contains(log.String(), "does not name its topic") {
		t.Errorf("the log is %q, which does not tell of the policy", log.String())
	}
}

func TestThePermissionsAreThoseThatTheDocumentationLists(t *testing.T) {
	t.Parallel()
	receiving := []string{"GetQueueUrl", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "SendMessage"}
	for _, topics := range []bool{false, true} {
		s := &sqsfake.Server{}
		cfg := over(t, s)
		with := func(passive bool) *sqs.Broker {
			c := sqs.Config{Client: awssqs.NewFromConfig(cfg), Passive: passive}
			if topics {
				c.Topics = sns.NewFromConfig(cfg)
			}
			return newBroker(t, c)
		}
		b, passive := with(false), with(true)
		group := messaging.Subscription{Topic: "orders", Group: "mail"}
		graves := group
		graves.DeadLetters = true
		finding, publishing, making := []string{"ListQueues"}, []string{"ListQueues", "SendMessage"}, []string{"ListQueues", "CreateQueue"}
		if topics {
			finding, publishing, making = []string{"ListTopics"}, []string{"ListTopics", "Publish"}, []string{"CreateQueue", "CreateTopic", "Subscribe", "SetQueueAttributes"}
		}
		for _, step := range []struct {
			what string
			do   func()
			want []string
		}{
			{"to make a group", func() { subscribe(t, b, group).stop() }, append(append(making, receiving...), "GetQueueAttributes")},
			{"to publish", func() { publish(t, b, "orders", message("", 1), message("", 2)) }, publishing},
			{"to subscribe", func() {
				sub := subscribe(t, passive, group)
				sub.receive().settle(t, messaging.Verdict{Kind: messaging.DeadLetter})
				d := sub.receive()
				if err := d.Extend(t.Context(), time.Minute); err != nil {
					t.Errorf("Extend() = %v, want nil", err)
				}
				d.settle(t, messaging.Verdict{Kind: messaging.Retry, After: 13 * time.Hour})
				sub.stop()
			}, append(append(finding, receiving...), "GetQueueAttributes")},
			{"to read dead letters", func() {
				sub := subscribe(t, passive, graves)
				sub.receive().settle(t, messaging.Verdict{Kind: messaging.Retry})
				sub.stop()
			}, receiving},
		} {
			before := len(s.Log())
			step.do()
			for _, r := range s.Log()[before:] {
				if op := strings.TrimSuffix(r.Op, "Batch"); !slices.Contains(step.want, op) {
					t.Errorf("Topics %t: %s takes %s, which the documentation does not list", topics, step.what, op)
				}
			}
		}
	}
}
