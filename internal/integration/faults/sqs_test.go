package faults

import (
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
)

// onSQS is the SQS of a flow.
type onSQS struct{ fifo bool }

func (s onSQS) open(f *flow, name string) messaging.Broker {
	f.t.Helper()
	b, err := sqs.New(sqs.Config{
		Client: sqsClient(f.cfg.via), FIFO: s.fifo, Source: f.topic + "/" + name, Logger: logged(f.t),
		Wait: time.Second, Visibility: 10 * time.Second,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return closed(f.t, b)
}

func (onSQS) dead(g *group, more func(id string) bool) { letters(g, more) }

func (s onSQS) empty(g *group) {
	g.t.Helper()
	name := g.topic + "_to_" + g.name
	if s.fifo {
		name += ".fifo"
	}
	cl, ctx := sqsClient(g.cfg.url), within(g.t, patience)
	queue, err := cl.GetQueueUrl(ctx, &awssqs.GetQueueUrlInput{QueueName: &name})
	if err != nil {
		g.t.Fatal(err)
	}
	counts := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	eventually(g.t, patience, name+" is empty", func() bool {
		out, err := cl.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{QueueUrl: queue.QueueUrl, AttributeNames: counts})
		if err != nil {
			g.t.Fatal(err)
		}
		left := 0
		for _, n := range out.Attributes {
			i, err := strconv.Atoi(n)
			if err != nil {
				g.t.Fatal(err)
			}
			left += i
		}
		return left == 0 && len(out.Attributes) == len(counts)
	})
}

func sqsClient(at string) *awssqs.Client {
	return awssqs.New(awssqs.Options{BaseEndpoint: &at, Region: "us-east-1", Credentials: aws.AnonymousCredentials{}})
}

// ElasticMQ keeps nothing over a restart, so what breaks here is the way to it, and
// its patience.
func TestNothingIsLostThoughTheNetworkToSQSIsInTrouble(t *testing.T) {
	t.Parallel()
	at := need.Address(t, services.SQS())
	u, err := url.Parse(at)
	must(t, err)
	var running sync.WaitGroup
	defer running.Wait()
	for name, fault := range map[string]func(*flow, *netfault.Proxy){
		"while it is cut every 2s":            cuts,
		"while it is a black hole":            holds(both),
		"while nothing gets to the broker":    holds(up),
		"while nothing comes from the broker": holds(down),
	} {
		running.Go(func() {
			t.Run(name, func(t *testing.T) {
				p, err := netfault.Listen(u.Host)
				must(t, err)
				t.Cleanup(func() { _ = p.Close() })
				broken(t, p, fault, size(1000, 10_000), flowConfig{server: onSQS{}, url: at, via: "http://" + p.Addr()})
			})
		})
	}
	running.Go(func() {
		t.Run("while it is cut every 2s, with FIFO queues", func(t *testing.T) {
			p, err := netfault.Listen(u.Host)
			must(t, err)
			t.Cleanup(func() { _ = p.Close() })
			// ElasticMQ was seen to carry 35 messages a second through a FIFO queue and
			// back again, of which 10,000 would outlast patience.
			broken(t, p, cuts, size(500, 2000), flowConfig{server: onSQS{fifo: true}, url: at, via: "http://" + p.Addr()})
		})
	})
}

func TestNothingIsLostThoughSQSHangsForAWhile(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.SQS())
	f := newFlow(t, flowConfig{server: onSQS{}, url: node.URL()})
	g := f.group("g")
	stop := g.start(groupConfig{})
	resumed := make(chan struct{})
	wait := f.publish(load{n: size(1000, 10_000), publishers: 8, pace: 40 * time.Millisecond, until: resumed})
	f.reach(200)
	f.amid(inFlight)
	must(t, node.Pause())
	pause(t.Context(), size(5*time.Second, time.Minute))
	must(t, node.Resume())
	close(resumed)
	wait()
	g.verify()
	must(t, stop())
}

func TestAConsumerOfSQSStopsInOrder(t *testing.T) {
	t.Parallel()
	at := flowConfig{server: onSQS{}, url: need.Address(t, services.SQS())}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { t.Run("with 50 running handlers", func(t *testing.T) { shutdown(t, at) }) })
	running.Go(func() { t.Run("when handlers outlast the drain timeout", func(t *testing.T) { drainTimeout(t, at) }) })
	running.Go(func() {
		t.Run("and no goroutine is left over many cycles", func(t *testing.T) {
			goroutines(t, unique("cycles"), size(2, 20), func() (messaging.Broker, error) {
				// The client is the user's, and so are its idle connections.
				options := sqsClient(at.url).Options()
				options.HTTPClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
				return sqs.New(sqs.Config{Client: awssqs.New(options), Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
			})
		})
	})
}
