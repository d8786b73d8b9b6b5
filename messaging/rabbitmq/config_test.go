package rabbitmq_test

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestNew(t *testing.T) {
	t.Parallel()
	t.Run("connects to nothing", func(t *testing.T) {
		t.Parallel()
		b, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://127.0.0.1:1/"})
		if err != nil {
			t.Fatalf("New() = %v, want nil", err)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	t.Run("reports every fault on one line", func(t *testing.T) {
		t.Parallel()
		_, err := rabbitmq.New(rabbitmq.Config{
			URL:         "amqp://guest:hush@host/?heartbeat=5",
			RetryDelays: []time.Duration{time.Second, 0, 100 * 24 * time.Hour},
			Heartbeat:   time.Millisecond,
		})
		if err == nil {
			t.Fatal("New() = nil, want an error")
		}
		for _, want := range []string{"rabbitmq: config: ", "query parameters", "RetryDelays entry 0s", "RetryDelays entry 2400h0m0s", "Heartbeat 1ms"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("New() = %q, want it to contain %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("New() = %q, want one line", err)
		}
	})
	for name, url := range map[string]string{
		"an empty URL":         "",
		"another scheme":       "https://guest:hush@host/",
		"a URL with a space":   "amqp://guest:hush @host/",
		"a bad escape":         "amqp://guest:hush%zz@host/",
		"a bad port":           "amqp://guest:hush@host:port/",
		"a query":              "amqp://guest:hush@host/?certfile=/x",
		"a stray / in the pw":  "amqp://guest:hu/sh@host/",
		"a too long user name": "amqp://" + strings.Repeat("u", 300) + ":hush@host/",
	} {
		t.Run("refuses "+name+" without telling the password", func(t *testing.T) {
			t.Parallel()
			_, err := rabbitmq.New(rabbitmq.Config{URL: url})
			if err == nil || strings.Contains(err.Error(), "hush") {
				t.Errorf("New() = %v, want an error without the password", err)
			}
		})
	}
	t.Run("refuses TLS settings without amqps", func(t *testing.T) {
		t.Parallel()
		_, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://host/", TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
		if err == nil || !strings.Contains(err.Error(), "amqps://") {
			t.Errorf("New() = %v, want a hint at amqps://", err)
		}
	})
	t.Run("refuses more than 16 retry delays", func(t *testing.T) {
		t.Parallel()
		if _, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://host/", RetryDelays: make([]time.Duration, 17)}); err == nil {
			t.Error("New() = nil, want an error")
		}
	})
}
