package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/url"
	"os"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// long reports whether the long forms are asked for.
func long() bool { return os.Getenv("PARLEY_CHAOS") == "long" }

// size returns the one that is asked for.
func size[T any](short, longer T) T {
	if long() {
		return longer
	}
	return short
}

// patience ends what hangs. It asserts nothing about speed, and outlasts every
// outage.
const patience = 3 * time.Minute

// within returns a context for what must not hang.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// pause lets time pass where that is what a test is about: the pace of a load,
// the length of an outage.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// eventually asks for what nothing tells of.
func eventually(t testing.TB, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(bound)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Errorf("not within %v: %s", bound, what)
			return
		}
	}
}

// unique returns a name that no other test uses.
func unique(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])
}

// newBroker returns a Broker that is closed when the test ends.
func newBroker(t testing.TB, c rabbitmq.Config) *rabbitmq.Broker {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	b, err := rabbitmq.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}

// proxied returns a proxy to the server at the URL, and the URL through it.
func proxied(t testing.TB, at string) (*netfault.Proxy, string) {
	t.Helper()
	u := parse(t, at)
	p, err := netfault.Listen(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	u.Host = p.Addr()
	return p, u.String()
}

func parse(t testing.TB, at string) *url.URL {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal("the address of RabbitMQ is not a URL")
	}
	return u
}

// An admin looks at a server, and changes it, behind the Brokers' backs. It
// connects for each request, since the server comes and goes.
type admin struct {
	t   testing.TB
	url string
}

// do runs f on a channel.
func (a admin) do(f func(*amqp.Channel) error) error {
	a.t.Helper()
	c, err := amqp.Dial(a.url)
	if err != nil {
		a.t.Fatalf("connect to RabbitMQ: %v", err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err != nil {
		a.t.Fatalf("open a channel: %v", err)
	}
	return f(ch)
}

// must is do for what cannot fail.
func (a admin) must(f func(*amqp.Channel) error) {
	a.t.Helper()
	if err := a.do(f); err != nil {
		a.t.Fatal(err)
	}
}

// count returns how many messages are ready in a queue.
func (a admin) count(queue string) (n int) {
	a.t.Helper()
	a.must(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n
}

// read calls more with the message IDs of a queue, which stay there, and with ""
// from time to time, until it reports false or patience ends.
func (a admin) read(queue string, more func(id string) bool) {
	a.t.Helper()
	a.must(func(ch *amqp.Channel) error {
		deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		limit := time.After(patience)
		for more("") {
			select {
			case d, ok := <-deliveries:
				if !ok {
					a.t.Errorf("the consumer of %s was closed", queue)
					return nil
				}
				more(d.MessageId)
			case <-tick.C:
			case <-limit:
				return nil
			}
		}
		return nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// control administers a node.
func control(t testing.TB, n *services.Node, args ...string) string {
	t.Helper()
	out, err := n.Control(within(t, patience), args...)
	must(t, err)
	return out
}
