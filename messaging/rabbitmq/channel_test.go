package rabbitmq_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// A record is a log that may be read while it is written.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func TestARequestThatIsNeverAnsweredIsToldAndMadeAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		class, method byte // of AMQP 0-9-1
		request       func(topic string) string
	}{
		"to consume":           {60, 20, func(topic string) string { return "consume from queue " + topic + ".g" }},
		"to limit":             {60, 10, func(string) string { return "limit the unacknowledged" }},
		"to declare a queue":   {50, 10, func(topic string) string { return "declare queue " + topic + ".g.dlq" }},
		"to bind a queue":      {50, 20, func(topic string) string { return "bind queue " + topic + ".g" }},
		"to open a channel":    {20, 10, func(string) string { return "open a channel" }},
		"to cancel a consumer": {60, 30, func(string) string { return "cancel a consumer" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdmin(t)
			topic := a.topic("g")
			p, via := newProxy(t)
			var log record
			b := newBroker(t, rabbitmq.Config{URL: via, RetryDelays: rungs[:1], Logger: slog.New(slog.NewTextHandler(&log, nil))})
			rabbitmq.SetAnswerTimeout(b, 2*time.Second)
			loseFirst(p, c.class, c.method)
			got := make(chan *messaging.Delivery, 10)
			sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
			sub.stop()
			if text := log.String(); !strings.Contains(text, "no answer from the broker") || !strings.Contains(text, c.request(topic)) {
				t.Errorf("the log does not tell that the request to %s has no answer:\n%s", c.request(topic), text)
			}
		})
	}
	t.Run("to confirm a message", func(t *testing.T) {
		t.Parallel()
		a := newAdmin(t)
		topic := a.topic("g")
		p, via := newProxy(t)
		var log record
		b := newBroker(t, rabbitmq.Config{URL: via, RetryDelays: rungs[:1], Logger: slog.New(slog.NewTextHandler(&log, nil))})
		rabbitmq.SetAnswerTimeout(b, time.Second)
		got := make(chan *messaging.Delivery, 10)
		sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
		if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
		receive(t, got)
		loseFirst(p, 60, 40)
		m := messaging.NewMessage("Numbered", nil)
		if err := b.Publish(within(t, patience), topic, m); err != nil {
			t.Errorf("Publish() of a message that is never confirmed = %v, want nil: it goes out again", err)
		}
		if d := receive(t, got); d.ID != m.ID {
			t.Errorf("received %s, want %s", d.ID, m.ID)
		}
		if text := log.String(); !strings.Contains(text, "no answer from the broker") || !strings.Contains(text, "confirm a message") {
			t.Errorf("the log does not tell that a message was not confirmed:\n%s", text)
		}
		sub.stop()
	})
	t.Run("by Publish", func(t *testing.T) {
		t.Parallel()
		a := newAdmin(t)
		topic := a.topic("g")
		a.declare(newBroker(t, rabbitmq.Config{RetryDelays: rungs[:1]}), topic, "g")
		p, via := newProxy(t)
		var log record
		b := newBroker(t, rabbitmq.Config{URL: via, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		rabbitmq.SetAnswerTimeout(b, 2*time.Second)
		loseFirst(p, 40, 10)
		if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
			t.Errorf("Publish() = %v, want nil", err)
		}
		if text := log.String(); !strings.Contains(text, "declare exchange "+topic) {
			t.Errorf("the log does not tell what had no answer:\n%s", text)
		}
	})
}
