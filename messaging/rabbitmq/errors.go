package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// permanent reports whether trying again cannot mend err.
func permanent(err error) bool {
	return errors.Is(err, messaging.ErrDenied) || errors.Is(err, messaging.ErrTopology) ||
		errors.Is(err, messaging.ErrNotFound) || errors.Is(err, messaging.ErrClosed)
}

// dialError says what a failure to connect means.
func dialError(err error) error {
	if e, ok := errors.AsType[*amqp.Error](err); ok && e.Server {
		// A full virtual host answers with the same code as a forbidden one, and
		// only its text tells that it may have room again.
		limit := strings.Contains(e.Reason, "connection limit (")
		if e.Code == amqp.AccessRefused || e.Code == amqp.NotAllowed && !limit {
			return fmt.Errorf("%w: check user, password and virtual host: %s", messaging.ErrDenied, e.Reason)
		}
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: the server's certificate is not trusted, check Config.TLS: %w", messaging.ErrDenied, e)
	}
	// crypto/tls marks with this word what the peer objects to.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return fmt.Errorf("%w: the server refuses the TLS handshake, check the client certificate in Config.TLS: %w", messaging.ErrDenied, e)
	}
	return err
}

// refused returns what it means that the server refused a declaration, or nil
// when err is not about the declaration but about the connection.
func refused(err error) error {
	if permanent(err) {
		return err
	}
	e, ok := errors.AsType[*amqp.Error](err)
	if !ok || !e.Server || !e.Recover {
		return nil
	}
	switch e.Code {
	case amqp.AccessRefused:
		return fmt.Errorf("%w: the user needs the permissions configure (save with Config.Passive), write and read: %s", messaging.ErrDenied, e.Reason)
	case amqp.PreconditionFailed:
		return fmt.Errorf("%w: delete the old one, or configure the same settings: %s", messaging.ErrTopology, e.Reason)
	}
	return fmt.Errorf("%w: %s", messaging.ErrRefused, e.Reason)
}

// blame returns the error of a message that made RabbitMQ close the channel, or
// nil for those that only shared it: they are published again. RabbitMQ does not
// say which message it objects to, but names its exchange or its size.
func blame(cause *amqp.Error, exchange string, size int) error {
	if exchange == "" {
		exchange = "amq.default" // as RabbitMQ calls it
	}
	switch {
	case cause == nil || !cause.Server:
		return nil
	case cause.Code == amqp.AccessRefused && strings.Contains(cause.Reason, "'"+exchange+"'"):
		return fmt.Errorf("%w: the user needs the permission write: %s", messaging.ErrDenied, cause.Reason)
	case cause.Code == amqp.PreconditionFailed && strings.Contains(cause.Reason, fmt.Sprintf("message size %d ", size)):
		return fmt.Errorf("%w: %s", messaging.ErrTooLarge, cause.Reason)
	}
	return nil
}

// ended returns why ctx or the Broker ended, or nil while both live.
func (b *Broker) ended(ctx context.Context) error {
	if isClosed(b.closing) {
		return messaging.ErrClosed
	}
	return context.Cause(ctx)
}
