package sqs_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

const patience = 30 * time.Second

// serverURL returns the address of the SQS to test against.
func serverURL(t testing.TB) string {
	t.Helper()
	return need.Address(t, services.SQS())
}

// bothURL returns the address of a server that is SQS and SNS.
func bothURL(t testing.TB) string {
	t.Helper()
	url := os.Getenv("PARLEY_SNS_URL")
	if url == "" {
		t.Skip("PARLEY_SNS_URL is not set: there is no SNS to test against but the one of this package's tests")
	}
	return url
}

// settings returns what a client needs for the server at url.
func settings(url string) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(url),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
		}),
	}
}

func client(url string) *awssqs.Client { return awssqs.NewFromConfig(settings(url)) }

// over returns what a client needs for a fake server.
func over(t testing.TB, s *sqsfake.Server) aws.Config {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	cfg := settings(server.URL)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	cfg.HTTPClient = &http.Client{Transport: transport}
	return cfg
}

// newBroker returns a Broker that is closed when the test ends, on a server whose
// groups are found at once.
func newBroker(t testing.TB, c sqs.Config) *sqs.Broker {
	t.Helper()
	if c.Client == nil {
		c.Client = client(serverURL(t))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Wait == 0 {
		c.Wait = time.Second
	}
	b, err := sqs.New(c)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	sqs.SetFreshly(b, 100*time.Millisecond, time.Second)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}

// fakeBroker returns a Broker on a fake server.
func fakeBroker(t testing.TB, s *sqsfake.Server, c sqs.Config) *sqs.Broker {
	t.Helper()
	c.Client = awssqs.NewFromConfig(over(t, s))
	return newBroker(t, c)
}

// unique returns a name that no other test uses.
func unique() string { return "t-" + rand.Text()[:12] }

// within returns a context for what must not hang.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// A delivery is one that was accepted.
type delivery struct {
	*messaging.Delivery
	messaging.Settler
	lease context.Context
}

// A subscription runs Subscribe until the test ends or stop is called.
type subscription struct {
	t      testing.TB
	cancel context.CancelFunc
	come   chan delivery
	ready  chan struct{}
	lost   chan error
	done   chan struct{}
	err    error
}

func subscribe(t testing.TB, b messaging.Broker, s messaging.Subscription) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sub := &subscription{
		t: t, cancel: cancel, come: make(chan delivery, 1000), ready: make(chan struct{}, 1000), lost: make(chan error, 1000), done: make(chan struct{}),
	}
	s.OnReady = func() { sub.ready <- struct{}{} }
	s.OnLost = func(err error) { sub.lost <- err }
	go func() {
		defer close(sub.done)
		sub.err = b.Subscribe(ctx, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
			sub.come <- delivery{d, set, lease}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-sub.done:
		case <-time.After(patience):
			t.Error("Subscribe() did not return after its context had ended")
		}
	})
	select {
	case <-sub.ready:
	case <-sub.done:
		t.Fatalf("Subscribe() = %v before it was ready", sub.err)
	case <-time.After(patience):
		t.Fatal("the subscription does not become ready")
	}
	t.Cleanup(func() { // what a test leaves unsettled holds nothing up
		for {
			select {
			case d := <-sub.come:
				_ = d.Settle(context.Background(), messaging.Verdict{Kind: messaging.Release})
			default:
				return
			}
		}
	})
	return sub
}

func (s *subscription) receive() delivery {
	s.t.Helper()
	return receive(s.t, s.come)
}

// stop ends the subscription, whose deliveries are settled.
func (s *subscription) stop() {
	s.t.Helper()
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("Subscribe() did not return after its context had ended")
	}
	if s.err != nil {
		s.t.Errorf("Subscribe() = %v, want nil", s.err)
	}
}

// receive waits for a value.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing received")
	}
	panic("unreachable")
}

func (d delivery) settle(t testing.TB, v messaging.Verdict) {
	t.Helper()
	if err := d.Settle(within(t, patience), v); err != nil {
		t.Fatalf("Settle(%v) = %v, want nil", v.Kind, err)
	}
}

func (d delivery) ack(t testing.TB) {
	t.Helper()
	d.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

func publish(t testing.TB, b messaging.Publisher, topic string, msgs ...messaging.Message) {
	t.Helper()
	if err := b.Publish(within(t, patience), topic, msgs...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
}

// consume runs a Consumer until stop is called.
func consume(t testing.TB, b messaging.Broker, cfg messaging.ConsumerConfig, s messaging.Subscription, h messaging.Handler) (stop func()) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	c, err := messaging.NewConsumer(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.Handle(s, h)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	select {
	case <-c.Ready():
	case err := <-ended:
		t.Fatalf("Run() = %v before it was ready", err)
	case <-time.After(patience):
		t.Fatal("the Consumer does not become ready")
	}
	return func() {
		t.Helper()
		cancel()
		if err := receive(t, ended); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	}
}

// message returns one of a key, with text that is its number.
func message(key string, n int) messaging.Message {
	m := messaging.NewMessage("Numbered", fmt.Append(nil, n))
	m.Key = key
	return m
}

// urlOf returns the address of a queue.
func urlOf(t testing.TB, c *awssqs.Client, name string) *string {
	t.Helper()
	out, err := c.GetQueueUrl(within(t, patience), &awssqs.GetQueueUrlInput{QueueName: aws.String(name)})
	if err != nil {
		t.Fatalf("GetQueueUrl(%s) = %v", name, err)
	}
	return out.QueueUrl
}

func topicsOf(cfg aws.Config) *sns.Client { return sns.NewFromConfig(cfg) }
