package rabbitmq

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	maxRungs = 16
	// maxDelay is the longest time to live that RabbitMQ takes: 32 bits of
	// milliseconds.
	maxDelay = (1<<32 - 1) * time.Millisecond
)

// Config says how to reach RabbitMQ and how to lay out queues on it. Only URL is
// required.
type Config struct {
	// URL is the address, such as amqp://user:password@host:5672/vhost, or
	// amqps:// for TLS. Reserved characters in the user, the password and the
	// virtual host are percent-encoded. Without them the user and password are
	// guest and guest, the virtual host is "/". Query parameters are an error:
	// their settings are fields of Config. Required.
	URL string
	// TLS configures an amqps:// connection: own root certificates, and a client
	// certificate for mutual TLS. Default: the system's roots and TLS 1.2 or
	// later. It is an error with amqp://.
	TLS *tls.Config
	// Source becomes the Source of published messages that have none, and the
	// name under which RabbitMQ's management page shows the connections. Default
	// empty.
	Source string
	// Classic makes every queue a durable classic queue in place of a quorum
	// queue. Classic queues are lighter, and weaker: they are not replicated, and
	// messages that wait in a retry delay can be lost when the broker crashes.
	// The type of a queue cannot change once it exists. Default false.
	Classic bool
	// RetryDelays are the delays after which a failed message comes back, each
	// 1 ms to 49 days, at most 16 of them: a delay is rounded up to the next.
	// A longer one than the longest passes through several. Default 1s, 5s, 30s,
	// 2m, 10m.
	RetryDelays []time.Duration
	// Passive makes nothing on RabbitMQ: no exchange, no queue, no binding. It is
	// for users without the permission configure, whose topology others create. What
	// is missing is an error that says how to create it, in Subscribe and in Publish;
	// that each T.G is bound to its T cannot be seen. The user then needs the
	// permission write on the exchange to publish, and to consume, read on the
	// group's queues and write on the default exchange, "amq.default". Default
	// false.
	Passive bool
	// Heartbeat is how often the two ends show each other that they are alive. A
	// silent connection is given up after one and a half of it. In seconds, 1s to
	// 10m. Default 10s.
	Heartbeat time.Duration
	// Logger receives connections made, lost, refused and blocked. Default
	// slog.Default().
	Logger *slog.Logger
}

// settings is a Config that was checked, with what was derived from it.
type settings struct {
	Config
	uri amqp.URI
}

// withDefaults returns the settings that c asks for, or all its faults on one
// line. It repeats no part of the URL, which may hold a password.
func (c Config) withDefaults() (settings, error) {
	var faults []string
	uri, err := amqp.ParseURI(c.URL)
	switch {
	case c.URL == "":
		faults = append(faults, "URL is empty: set amqp://user:password@host:5672/vhost")
	case err != nil:
		faults = append(faults, "URL is not of the form amqp://user:password@host:5672/vhost, with reserved characters percent-encoded")
	case strings.Contains(c.URL, "?"):
		faults = append(faults, "URL has query parameters: set the fields of Config instead, and write a literal '?' as %3F")
	case c.TLS != nil && uri.Scheme != "amqps":
		faults = append(faults, "TLS is set, but URL begins with amqp://: write amqps://")
	}
	if len(uri.Username) > 255 || len(uri.Vhost) > 255 {
		faults = append(faults, "URL holds a user or virtual host longer than 255 bytes")
	}
	if len(c.RetryDelays) > maxRungs {
		faults = append(faults, fmt.Sprintf("RetryDelays has %d entries, more than %d", len(c.RetryDelays), maxRungs))
	}
	for _, d := range c.RetryDelays {
		if d < time.Millisecond || d > maxDelay {
			faults = append(faults, fmt.Sprintf("RetryDelays entry %v is outside 1ms..%v", d, maxDelay))
		}
	}
	if c.Heartbeat != 0 && (c.Heartbeat < time.Second || c.Heartbeat > 10*time.Minute) {
		faults = append(faults, fmt.Sprintf("Heartbeat %v is outside 1s..10m", c.Heartbeat))
	}
	if faults != nil {
		return settings{}, fmt.Errorf("rabbitmq: config: %s", strings.Join(faults, "; "))
	}

	if uri.Scheme == "amqps" {
		c.TLS = c.TLS.Clone()
		if c.TLS == nil {
			c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if c.TLS.ServerName == "" {
			c.TLS.ServerName = uri.Host
		}
	}
	if len(c.RetryDelays) == 0 {
		c.RetryDelays = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
	}
	c.RetryDelays = slices.Clone(c.RetryDelays)
	for i, d := range c.RetryDelays { // up to the whole milliseconds that RabbitMQ knows
		c.RetryDelays[i] = (d + time.Millisecond - 1).Truncate(time.Millisecond)
	}
	slices.Sort(c.RetryDelays)
	c.RetryDelays = slices.Compact(c.RetryDelays)
	if c.Heartbeat == 0 {
		c.Heartbeat = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return settings{Config: c, uri: uri}, nil
}

// rung returns the delay to wait next for a message that is due after d, and
// what is left to wait after that. Both are zero when d is not positive.
func (s *settings) rung(d time.Duration) (delay, rest time.Duration) {
	if d <= 0 {
		return 0, 0
	}
	i, _ := slices.BinarySearch(s.RetryDelays, d)
	if i == len(s.RetryDelays) {
		longest := s.RetryDelays[i-1]
		return longest, d - longest
	}
	return s.RetryDelays[i], 0
}
