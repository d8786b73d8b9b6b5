package kafka

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	maxRungs = 16
	// maxDelay keeps what waits for a retry well within the seven days for which
	// Kafka keeps records by default. A longer delay passes through several.
	maxDelay = 24 * time.Hour
	// maxPartitions and maxReplicas catch a slip of the keyboard.
	maxPartitions = 10_000
	maxReplicas   = 100

	defaultPartitions = 6
	defaultRebalance  = 30 * time.Second
	// defaultMaxPayload leaves room in the 1,048,588 bytes that Kafka takes by
	// default for 32 KiB of headers, and for what a dead letter has beside them.
	defaultMaxPayload = 960 << 10
	maxMaxPayload     = 64 << 20
	// headroom is what a record may have beside its payload.
	headroom = 64 << 10
)

// Mechanisms of SASL.
const (
	Plain       = "PLAIN"         // sends the password as it is: use it with TLS
	ScramSHA256 = "SCRAM-SHA-256" // proves to know the password
	ScramSHA512 = "SCRAM-SHA-512" // the same with a longer hash
)

// Config says how to reach Kafka and how to lay out topics on it. Only Seeds is
// required.
type Config struct {
	// Seeds are the addresses of some brokers of the cluster, host:port, of which
	// one that answers is enough. Required.
	Seeds []string
	// TLS, if not nil, encrypts the connections: own root certificates, and a
	// client certificate for mutual TLS. The zero [tls.Config] trusts the system's
	// roots. Default nil, which is plain text.
	TLS *tls.Config
	// SASL says who the client is. Default: nobody, unless by a client certificate
	// in TLS.
	SASL SASL
	// Source becomes the Source of published messages that have none, and the
	// client.id by which Kafka's logs and quotas know the connections. Default
	// empty.
	Source string
	// Partitions is how many partitions a topic gets that Subscribe makes: so many
	// processes can share the work of a group. 1 to 10,000. A topic that exists
	// stays as it is. Default 6.
	Partitions int
	// ReplicationFactor is how many brokers store a topic that Subscribe makes, 1
	// to 100. Default: what the cluster has as its default.replication.factor.
	ReplicationFactor int
	// RetryDelays are the delays after which a failed message comes back, each
	// 1 ms to 24 h, at most 16 of them: a delay is rounded up to the next. A longer
	// one than the longest passes through several. Default 1s, 5s, 30s, 2m, 10m.
	RetryDelays []time.Duration
	// MaxPayload is the largest payload that Publish takes, in bytes, up to 64 MiB.
	// Topics that Subscribe makes take that and 64 KiB; others may take less, by
	// their max.message.bytes. Default 983,040 (960 KiB), which fits in Kafka's own
	// default.
	MaxPayload int
	// RebalanceTimeout is how long partitions that move to another process may
	// take to leave this one: half of it is for running handlers, whose contexts
	// end after that. 1s to 10m. Default 30s.
	RebalanceTimeout time.Duration
	// Dial opens the connections to brokers, at the addresses that they advertise: for
	// SOCKS, private links and proxies. TLS, where it is set, is spoken on top of what
	// Dial returns, with the host of addr as the server's name. It gets 10s for both,
	// must return when its context ends, and is called from many goroutines. Default
	// that of [net.Dialer].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Passive makes no topic. It is for users without the permission to create
	// some, whose topics others make. What is missing is an error that says how to
	// create it. Default false.
	Passive bool
	// Logger receives groups joined and lost, and trouble: a warning when it begins
	// and one when it ends. What the client says meanwhile goes to slog.LevelDebug.
	// Default slog.Default().
	Logger *slog.Logger
}

// SASL is a user of Kafka. Its text shows no password.
type SASL struct {
	// Mechanism is [Plain], [ScramSHA256] or [ScramSHA512]. Default
	// [ScramSHA512], where User is set.
	Mechanism string
	// User and Password are what the cluster knows. Both or none.
	User, Password string
}

