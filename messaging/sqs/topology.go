package sqs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/messaging"
)

const (
	// maxReceives is after how many receives SQS itself sets a message aside, the most
	// it can be told: it ends the round of a message that kills every process that
	// receives it. The Consumer sets aside all others long before.
	maxReceives = 1000
	// reasonReceives is the msg-dlq-reason of what SQS has set aside.
	reasonReceives = "max-receives"
	// retention is how long SQS keeps a message, in seconds: 14 days, the most it can.
	retention = "1209600"
	// clockStep covers that SQS tells times in whole seconds.
	clockStep = 2 * time.Second
)

// A place is one queue, by its address and its ARN.
type place struct{ url, arn string }

// A layout is what exists for one group.
type layout struct {
	work, dead place
	// age is how long ago, by the clock of SQS, the work queue was made.
	age time.Duration
}

// ensure finds the queues of a group, and makes what is missing unless Config.Passive
// says otherwise.
func (b *Broker) ensure(ctx context.Context, s messaging.Subscription) (l layout, err error) {
	names := b.set.queuesOf(s.Topic, s.Group)
	var missing []string
	need := func(p *place, name string, attributes map[string]string) {
		if err != nil {
			return
		}
		if p.url, err = b.findQueue(ctx, name); err != nil || p.url != "" {
			return
		}
		if b.set.Passive {
			missing = append(missing, fmt.Sprintf("the queue %s: create it with %s", name, listed(attributes)))
			return
		}
		p.url, err = b.makeQueue(ctx, name, attributes)
	}
	describe := func(p *place) {
		if err == nil && p.url != "" {
			err = b.describe(ctx, p, &l.age)
		}
	}
	need(&l.dead, names.dead, b.attributes(""))
	describe(&l.dead)
	need(&l.work, names.work, b.attributes(cmp.Or(l.dead.arn, "<ARN of "+names.dead+">")))
	describe(&l.work)
	if b.set.Topics != nil && err == nil {
		var absent string
		if absent, err = b.connect(ctx, s, l.work); absent != "" {
			missing = append(missing, absent)
		}
	}
	if err == nil && missing != nil {
		err = fmt.Errorf("%w: Config.Passive is set, and there lacks %s", messaging.ErrNotFound, strings.Join(missing, "; and "))
	}
	return l, err
}

// graveyard finds the queues of a group for a reader of its dead letters.
func (b *Broker) graveyard(ctx context.Context, s messaging.Subscription) (l layout, err error) {
	names := b.set.queuesOf(s.Topic, s.Group)
	for _, q := range []struct {
		p    *place
		name string
	}{{&l.work, names.work}, {&l.dead, names.dead}} {
		if q.p.url, err = b.findQueue(ctx, q.name); err != nil {
			return l, err
		}
		if q.p.url == "" {
			return l, fmt.Errorf("%w: the queue %s: the group has never subscribed", messaging.ErrNotFound, q.name)
		}
	}
	return l, nil
}

// findQueue returns the address of a queue, or "" when there is none of this name.
func (b *Broker) findQueue(ctx context.Context, name string) (string, error) {
	out, err := b.set.Client.GetQueueUrl(ctx, &awssqs.GetQueueUrlInput{QueueName: aws.String(name)})
	if f := faultOf(err); f != nil && f.absent() {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return aws.ToString(out.QueueUrl), nil
}

// attributes returns those of a queue to be made, of a group's work when dead is the
// ARN of its dead letters.
func (b *Broker) attributes(dead string) map[string]string {
	a := map[string]string{
		string(types.QueueAttributeNameMessageRetentionPeriod): retention,
		string(types.QueueAttributeNameMaximumMessageSize):     strconv.Itoa(b.set.MessageLimit),
		string(types.QueueAttributeNameVisibilityTimeout):      strconv.Itoa(int(b.set.Visibility / time.Second)),
	}
	if b.set.FIFO {
		a[string(types.QueueAttributeNameFifoQueue)] = "true"
	}
	if dead != "" {
		policy, _ := json.Marshal(map[string]any{"deadLetterTargetArn": dead, "maxReceiveCount": maxReceives})
		a[string(types.QueueAttributeNameRedrivePolicy)] = string(policy)
	}
	return a
}

// makeQueue makes a queue. One that another subscriber makes at the same time, with
// settings of its own, is as good.
func (b *Broker) makeQueue(ctx context.Context, name string, attributes map[string]string) (string, error) {
	out, err := b.set.Client.CreateQueue(ctx, &awssqs.CreateQueueInput{QueueName: aws.String(name), Attributes: attributes})
	f := faultOf(err)
	switch {
	case err == nil:
		b.set.Logger.Info("sqs: queue made", slog.String("queue", name))
		return aws.ToString(out.QueueUrl), nil
	case f != nil && isOneOf(f.code, "QueueNameExists", "QueueAlreadyExists"):
		return b.findQueue(ctx, name)
	case f != nil && f.code == "QueueDeletedRecently": // SQS wants a minute between the two
		return "", errors.New(f.text)
	}
	return "", err
}

// describe fills in the ARN of a queue that exists, and how long it has.
func (b *Broker) describe(ctx context.Context, p *place, age *time.Duration) error {
	out, err := b.set.Client.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{
		QueueUrl: aws.String(p.url), AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameQueueArn, types.QueueAttributeNameCreatedTimestamp, types.QueueAttributeNameMaximumMessageSize,
		},
	})
	if err != nil {
		return err
	}
	p.arn = out.Attributes[string(types.QueueAttributeNameQueueArn)]
	if n, err := strconv.Atoi(out.Attributes[string(types.QueueAttributeNameMaximumMessageSize)]); err == nil && n < b.set.MessageLimit {
		return fmt.Errorf("%w: the queue %s takes messages of %d bytes, Config.MessageLimit is %d: set its MaximumMessageSize", messaging.ErrTopology, p.arn, n, b.set.MessageLimit)
	}
	*age = 0 // when SQS does not say, it is taken for new
	if made, err := strconv.ParseInt(out.Attributes[string(types.QueueAttributeNameCreatedTimestamp)], 10, 64); err == nil {
		now, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
		if !ok {
			now = time.Now()
		}
		*age = now.Sub(time.Unix(made, 0))
	}
	return nil
}

