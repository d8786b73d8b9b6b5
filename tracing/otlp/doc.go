// Package otlp keeps spans from being lost without anybody noticing, and keeps a
// collector that is down from disturbing the service that it watches. It sets up
// the OpenTelemetry SDK from the usual environment variables, so that the spans of
// package tracing reach Jaeger, Tempo or any other backend that takes OTLP.
//
//	sdk, err := otlp.Setup(ctx, otlp.Config{Service: "orders", Logger: logger})
//	if err != nil {
//		return err
//	}
//	defer sdk.Shutdown(context.WithoutCancel(ctx))
//	tracer, err := tracing.New(tracing.Config{})
//
// # How it works
//
// [Setup] makes a provider of spans and installs it as the global one. Spans that
// have ended wait in a queue, from which one goroutine sends them in batches: over
// HTTP, over gRPC, or to standard output. A field of [Config] that is set wins over
// the environment, and that over the default:
//
//	OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES       who sends the spans
//	OTEL_TRACES_EXPORTER                              otlp, console or none; otlp
//	OTEL_EXPORTER_OTLP_[TRACES_]PROTOCOL              http/protobuf or grpc; http/protobuf
//	OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT              http://localhost:4318, with grpc 4317
//	OTEL_EXPORTER_OTLP_[TRACES_]HEADERS, _TIMEOUT,
//	_COMPRESSION, _INSECURE, _CERTIFICATE, _CLIENT_*  as the OpenTelemetry exporters read them
//	OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG      parentbased_always_on
//	OTEL_BSP_MAX_QUEUE_SIZE                           2048
//	OTEL_BSP_*, OTEL_SPAN_*_LIMIT                     as the OpenTelemetry SDK reads them
//	OTEL_SDK_DISABLED                                 true switches everything off
//
// OTEL_PROPAGATORS is not read: [tracing.Propagator] is installed, which is what
// the default of that variable asks for.
//
// # Guarantees
//
//   - Ending a span waits for nothing: when the queue is full, the span is dropped.
//   - Every sampled span is counted, as exported, failed, dropped or queued.
//   - Failed exports are logged at most once a minute.
//   - Shutdown sends what is queued and returns when its context ends, or after 5
//     seconds where the context has no deadline; its goroutine ends too.
//
// Not guaranteed: that a span arrives. A collector may take it and lose it, and a
// process that is killed loses what is queued.
//
// # Defaults
//
// HTTP rather than gRPC, as the OpenTelemetry specification has it: it passes more
// proxies. The sampler follows the parent and records what has none; a public
// service wants parentbased_traceidratio.
//
// # Errors
//
// Setup reports all faults of the Config and of the variables it reads in one
// error, and with them the addresses, headers and timeouts that the exporters could
// not read. It shows no header and no credentials. A collector that does not answer
// is no fault: it may come up later. Of what the exporters and the SDK read besides,
// they print what they cannot read, and do without.
//
// # Concurrency
//
// All methods of [SDK] are safe for concurrent use.
package otlp
