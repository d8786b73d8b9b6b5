package interop

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

// patience bounds every wait.
const patience = time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unique returns the name of a topic that no other test uses.
func unique() string { return "interop-" + strings.ToLower(rand.Text()[:10]) }

// closing closes b when the test ends.
func closing[B messaging.Broker](t *testing.T, b B) B {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}

// subscribed runs a Consumer of the topic for as long as use takes, and hands each
// delivery to handle.
func subscribed(t *testing.T, b messaging.Broker, topic string, handle func(*messaging.Delivery), use func()) {
	t.Helper()
	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	c.Handle(messaging.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *messaging.Delivery) error {
		handle(d)
		return nil
	})
	ctx, stop := context.WithCancel(within(t))
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	select {
	case <-c.Ready():
	case err := <-ran:
		t.Fatalf("Run() = %v before it was ready", err)
	}
	use()
	stop()
	must(t, <-ran)
}

// receive subscribes to the topic and returns the n messages that publish causes.
func receive(t *testing.T, b messaging.Broker, topic string, n int, publish func()) []messaging.Message {
	t.Helper()
	var all []messaging.Message
	in, ctx := make(chan messaging.Message), within(t)
	subscribed(t, b, topic, func(d *messaging.Delivery) {
		select {
		case in <- d.Clone():
		case <-ctx.Done():
		}
	}, func() {
		publish()
		for len(all) < n {
			select {
			case m := <-in:
				all = append(all, m)
			case <-ctx.Done():
				t.Fatalf("%d messages arrived within %v, want %d", len(all), patience, n)
			}
		}
	})
	return all
}
