package sqs

import (
	"context"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// entryID names entry i of a batch request.
func entryID(i int) *string { return aws.String(strconv.Itoa(i)) }

// answers collects what a batch request that succeeded says of each entry: SQS
// answers 200 though every one has failed. What it says nothing of has failed too.
type answers []*fault

func newAnswers(n int) answers {
	a := make(answers, n)
	for i := range a {
		a[i] = &fault{code: "NoAnswer", text: "the answer does not mention it"}
	}
	return a
}

func (a answers) set(id *string, f *fault) {
	if i, err := strconv.Atoi(aws.ToString(id)); err == nil && 0 <= i && i < len(a) {
		a[i] = f
	}
}

// failed notes the entries that SQS names as failed.
func (a answers) failed(failed []types.BatchResultErrorEntry) {
	for _, f := range failed {
		a.set(f.Id, &fault{code: shortCode(aws.ToString(f.Code)), text: aws.ToString(f.Message), sender: f.SenderFault})
	}
}

// sendTo returns the request that sends to a queue.
func (b *Broker) sendTo(url string) request[entry] {
	return func(ctx context.Context, calls []*call[entry]) ([]*fault, error) {
		in := &awssqs.SendMessageBatchInput{QueueUrl: aws.String(url), Entries: make([]types.SendMessageBatchRequestEntry, len(calls))}
		for i, c := range calls {
			in.Entries[i] = types.SendMessageBatchRequestEntry{Id: entryID(i), MessageBody: aws.String(c.entry.body), MessageAttributes: queueAttributes(c.entry.attributes)}
			if b.set.FIFO {
				in.Entries[i].MessageGroupId, in.Entries[i].MessageDeduplicationId = aws.String(c.entry.group), aws.String(c.entry.once)
			}
		}
		out, err := b.set.Client.SendMessageBatch(ctx, in)
		if err != nil {
			return nil, err
		}
		all := newAnswers(len(calls))
		for _, r := range out.Successful {
			all.set(r.Id, nil)
		}
		all.failed(out.Failed)
		return all, nil
	}
}

func queueAttributes(all map[string]attribute) map[string]types.MessageAttributeValue {
	values := make(map[string]types.MessageAttributeValue, len(all))
	for name, a := range all {
		v := types.MessageAttributeValue{DataType: aws.String(a.kind)}
		if v.BinaryValue = a.bytes; a.bytes == nil {
			v.StringValue = aws.String(a.text)
		}
		values[name] = v
	}
	return values
}

// announceTo returns the request that publishes to a topic of SNS.
func (b *Broker) announceTo(arn string) request[entry] {
	return func(ctx context.Context, calls []*call[entry]) ([]*fault, error) {
		in := &sns.PublishBatchInput{TopicArn: aws.String(arn), PublishBatchRequestEntries: make([]snstypes.PublishBatchRequestEntry, len(calls))}
		for i, c := range calls {
			in.PublishBatchRequestEntries[i] = snstypes.PublishBatchRequestEntry{Id: entryID(i), Message: aws.String(c.entry.body), MessageAttributes: topicAttributes(c.entry.attributes)}
			if b.set.FIFO {
				in.PublishBatchRequestEntries[i].MessageGroupId, in.PublishBatchRequestEntries[i].MessageDeduplicationId = aws.String(c.entry.group), aws.String(c.entry.once)
			}
		}
		out, err := b.set.Topics.PublishBatch(ctx, in)
		if err != nil {
			return nil, err
		}
		all := newAnswers(len(calls))
		for _, r := range out.Successful {
			all.set(r.Id, nil)
		}
		for _, f := range out.Failed {
			all.set(f.Id, &fault{code: shortCode(aws.ToString(f.Code)), text: aws.ToString(f.Message), sender: f.SenderFault})
		}
		return all, nil
	}
}

func topicAttributes(all map[string]attribute) map[string]snstypes.MessageAttributeValue {
	values := make(map[string]snstypes.MessageAttributeValue, len(all))
	for name, a := range all {
		values[name] = snstypes.MessageAttributeValue{DataType: aws.String(a.kind), StringValue: aws.String(a.text)}
	}
	return values
}

// deleteFrom returns the request that deletes the messages of receipts.
func (b *Broker) deleteFrom(url string) request[string] {
	return func(ctx context.Context, calls []*call[string]) ([]*fault, error) {
		in := &awssqs.DeleteMessageBatchInput{QueueUrl: aws.String(url), Entries: make([]types.DeleteMessageBatchRequestEntry, len(calls))}
		for i, c := range calls {
			in.Entries[i] = types.DeleteMessageBatchRequestEntry{Id: entryID(i), ReceiptHandle: aws.String(c.entry)}
		}
		out, err := b.set.Client.DeleteMessageBatch(ctx, in)
		if err != nil {
			return nil, err
		}
		all := newAnswers(len(calls))
		for _, r := range out.Successful {
			all.set(r.Id, nil)
		}
		all.failed(out.Failed)
		return all, nil
	}
}

// A stay says for how long from now a message is to be kept from receivers.
type stay struct {
	receipt string
	time    time.Duration // in whole seconds
}

// keepIn returns the request that changes visibilities.
func (b *Broker) keepIn(url string) request[stay] {
	return func(ctx context.Context, calls []*call[stay]) ([]*fault, error) {
		in := &awssqs.ChangeMessageVisibilityBatchInput{QueueUrl: aws.String(url), Entries: make([]types.ChangeMessageVisibilityBatchRequestEntry, len(calls))}
		for i, c := range calls {
			in.Entries[i] = types.ChangeMessageVisibilityBatchRequestEntry{
				Id: entryID(i), ReceiptHandle: aws.String(c.entry.receipt), VisibilityTimeout: int32(c.entry.time / time.Second), //nolint:gosec // at most 12 h
			}
		}
		out, err := b.set.Client.ChangeMessageVisibilityBatch(ctx, in)
		if err != nil {
			return nil, err
		}
		all := newAnswers(len(calls))
		for _, r := range out.Successful {
			all.set(r.Id, nil)
		}
		all.failed(out.Failed)
		return all, nil
	}
}
