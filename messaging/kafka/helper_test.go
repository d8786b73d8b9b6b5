package kafka_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

const (
	patience = 30 * time.Second
	// moment is how long a test watches that something does not happen.
	moment = 200 * time.Millisecond
)

// short are delays for tests.
var short = []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}

// server returns the addresses of the Kafka to test against.
func server(t testing.TB) []string {
	t.Helper()
	return strings.Split(need.Address(t, services.Kafka()), ",")
}

// fake starts a Kafka inside the process, which can be told to fail.
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// within returns a context for what must not hang. Its bound asserts nothing
// about speed.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// newBroker returns a Broker that is closed when the test ends.
func newBroker(t testing.TB, c kafka.Config) *kafka.Broker {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.RetryDelays == nil {
		c.RetryDelays = short
	}
	b, err := kafka.New(c)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	t.Cleanup(func() { shut(t, b) })
	return b
}

func shut(t testing.TB, b *kafka.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

// unique returns a name that no other test uses.
func unique(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])
}

// raw returns a client that is not the Broker's.
func raw(t testing.TB, seeds []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// admin looks at the server behind the Broker's back.
func admin(t testing.TB, seeds []string) *kadm.Client { return kadm.NewClient(raw(t, seeds)) }

// newTopic returns a topic that is deleted, with those of its groups, when the
// test ends.
func newTopic(t testing.TB, seeds []string) string {
	t.Helper()
	topic := unique("t")
	t.Cleanup(func() { forget(t, seeds, topic) })
	return topic
}

// forget deletes the topics whose names begin with prefix.
func forget(t testing.TB, seeds []string, prefix string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	all, err := adm.ListTopics(ctx)
	if err != nil {
		return // the server is gone too
	}
	var names []string
	for _, name := range all.Names() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		_, _ = adm.DeleteTopics(ctx, names...)
	}
}

// A subscription runs Subscribe until the test ends or stop is called.
type subscription struct {
	t      testing.TB
	cancel context.CancelFunc
	ready  chan struct{}
	lost   chan error
	done   chan struct{}
	err    error
}

// begin runs Subscribe.
func begin(t testing.TB, b messaging.Broker, s messaging.Subscription, deliver messaging.Deliver) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sub := &subscription{t: t, cancel: cancel, ready: make(chan struct{}, 1000), lost: make(chan error, 1000), done: make(chan struct{})}
	s.OnReady = func() { sub.ready <- struct{}{} }
	s.OnLost = func(err error) { sub.lost <- err }
	go func() {
		defer close(sub.done)
		sub.err = b.Subscribe(ctx, s, deliver)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-sub.done:
		case <-time.After(patience):
			t.Error("Subscribe() did not return after its context had ended")
		}
	})
	return sub
}

// subscribe runs Subscribe, and returns when it is ready.
func subscribe(t testing.TB, b messaging.Broker, s messaging.Subscription, deliver messaging.Deliver) *subscription {
	t.Helper()
	sub := begin(t, b, s, deliver)
	sub.awaitReady()
	return sub
}

// awaitReady waits until the subscription has been established once more.
func (s *subscription) awaitReady() {
	s.t.Helper()
	select {
	case <-s.ready:
	case <-s.done:
		s.t.Fatalf("Subscribe() = %v before it was ready", s.err)
	case <-time.After(patience):
		s.t.Fatal("the subscription does not become ready")
	}
}

// returned waits until Subscribe has returned, and returns its error.
func (s *subscription) returned() error {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("Subscribe() does not return")
	}
	return s.err
}

func (s *subscription) stop() {
	s.t.Helper()
	s.cancel()
	if err := s.returned(); err != nil {
		s.t.Errorf("Subscribe() = %v after its context had ended, want nil", err)
	}
}

// An arrival is a delivery on its way through a test.
type arrival struct {
	*messaging.Delivery
	messaging.Settler
	lease context.Context
}

// into returns a Deliver that passes deliveries on to c, unsettled.
func into(c chan<- arrival) messaging.Deliver {
	return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		c <- arrival{d, s, lease}
		return nil
	}
}

// settling returns a Deliver that settles each delivery with v, and passes it on
// to c.
func settling(c chan<- *messaging.Delivery, v messaging.Verdict) messaging.Deliver {
	return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		err := s.Settle(lease, v)
		c <- d
		return err
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func nothing(context.Context, *messaging.Delivery, messaging.Settler) error {
	return errors.New("not taken")
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

func (a arrival) settle(t testing.TB, v messaging.Verdict) {
	t.Helper()
	if err := a.Settle(within(t, patience), v); err != nil {
		t.Errorf("Settle(%v) = %v, want nil", v.Kind, err)
	}
}

// publish publishes msgs, which must succeed.
func publish(t testing.TB, b messaging.Publisher, topic string, msgs ...messaging.Message) {
	t.Helper()
	if err := b.Publish(within(t, patience), topic, msgs...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
}

func numbered(n int) []messaging.Message {
	msgs := make([]messaging.Message, n)
	for i := range msgs {
		msgs[i] = messaging.NewMessage("Numbered", fmt.Append(nil, i))
	}
	return msgs
}

// committed returns what a group has committed of a partition.
func committed(t testing.TB, adm *kadm.Client, group, topic string, num int32) int64 {
	t.Helper()
	all, err := adm.FetchOffsets(within(t, patience), group)
	if err != nil {
		t.Fatal(err)
	}
	at, ok := all.Lookup(topic, num)
	if !ok {
		return -1
	}
	return at.At
}

// eventually waits until ok, asking again and again.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
		tick := time.NewTimer(10 * time.Millisecond)
		<-tick.C
	}
}