// connect subscribes a group's queue to its topic on SNS. It returns what is missing
// with Config.Passive.
func (b *Broker) connect(ctx context.Context, s messaging.Subscription, q place) (missing string, err error) {
	name := b.set.topicName(s.Topic)
	var topic string
	if b.set.Passive {
		if topic, err = b.findTopic(ctx, s.Topic); topic == "" && err == nil {
			return fmt.Sprintf("the topic %s on SNS, to which the queue is subscribed with RawMessageDelivery", name), nil
		}
		return "", err
	}
	in := &sns.CreateTopicInput{Name: aws.String(name)}
	if b.set.FIFO {
		in.Attributes = map[string]string{"FifoTopic": "true"}
	}
	made, err := b.set.Topics.CreateTopic(ctx, in)
	if err != nil {
		return "", err
	}
	topic = aws.ToString(made.TopicArn)
	if err := b.admit(ctx, q, topic); err != nil {
		return "", err
	}
	_, err = b.set.Topics.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: aws.String(topic), Protocol: aws.String("sqs"), Endpoint: aws.String(q.arn), ReturnSubscriptionArn: true,
		Attributes: map[string]string{"RawMessageDelivery": "true"},
	})
	if f := faultOf(err); f != nil && strings.Contains(f.text, "already exists with different attributes") {
		return "", nil // wrapped messages are read as well
	}
	return "", err
}

// admit lets a topic of SNS send to a queue. A policy that the queue has stays as it
// is; what it does not admit is lost without a word from SNS, so one that does not
// seem to admit the topic is told of.
func (b *Broker) admit(ctx context.Context, q place, topic string) error {
	out, err := b.set.Client.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{
		QueueUrl: aws.String(q.url), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNamePolicy},
	})
	if err != nil {
		return err
	}
	if p := out.Attributes[string(types.QueueAttributeNamePolicy)]; p != "" {
		if !strings.Contains(p, topic) {
			b.set.Logger.Warn("sqs: the queue has a policy that does not name its topic: unless it admits it otherwise, SNS drops what is published", slog.String("queue", q.arn), slog.String("topic", topic))
		}
		return nil
	}
	policy, _ := json.Marshal(map[string]any{ // of strings never fails
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Effect": "Allow", "Principal": map[string]string{"Service": "sns.amazonaws.com"},
			"Action": "sqs:SendMessage", "Resource": q.arn,
			"Condition": map[string]any{"ArnEquals": map[string]string{"aws:SourceArn": topic}},
		}},
	})
	_, err = b.set.Client.SetQueueAttributes(ctx, &awssqs.SetQueueAttributesInput{
		QueueUrl: aws.String(q.url), Attributes: map[string]string{string(types.QueueAttributeNamePolicy): string(policy)},
	})
	return err
}

// announced waits until every publisher knows of the group, if its queue is new: what
// they knew before it was made serves them for freshly.
func (b *Broker) announced(ctx context.Context, s messaging.Subscription, l layout) error {
	wait := b.freshly + b.step - l.age
	if b.set.Topics != nil || wait <= 0 {
		return nil
	}
	b.set.Logger.Info("sqs: a new group waits until publishers know of it", slog.String("topic", s.Topic), slog.String("group", s.Group), slog.Duration("for", wait))
	for n := 1; ; n++ { // a list may show a new queue with a delay
		urls, err := b.listQueues(ctx, s.Topic)
		if err != nil {
			return err
		}
		for _, url := range urls {
			if url == l.work.url {
				return pause(ctx, wait)
			}
		}
		if n >= maxListings {
			return fmt.Errorf("%w: ListQueues does not show the queue %s, so publishers would not find it", messaging.ErrNotFound, l.work.url)
		}
		if err := pause(ctx, backoff(n)); err != nil {
			return err
		}
		wait = b.freshly + b.step // it is counted from when the list shows it
	}
}

// maxListings bounds how often a new queue is looked for in the list, over about a
// minute.
const maxListings = 20

func listed(attributes map[string]string) string {
	b, _ := json.Marshal(attributes) // sorts them
	return string(b)
}
