package tracing

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"runtime"
	"syscall"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/messaging"
)

const (
	faultPanic   = "panic"
	faultTimeout = "timeout"
	maxStack     = 16 << 10
)

// errorType returns the attribute error.type for err: one of a few words, so
// that spans can be counted by it.
func errorType(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return faultTimeout
	}
	if t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && t.Timeout() {
		return faultTimeout
	}
	if r, ok := errors.AsType[interface {
		error
		Rejected() bool
	}](err); ok && r.Rejected() {
		return "rejected"
	}
	if r, ok := errors.AsType[messaging.Reason](err); ok {
		return messagingFault(r)
	}
	return networkFault(err)
}

// messagingFault names the reasons of package messaging, whose texts are written
// for people.
func messagingFault(r messaging.Reason) string {
	switch r {
	case messaging.ErrTimeout:
		return faultTimeout
	case messaging.ErrClosed:
		return "closed"
	case messaging.ErrInvalid:
		return "invalid"
	case messaging.ErrTooLarge:
		return "too_large"
	case messaging.ErrUnroutable:
		return "unroutable"
	case messaging.ErrNotConfirmed:
		return "not_confirmed"
	case messaging.ErrRefused:
		return "refused"
	case messaging.ErrTopology:
		return "topology"
	case messaging.ErrDenied:
		return "denied"
	case messaging.ErrLost:
		return "lost"
	case messaging.ErrDrain:
		return "drain"
	default:
		return valueOther
	}
}

// networkFault names what goes wrong below HTTP. The types of such errors are
// many and say little; their texts hold addresses.
func networkFault(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection_reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "unexpected_eof"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "dns"
	}
	if isTLS(err) {
		return "tls"
	}
	return valueOther
}

// isTLS reports whether the handshake failed: a certificate that was refused
// here, an alert that says so from there, or a peer that does not speak TLS.
func isTLS(err error) bool {
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	return certificate || record || alert
}

// faultOf returns the error.type of err, or "" if err is nil or the caller had
// given up: its cancellation is no fault of what it called.
func faultOf(ctx context.Context, err error) string {
	switch {
	case err == nil || isCanceled(ctx):
		return ""
	case ctx.Err() != nil:
		return faultTimeout // whatever err is, such as a cause that the caller chose
	}
	return errorType(err)
}

// recordError marks span as failed with err if that is a fault.
func recordError(ctx context.Context, span trace.Span, err error) {
	if !span.IsRecording() {
		return
	}
	if fault := faultOf(ctx, err); fault != "" {
		span.SetStatus(codes.Error, describe(err))
		span.SetAttributes(keyErrorType.String(fault))
	}
}

// isCanceled reports whether ctx ended because it was cancelled, and not because
// time was up; a Consumer says the latter with the cause messaging.ErrTimeout.
func isCanceled(ctx context.Context) bool {
	return errors.Is(ctx.Err(), context.Canceled) && errorType(context.Cause(ctx)) != faultTimeout
}

// describe returns the text of err for a span. The URL in a *url.Error may hold
// secrets, and stands in an attribute anyway; one may hold another.
func describe(err error) string {
	for {
		u, ok := errors.AsType[*url.Error](err)
		if !ok {
			return text(err.Error(), maxDescription)
		}
		if u.Err == nil {
			return text(u.Op, maxDescription)
		}
		err = u.Err
	}
}

// recordPanic notes on span that user code panicked, or called runtime.Goexit.
// It runs in a defer while the panic goes on, and does not recover it: what was
// panicked with stays unknown here, and whoever recovers it sees the whole stack.
// For the same reason no End of a span is deferred by itself: the SDK's recovers
// when it is, and panics anew.
func recordPanic(span trace.Span) {
	if !span.IsRecording() {
		return
	}
	recordException(span)
	span.SetStatus(codes.Error, "")
	span.SetAttributes(keyErrorType.String(faultPanic))
}

// recordException adds the stack of a panic that goes on.
func recordException(span trace.Span) {
	stack := make([]byte, maxStack)
	stack = stack[:runtime.Stack(stack, false)]
	span.AddEvent(eventException, trace.WithAttributes(
		keyExceptionType.String(faultPanic),
		keyExceptionStacktrace.String(text(string(stack), maxStack)),
	))
}
