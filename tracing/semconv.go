package tracing

import "go.opentelemetry.io/otel/attribute"

// The names below are those of the OpenTelemetry semantic conventions in this
// version. The HTTP names are stable; the messaging names are still marked as in
// development there, so an upgrade of this version may rename them.
const semconvVersion = "1.43.0"

const (
	scopeName = "github.com/parley-go/parley/tracing"
	schemaURL = "https://opentelemetry.io/schemas/" + semconvVersion
)

// Attributes of any span, of the network, and of exception events.
const (
	keyErrorType           = attribute.Key("error.type")
	keyExceptionType       = attribute.Key("exception.type")
	keyExceptionStacktrace = attribute.Key("exception.stacktrace")
	keyPeerAddress         = attribute.Key("network.peer.address")
	keyPeerPort            = attribute.Key("network.peer.port")
	keyProtocolVersion     = attribute.Key("network.protocol.version")
	keyServerAddress       = attribute.Key("server.address")
	keyServerPort          = attribute.Key("server.port")
)

// Attributes of HTTP spans.
const (
	keyMethod         = attribute.Key("http.request.method")
	keyMethodOriginal = attribute.Key("http.request.method_original")
	keyResendCount    = attribute.Key("http.request.resend_count")
	keyStatusCode     = attribute.Key("http.response.status_code")
	keyRoute          = attribute.Key("http.route")
	keyURLFull        = attribute.Key("url.full")
	keyURLPath        = attribute.Key("url.path")
	keyURLQuery       = attribute.Key("url.query")
	keyURLScheme      = attribute.Key("url.scheme")
	keyUserAgent      = attribute.Key("user_agent.original")
)

// Attributes of messaging spans.
const (
	keyBatchCount    = attribute.Key("messaging.batch.message_count")
	keyConsumerGroup = attribute.Key("messaging.consumer.group.name")
	keyDestination   = attribute.Key("messaging.destination.name")
	keyMessageID     = attribute.Key("messaging.message.id")
	keyOperationName = attribute.Key("messaging.operation.name")
	keyOperationType = attribute.Key("messaging.operation.type")
	keySystem        = attribute.Key("messaging.system")
)

// Names of the measures.
const (
	metricServer = "http.server.request.duration"
	metricClient = "http.client.request.duration"
)

// Values that the conventions prescribe.
const (
	valueOther     = "_OTHER" // a method or an error outside the known ones
	nameOther      = "HTTP"   // what names a span whose method is not known
	eventException = "exception"
	typeSend       = "send"
	typeProcess    = "process"
)

// knownMethod returns the value of http.request.method for a request's method,
// and what a span's name begins with. Methods are case-sensitive (RFC 9110
// §9.1); one that is not known shares a name, because a stranger chooses it.
func knownMethod(method string) (value, name string) {
	switch method {
	case "":
		return "GET", "GET" // an http.Request without a method asks for GET
	case "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY":
		return method, method
	}
	return valueOther, nameOther
}
