package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/parley-go/parley/messaging"
)

const (
	// Reconnecting waits up to minBackoff, doubled for each failure up to
	// maxBackoff, a random part of it each time.
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
	// metadataAge is how soon the client asks again about a topic that it does not
	// know, or whose partitions have moved.
	metadataAge = 100 * time.Millisecond
	// deliveryTimeout is how long the client keeps a record that no broker takes.
	// Publish hands it over again while its context lasts.
	deliveryTimeout = 30 * time.Second
	// unknownRetries is how often the client asks for a topic that does not exist.
	unknownRetries = 2
)

// options returns what all clients of the Broker have in common.
func (b *Broker) options() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(b.cfg.Seeds...),
		kgo.WithLogger(clientLog{b.troubles}),
		kgo.WithHooks(b.troubles),
		kgo.MetadataMinAge(metadataAge),
		kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(backoff),
	}
	if b.cfg.Source != "" {
		opts = append(opts, kgo.ClientID(b.cfg.Source))
	}
	switch {
	case b.cfg.Dial != nil:
		opts = append(opts, kgo.Dialer(b.cfg.dial))
	case b.cfg.TLS != nil:
		opts = append(opts, kgo.DialTLSConfig(b.cfg.TLS.Clone()))
	}
	if b.cfg.SASL.User != "" {
		opts = append(opts, kgo.SASL(b.cfg.SASL.mechanism()))
	}
	return opts
}

// mechanism returns what proves to Kafka who s is.
func (s SASL) mechanism() sasl.Mechanism {
	auth := scram.Auth{User: s.User, Pass: s.Password}
	switch s.Mechanism {
	case Plain:
		return plain.Auth{User: s.User, Pass: s.Password}.AsMechanism()
	case ScramSHA256:
		return auth.AsSha256Mechanism()
	}
	return auth.AsSha512Mechanism()
}

// producer returns the options of the client that publishes. It hands out no
// record to another partition than Java clients do: murmur2 of the key.
func (b *Broker) producer() []kgo.Opt {
	return append(b.options(),
		kgo.ProducerLinger(0), // what waits for an answer in flight makes batches by itself
		kgo.RecordDeliveryTimeout(deliveryTimeout),
		kgo.UnknownTopicRetries(unknownRetries),
		kgo.ProducerBatchMaxBytes(int32(b.cfg.MaxPayload+headroom)),
		kgo.BrokerMaxWriteBytes(max(100<<20, int32(b.cfg.MaxPayload+2*headroom))),
		kgo.MaxBufferedRecords(2*maxInFlight/recordCost), // which never holds up: quota does
	)
}

// client returns the client that publishes and administers, once it has reached a
// broker. It tries until ctx ends, or Kafka does not let it in.
func (b *Broker) client(ctx context.Context) (*kgo.Client, error) {
	if b.reached.Load() {
		return b.out, nil
	}
	for failures := 1; ; failures++ {
		err := b.out.Ping(ctx)
		if err == nil {
			b.troubles.well(b.cfg.Logger, "seeds", "kafka: a broker answers")
			b.reached.Store(true)
			return b.out, nil
		}
		if d := denied(err); d != nil {
			return nil, d
		}
		if cause := b.ended(ctx); cause != nil {
			return nil, fmt.Errorf("no broker of %v answers: %w", b.cfg.Seeds, cause)
		}
		b.troubles.met(b.cfg.Logger, "seeds", "kafka: no broker answers", slog.Any("err", err))
		_ = pause(ctx, b.closing, backoff(failures))
	}
}

// backoff returns how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	most := maxBackoff
	if failures < 6 {
		most = min(maxBackoff, minBackoff<<max(failures-1, 0))
	}
	return most/2 + rand.N(most/2+1)
}

// pause waits for d, or until ctx or the Broker ends, which is the error.
func pause(ctx context.Context, closing <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-closing:
		return messaging.ErrClosed
	}
}
