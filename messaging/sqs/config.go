package sqs

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
)

const (
	// minQueueLimit and maxQueueLimit are what SQS lets a queue's MaximumMessageSize
	// be; topicLimit is what SNS takes.
	minQueueLimit = 1 << 10
	maxQueueLimit = 1 << 20
	topicLimit    = 256 << 10
	// spare is what a payload of MaxPayload bytes leaves for the attributes of a
	// message that has few of them.
	spare = 2 << 10
	// maxVisibility is how long SQS keeps a message from others, counted from its
	// receive.
	maxVisibility = 12 * time.Hour
	// maxWait is the longest that SQS lets a receive wait.
	maxWait = 20 * time.Second
	// maxPrefix leaves room for topic and group in the 80 characters of a queue's
	// name.
	maxPrefix = 16
)

// Config says how to reach SQS and how to lay out queues on it. Only Client is
// required.
type Config struct {
	// Client is what calls SQS: its region, credentials, endpoint, retries and HTTP
	// client are the user's choice, as sqs.NewFromConfig(cfg) makes it. It uses TLS
	// unless its endpoint says otherwise. Required.
	Client *awssqs.Client
	// Topics, if set, calls SNS. Publish then sends to one SNS topic for each topic,
	// which SNS copies to the queues of its groups. All programs that publish to a
	// topic or subscribe to it must agree on whether it is set. Default nil: Publish
	// sends to the queue of each group itself.
	Topics *sns.Client
	// FIFO uses FIFO queues, and FIFO topics: messages with one Key arrive in order,
	// and what is published twice within 5 minutes with the same Source and ID is stored
	// once.
	// All programs of a topic must agree on it. Default false: standard queues, which
	// keep no order.
	FIFO bool
	// Prefix begins the names of all queues and topics, so that several systems share
	// an account, such as "staging-". Up to 16 letters, digits and '-'. No other
	// system of the account may have a prefix, or without one a topic, that begins
	// with it. Default empty.
	Prefix string
	// Source becomes the Source of published messages that have none. Default empty.
	Source string
	// Visibility is how long SQS keeps a delivery from other receivers, unless it is
	// extended, which a Consumer does; and so, how long the messages of a process
	// that was killed stay away. In seconds, 1s to 12h. Default 30s.
	Visibility time.Duration
	// Wait is how long one request waits for messages: the longest that an idle
	// subscription takes to end, because what SQS hands to a request that was given
	// up stays invisible. Longer costs fewer requests. In seconds, 1s to 20s.
	// Default 5s.
	Wait time.Duration
	// MessageLimit is the size of a message in bytes, attributes included, above
	// which Publish refuses it, and the MaximumMessageSize of the queues that are
	// made. 1 KiB to 1 MiB, with Topics to 256 KiB. Default 256 KiB.
	MessageLimit int
	// Passive makes nothing: no queue, no topic, no subscription. It is for programs
	// without the permission to create, whose queues others make. What is missing is
	// an error of Subscribe that says how to create it; whether a queue is subscribed
	// to its topic of SNS, and admits it, is not looked at. Default false.
	Passive bool
	// Logger receives subscriptions interrupted, queues made, and requests that had
	// to be repeated. Default slog.Default().
	Logger *slog.Logger
}

// withDefaults returns c with its defaults, or all its faults on one line.
func (c Config) withDefaults() (Config, error) {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if c.Client == nil {
		fault("Client is nil: set sqs.NewFromConfig(cfg)")
	} else if o := c.Client.Options(); o.Region == "" && o.BaseEndpoint == nil {
		fault("Client has no region: set Region of its aws.Config, or AWS_REGION")
	}
	if c.Topics != nil {
		if o := c.Topics.Options(); o.Region == "" && o.BaseEndpoint == nil {
			fault("Topics has no region: set Region of its aws.Config, or AWS_REGION")
		}
	}
	if len(c.Prefix) > maxPrefix || strings.ContainsFunc(c.Prefix, func(r rune) bool { return !isAlnum(r) && r != '-' }) {
		fault("Prefix %.20q is not up to %d letters, digits and '-'", c.Prefix, maxPrefix)
	}
	if c.Visibility != 0 && (c.Visibility < time.Second || c.Visibility > maxVisibility || c.Visibility%time.Second != 0) {
		fault("Visibility %v is outside 1s..12h or not in whole seconds", c.Visibility)
	}
	if c.Wait != 0 && (c.Wait < time.Second || c.Wait > maxWait || c.Wait%time.Second != 0) {
		fault("Wait %v is outside 1s..20s or not in whole seconds", c.Wait)
	}
	limit := maxQueueLimit
	if c.Topics != nil {
		limit = topicLimit
	}
	if c.MessageLimit != 0 && (c.MessageLimit < minQueueLimit || c.MessageLimit > limit) {
		fault("MessageLimit %d is outside %d..%d", c.MessageLimit, minQueueLimit, limit)
	}
	if faults != nil {
		return Config{}, fmt.Errorf("sqs: config: %s", strings.Join(faults, "; "))
	}
	if c.Visibility == 0 {
		c.Visibility = 30 * time.Second
	}
	if c.Wait == 0 {
		c.Wait = 5 * time.Second
	}
	if c.MessageLimit == 0 {
		c.MessageLimit = topicLimit
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// maxPayload is the largest payload that can be sent whatever its bytes are: those
// that are not text travel in base64.
func (c *Config) maxPayload() int { return (c.MessageLimit - min(spare, c.MessageLimit/2)) / 4 * 3 }

func isAlnum(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}
