package rabbitmq_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// serverURL returns the address of the RabbitMQ to test against.
func serverURL(t testing.TB) string {
	t.Helper()
	return need.Address(t, services.RabbitMQ())
}

// within returns a context for what must not hang. Its bound asserts nothing
// about speed.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

const (
	patience = 30 * time.Second
	// moment is how long a test watches that something does not happen.
	moment = 100 * time.Millisecond
)

// newBroker returns a Broker that is closed when the test ends.
func newBroker(t testing.TB, c rabbitmq.Config) *rabbitmq.Broker {
	t.Helper()
	if c.URL == "" {
		c.URL = serverURL(t)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b, err := rabbitmq.New(c)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}

// unique returns a name that no other test uses.
func unique(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])
}

// An admin looks at the server, and changes it, behind the Broker's back.
type admin struct {
	t testing.TB
	c *amqp.Connection
}

func newAdmin(t testing.TB) *admin {
	t.Helper()
	return adminAt(t, serverURL(t))
}

func adminAt(t testing.TB, url string) *admin {
	t.Helper()
	c, err := amqp.Dial(url)
	if err != nil {
		t.Fatalf("connect to RabbitMQ: %v", err)
	}
	a := &admin{t: t, c: c}
	t.Cleanup(func() { _ = c.Close() })
	return a
}

// do runs f on a channel of its own, since an error closes it.
func (a *admin) do(f func(*amqp.Channel) error) error {
	a.t.Helper()
	ch, err := a.c.Channel()
	if err != nil {
		a.t.Fatalf("open a channel: %v", err)
	}
	defer ch.Close()
	return f(ch)
}

// topic returns a new topic whose exchange and, with the given groups, queues
// are deleted when the test ends.
func (a *admin) topic(groups ...string) string {
	a.t.Helper()
	topic := unique("t")
	a.t.Cleanup(func() {
		for _, g := range groups {
			a.deleteGroup(topic, g)
		}
		_ = a.do(func(ch *amqp.Channel) error { return ch.ExchangeDelete(topic, false, false) })
	})
	return topic
}

var rungs = []time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 4 * time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute,
}

func (a *admin) deleteGroup(topic, group string) {
	names := []string{topic + "." + group, topic + "." + group + ".dlq"}
	for _, d := range rungs {
		names = append(names, fmt.Sprintf("%s.%s.retry.%d", topic, group, d.Milliseconds()))
	}
	for _, name := range names {
		_ = a.do(func(ch *amqp.Channel) error { _, err := ch.QueueDelete(name, false, false, false); return err })
	}
}

// declare creates the group without keeping a subscription.
func (a *admin) declare(b *rabbitmq.Broker, topic, group string) {
	a.t.Helper()
	s := subscribe(a.t, b, messaging.Subscription{Topic: topic, Group: group}, func(context.Context, *messaging.Delivery, messaging.Settler) error {
		return errors.New("not taken")
	})
	s.stop()
}

// get takes a message out of a queue, waiting for it.
func (a *admin) get(queue string) amqp.Delivery {
	a.t.Helper()
	ch, err := a.c.Channel()
	if err != nil {
		a.t.Fatalf("open a channel: %v", err)
	}
	defer ch.Close()
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		a.t.Fatalf("consume from %s: %v", queue, err)
	}
	select {
	case d := <-deliveries:
		return d
	case <-time.After(patience):
		a.t.Fatalf("no message in %s", queue)
	}
	return amqp.Delivery{}
}

// count returns how many messages wait in a queue.
func (a *admin) count(queue string) int {
	a.t.Helper()
	n := -1
	err := a.do(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	if err != nil {
		a.t.Fatalf("inspect %s: %v", queue, err)
	}
	return n
}

// A subscription runs Subscribe until the test ends or stop is called.
type subscription struct {
	t      testing.TB
	cancel context.CancelFunc
	ready  chan struct{}
	done   chan struct{}
	err    error
}

func subscribe(t testing.TB, b messaging.Broker, s messaging.Subscription, deliver messaging.Deliver) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sub := &subscription{t: t, cancel: cancel, ready: make(chan struct{}, 1000), done: make(chan struct{})}
	s.OnReady = func() { sub.ready <- struct{}{} }
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

// into returns a Deliver that settles each delivery with verdict, and passes it
// on to c.
func into(c chan<- *messaging.Delivery, verdict messaging.Verdict) messaging.Deliver {
	return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		err := s.Settle(lease, verdict)
		c <- d
		return err
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

func numbered(n int) []messaging.Message {
	msgs := make([]messaging.Message, n)
	for i := range msgs {
		msgs[i] = messaging.NewMessage("Numbered", fmt.Append(nil, i))
	}
	return msgs
}

// newProxy returns a proxy to the server, and the URL by which it is reached.
func newProxy(t testing.TB) (*netfault.Proxy, string) {
	t.Helper()
	u, err := url.Parse(serverURL(t))
	if err != nil {
		t.Fatal("PARLEY_RABBITMQ_URL is not a URL")
	}
	p, err := netfault.Listen(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	u.Host = p.Addr()
	return p, u.String()
}

// loseFirst has p lose the first request of a class and method of AMQP 0-9-1, and
// pass all else on.
func loseFirst(p *netfault.Proxy, class, method byte) {
	found := false
	p.Lose(func(sent []byte) bool {
		if found {
			return false
		}
		found = bytes.Contains(sent, []byte{0, class, 0, method})
		return found
	})
}