// String returns s without the password.
func (s SASL) String() string { return strings.TrimSpace(s.Mechanism + " " + s.User) }

// GoString returns s without the password.
func (s SASL) GoString() string { return "kafka.SASL{" + s.String() + "}" }

// withDefaults returns c with its defaults, or all its faults on one line. It
// repeats no password.
func (c Config) withDefaults() (Config, error) {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if len(c.Seeds) == 0 {
		fault("Seeds is empty: set the address of a broker, host:port")
	}
	for _, seed := range c.Seeds {
		if host, port, err := net.SplitHostPort(seed); err != nil || host == "" || port == "" {
			fault("Seeds entry %q is not of the form host:port", seed)
		}
	}
	switch c.SASL.Mechanism {
	case "", Plain, ScramSHA256, ScramSHA512:
	default:
		fault("SASL.Mechanism %q is none of %s, %s, %s", c.SASL.Mechanism, Plain, ScramSHA256, ScramSHA512)
	}
	if (c.SASL.User == "") != (c.SASL.Password == "") || c.SASL.User == "" && c.SASL.Mechanism != "" {
		fault("SASL needs both a User and a Password")
	}
	for _, n := range [...]struct {
		name      string
		got, most int
	}{
		{"Partitions", c.Partitions, maxPartitions},
		{"ReplicationFactor", c.ReplicationFactor, maxReplicas},
		{"MaxPayload", c.MaxPayload, maxMaxPayload},
	} {
		if n.got < 0 || n.got > n.most {
			fault("%s %d is outside 1..%d", n.name, n.got, n.most)
		}
	}
	if len(c.RetryDelays) > maxRungs {
		fault("RetryDelays has %d entries, more than %d", len(c.RetryDelays), maxRungs)
	}
	for _, d := range c.RetryDelays {
		if d < time.Millisecond || d > maxDelay {
			fault("RetryDelays entry %v is outside 1ms..%v", d, maxDelay)
		}
	}
	if c.RebalanceTimeout != 0 && (c.RebalanceTimeout < time.Second || c.RebalanceTimeout > 10*time.Minute) {
		fault("RebalanceTimeout %v is outside 1s..10m", c.RebalanceTimeout)
	}
	if faults != nil {
		return c, fmt.Errorf("kafka: config: %s", strings.Join(faults, "; "))
	}

	c.Seeds = slices.Clone(c.Seeds)
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		if c.TLS.MinVersion == 0 {
			c.TLS.MinVersion = tls.VersionTLS12
		}
	}
	if c.SASL.User != "" && c.SASL.Mechanism == "" {
		c.SASL.Mechanism = ScramSHA512
	}
	if c.Partitions == 0 {
		c.Partitions = defaultPartitions
	}
	if c.ReplicationFactor == 0 {
		c.ReplicationFactor = -1 // the cluster's default
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = defaultMaxPayload
	}
	if c.RebalanceTimeout == 0 {
		c.RebalanceTimeout = defaultRebalance
	}
	if len(c.RetryDelays) == 0 {
		c.RetryDelays = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
	}
	c.RetryDelays = slices.Clone(c.RetryDelays)
	for i, d := range c.RetryDelays { // up to the whole milliseconds of names and headers
		c.RetryDelays[i] = (d + time.Millisecond - 1).Truncate(time.Millisecond)
	}
	slices.Sort(c.RetryDelays)
	c.RetryDelays = slices.Compact(c.RetryDelays)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// rung returns the delay to wait next for a message that is due after d, and
// what is left to wait after that. Both are zero when d is not positive.
func (c *Config) rung(d time.Duration) (delay, rest time.Duration) {
	if d <= 0 {
		return 0, 0
	}
	i, _ := slices.BinarySearch(c.RetryDelays, d)
	if i == len(c.RetryDelays) {
		longest := c.RetryDelays[i-1]
		return longest, d - longest
	}
	return c.RetryDelays[i], 0
}
