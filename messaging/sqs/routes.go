package sqs

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
)

const (
	// freshly is how old what Publish knows of a topic's groups may be when it uses it.
	// A group that is new waits for longer than that before it is ready, so that no
	// publisher misses it: all programs must agree on it.
	freshly = 5 * time.Second
	// maxRoutes bounds the memory that topics take; past it they are looked up anew.
	maxRoutes = 4096
)

// routes are where topics lead: to the queues of their groups, or to a topic of
// SNS.
type routes struct {
	mu    sync.Mutex
	known map[string]*route // guarded by mu
}

// A route is where one topic leads.
type route struct {
	looking chan struct{} // holds a token while somebody looks

	mu      sync.Mutex
	targets []string  // guarded by mu
	asked   time.Time // guarded by mu; when the look-up began that found them
}

func (rs *routes) of(topic string) *route {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.known[topic]
	if r == nil {
		if rs.known == nil || len(rs.known) >= maxRoutes {
			rs.known = map[string]*route{}
		}
		r = &route{looking: make(chan struct{}, 1)}
		rs.known[topic] = r
	}
	return r
}

// route returns where topic leads, none when no group has subscribed. What is older
// than freshly is looked up again and, should that fail, not used; that there is none
// is never taken from memory. anew looks in any case.
func (b *Broker) route(ctx context.Context, topic string, anew bool) ([]string, error) {
	r := b.routes.of(topic)
	called := time.Now()
	for n := 1; ; n++ {
		if targets := r.fresh(b.freshness(), anew, called); targets != nil {
			return targets, nil
		}
		select {
		case r.looking <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		targets := r.fresh(b.freshness(), anew, called) // by who looked before
		var err error
		if targets == nil {
			asked := time.Now()
			if targets, err = b.look(ctx, topic); err == nil {
				r.learn(targets, asked)
			}
		}
		<-r.looking
		if err == nil {
			return targets, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if why := permanent(err); why != nil {
			return nil, why
		}
		b.set.Logger.Warn("sqs: groups of a topic not found out, trying again", slog.String("topic", topic), slog.Any("err", told(err)))
		if pause(ctx, backoff(n)) != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// freshness returns how long a look-up serves: the topic of SNS stays what it is.
func (b *Broker) freshness() time.Duration {
	if b.set.Topics != nil {
		return time.Hour
	}
	return b.freshly
}

// fresh returns what is known, if it is no older than bound and, with anew, was found
// since called.
func (r *route) fresh(bound time.Duration, anew bool, called time.Time) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.targets) == 0 || time.Since(r.asked) > bound || anew && r.asked.Before(called) {
		return nil
	}
	return r.targets
}

func (r *route) learn(targets []string, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets, r.asked = targets, asked
}

// look asks where topic leads.
func (b *Broker) look(ctx context.Context, topic string) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errSilent)
	defer cancel()
	if b.set.Topics != nil {
		arn, err := b.findTopic(ctx, topic)
		if arn == "" || err != nil {
			return nil, err
		}
		return []string{arn}, nil
	}
	return b.listQueues(ctx, topic)
}

// listQueues returns the addresses of the queues of all groups of topic.
func (b *Broker) listQueues(ctx context.Context, topic string) (urls []string, err error) {
	prefix := b.set.queuePrefix(topic)
	pages := awssqs.NewListQueuesPaginator(b.set.Client, &awssqs.ListQueuesInput{QueueNamePrefix: aws.String(prefix), MaxResults: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, url := range page.QueueUrls {
			if b.set.isWork(prefix, url[strings.LastIndexByte(url, '/')+1:]) {
				urls = append(urls, url)
			}
		}
	}
	return urls, nil
}

// findTopic returns the ARN of topic on SNS, or "" when there is no such topic. SNS
// has no other way to ask for one by its name that does not make it.
func (b *Broker) findTopic(ctx context.Context, topic string) (string, error) {
	end := ":" + b.set.topicName(topic)
	pages := sns.NewListTopicsPaginator(b.set.Topics, &sns.ListTopicsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, t := range page.Topics {
			if arn := aws.ToString(t.TopicArn); strings.HasSuffix(arn, end) {
				return arn, nil
			}
		}
	}
	return "", nil
}

// A sender sends to one queue or one topic of SNS.
type sender struct{ gatherer[entry] }

// senders are those in use.
type senders struct {
	mu  sync.Mutex
	all map[string]*sender // guarded by mu
}

// get returns the sender to a target, of which there is one at a time while calls
// are under way: two would not keep the order.
func (ss *senders) get(b *Broker, target string) *sender {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if s := ss.all[target]; s != nil {
		return s
	}
	if ss.all == nil {
		ss.all = map[string]*sender{}
	}
	if len(ss.all) >= maxRoutes {
		for t, s := range ss.all {
			if s.idle() {
				delete(ss.all, t)
			}
		}
	}
	do := b.sendTo(target)
	if strings.HasPrefix(target, "arn:") {
		do = b.announceTo(target)
	}
	s := &sender{gatherer[entry]{broker: b, limit: b.set.MessageLimit}}
	s.do = func(ctx context.Context, f *flight, calls []*call[entry]) { ride(ctx, b, f, calls, b.set.FIFO, do) }
	ss.all[target] = s
	return s
}
