package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// forgetPause is how soon the client may be told again to forget a topic: later than
// all who met the same answer, sooner than anybody gives up.
const forgetPause = time.Second

// permanent reports whether trying again cannot mend err.
func permanent(err error) bool {
	return errors.Is(err, messaging.ErrDenied) || errors.Is(err, messaging.ErrTopology) || errors.Is(err, messaging.ErrInvalid) ||
		errors.Is(err, messaging.ErrNotFound) || errors.Is(err, messaging.ErrClosed)
}

// denied returns what it means that Kafka, or the TLS below it, lets the client
// not in or not do what it asked for, or nil when err says something else.
func denied(err error) error {
	for _, e := range [...]struct {
		err  error
		hint string
	}{
		{kerr.SaslAuthenticationFailed, "check the user and password in Config.SASL"},
		{kerr.UnsupportedSaslMechanism, "the cluster does not take Config.SASL.Mechanism"},
		{kerr.IllegalSaslState, "the cluster does not ask for SASL on this port"},
		{kerr.TopicAuthorizationFailed, "the user needs the permissions Describe and Read, to publish Write, and to make topics Create"},
		{kerr.GroupAuthorizationFailed, "the user needs the permission Read on the group"},
		{kerr.ClusterAuthorizationFailed, "the user needs the permission IdempotentWrite or Create on the cluster"},
		{kerr.TransactionalIDAuthorizationFailed, "the user needs the permission Write on the transactional ID"},
	} {
		if errors.Is(err, e.err) {
			return fmt.Errorf("%w: %s: %w", messaging.ErrDenied, e.hint, err)
		}
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: the server's certificate is not trusted, check Config.TLS: %w", messaging.ErrDenied, e)
	}
	// crypto/tls marks with this word what the peer objects to.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return fmt.Errorf("%w: the server refuses the TLS handshake, check the client certificate in Config.TLS: %w", messaging.ErrDenied, e)
	}
	return nil
}

// unpublished returns what it means that the client gave a record up. again says
// that it was not for good, and the record may go out once more.
func (b *Broker) unpublished(topic string, err error) (meaning error, again bool) {
	if err == nil {
		return nil, false
	}
	if d := denied(err); d != nil {
		return d, false
	}
	switch {
	case b.isClosing():
		return messaging.ErrClosed, false
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w: see max.message.bytes of topic %s, and Config.MaxPayload: %w", messaging.ErrTooLarge, topic, err), false
	case errors.Is(err, kerr.UnknownTopicID):
		b.forget(topic)
		return err, true
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return b.missing(topic), false
	case errors.Is(err, kerr.InvalidTopicException):
		return fmt.Errorf("%w: topic %s: %w", messaging.ErrInvalid, topic, err), false
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries), kerr.IsRetriable(err):
		return err, true // with what a broker said last
	}
	// Only a broker's own answer is for good: one that was not reached, or went away,
	// may answer next time.
	if _, ok := errors.AsType[*kerr.Error](err); !ok {
		return err, true
	}
	return fmt.Errorf("%w: %w", messaging.ErrRefused, err), false
}

// forget has the client ask for topic by its name again. It does not do so by itself
// for one that was deleted, and perhaps made anew, and would never find it. What else
// waits for the topic fails by that, to go out again, so one of all who find out is
// enough.
func (b *Broker) forget(topic string) {
	b.mu.Lock()
	first := time.Since(b.forgot) > forgetPause
	if first {
		b.forgot = time.Now()
	}
	b.mu.Unlock()
	if first {
		b.out.PurgeTopicsFromProducing(topic)
	}
}

// missing is the error of a Publish to a topic that does not exist.
func (b *Broker) missing(topic string) error {
	if b.cfg.Passive {
		return fmt.Errorf("%w, and Config.Passive leaves it to others to make it: %s", messaging.ErrNotFound, b.cfg.recipe(topic, kindWork))
	}
	return fmt.Errorf("%w: there is no topic %s: the first Subscribe to it makes it", messaging.ErrUnroutable, topic)
}
