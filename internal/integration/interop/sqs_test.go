package interop

import (
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
)

// newSQS returns a Broker and the SDK's client of the same server.
func newSQS(t *testing.T) (*sqs.Broker, *awssqs.Client) {
	t.Helper()
	at := need.Address(t, services.SQS())
	client := awssqs.New(awssqs.Options{BaseEndpoint: &at, Region: "us-east-1", Credentials: aws.AnonymousCredentials{}})
	b, err := sqs.New(sqs.Config{Client: client, Source: "/interop", Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	return closing(t, b), client
}

// queueOf returns the URL of the queue of the group g, which the package doc of sqs
// names.
func queueOf(t *testing.T, client *awssqs.Client, topic string) *string {
	t.Helper()
	out, err := client.GetQueueUrl(within(t), &awssqs.GetQueueUrlInput{QueueName: aws.String(topic + "_to_g")})
	must(t, err)
	return out.QueueUrl
}

func TestTheSDKReadsOurMessages(t *testing.T) {
	b, client := newSQS(t)
	topic := unique()
	subscribed(t, b, topic, func(d *messaging.Delivery) { t.Errorf("message %s arrives, want none yet", d.ID) }, func() {}) // makes the queue
	text := messaging.NewMessage("OrderPlaced", []byte(`{"order":1}`))
	text.Key, text.Subject, text.ContentType = "customer 7", "order 1", "application/json"
	text.Time = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	text.Headers = map[string]string{"tenant": "Zürich"}
	binary := messaging.NewMessage("Sampled", []byte{0, 0xff})
	must(t, b.Publish(within(t), topic, text, binary))

	queue, got := queueOf(t, client, topic), map[string]types.Message{}
	for ctx := within(t); len(got) < 2; {
		out, err := client.ReceiveMessage(ctx, &awssqs.ReceiveMessageInput{
			QueueUrl: queue, MessageAttributeNames: []string{"All"}, MaxNumberOfMessages: 10, WaitTimeSeconds: 1,
		})
		must(t, err)
		for _, m := range out.Messages {
			got[aws.ToString(m.MessageAttributes["ce_id"].StringValue)] = m
			_, err := client.DeleteMessage(ctx, &awssqs.DeleteMessageInput{QueueUrl: queue, ReceiptHandle: m.ReceiptHandle})
			must(t, err)
		}
	}
	if body := aws.ToString(got[text.ID].Body); body != `{"order":1}` {
		t.Errorf("the body is %q, want the payload as it is", body)
	}
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": text.ID, "ce_type": "OrderPlaced", "ce_source": "/interop", "ce_subject": "order 1",
		"ce_time": "2026-11-29T12:00:00Z", "ce_partitionkey": "customer 7", "content-type": "application/json", "msg-headers": `{"tenant":"Zürich"}`,
	}
	if has := texts(got[text.ID]); !maps.Equal(has, want) {
		t.Errorf("the attributes are %v, want %v", has, want)
	}
	if m := got[binary.ID]; aws.ToString(m.Body) != "AP8=" || texts(m)["msg-encoding"] != "base64" {
		t.Errorf("bytes that are no text travel as %q with %v, want base64 that says so", aws.ToString(m.Body), texts(m))
	}
}

// texts returns the attributes of a message.
func texts(m types.Message) map[string]string {
	all := map[string]string{}
	for name, a := range m.MessageAttributes {
		all[name] = aws.ToString(a.StringValue)
	}
	return all
}

func TestWeReadTheMessagesOfTheSDK(t *testing.T) {
	b, client := newSQS(t)
	topic := unique()
	attribute := func(text string) types.MessageAttributeValue {
		return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &text}
	}
	var plainID string
	got := map[string]messaging.Message{} // by Type
	all := receive(t, b, topic, 2, func() {
		ctx, queue := within(t), queueOf(t, client, topic)
		_, err := client.SendMessage(ctx, &awssqs.SendMessageInput{
			QueueUrl: queue, MessageBody: aws.String(`{"order":1}`), MessageAttributes: map[string]types.MessageAttributeValue{
				"ce_specversion": attribute("1.0"), "ce_id": attribute("A234-1234"), "ce_type": attribute("OrderPlaced"), "ce_source": attribute("/shop"),
				"ce_time": attribute("2026-11-29T12:00:00Z"), "content-type": attribute("application/json"), "tenant": attribute("Zürich"),
			},
		})
		must(t, err)
		out, err := client.SendMessage(ctx, &awssqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("plain")})
		must(t, err)
		plainID = aws.ToString(out.MessageId)
	})
	for _, m := range all {
		got[m.Type] = m
	}
	if m := got["OrderPlaced"]; m.ID != "A234-1234" || m.Source != "/shop" || !m.Time.Equal(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)) ||
		m.ContentType != "application/json" || m.Headers["tenant"] != "Zürich" || string(m.Payload) != `{"order":1}` {
		t.Errorf("the event arrives as %+v, want all its attributes", m)
	}
	if m := got[""]; m.ID != plainID || string(m.Payload) != "plain" || len(m.Headers) != 0 {
		t.Errorf("a message without attributes arrives as %+v, want its body and the ID that SQS gave, %s", m, plainID)
	}
}
