// Package tracing keeps one trace together while a request crosses services,
// over HTTP and over messages, so that somebody can see where it went wrong.
//
// A trace breaks at the first service that does not pass its context on, that
// misreads a header, or that puts a message into a queue without it. This package
// reads and writes the context to the letter of W3C Trace Context level 2 and
// W3C Baggage, and makes a span at each edge of a service through the
// OpenTelemetry API. Without an OpenTelemetry SDK it passes the context through,
// so that the trace is whole for those who have one.
//
//	tracer, err := tracing.New(tracing.Config{})
//	if err != nil {
//		return err
//	}
//	server := &http.Server{Handler: tracer.Middleware(mux)}
//	client := &http.Client{Transport: tracer.Transport(nil)}
//	publisher := tracer.Publisher(broker)
//	handler := tracer.Handler(handle)
//	logger := slog.New(tracing.LogHandler(slog.NewJSONHandler(os.Stderr, nil)))
//
// # How it works
//
// [Tracer.Middleware] and [Tracer.Handler] read the context of a request or
// message into the context.Context; [Tracer.Transport] and [Tracer.Publisher]
// write it into what is sent. Each makes a span, named and described by the
// OpenTelemetry semantic conventions, version 1.43.0. [Tracer.Batch] makes one for
// deliveries that are handled together. Where [Config].MeterProvider is set, the
// duration of each HTTP request is measured by the same conventions. [Propagator]
// is the part that reads and writes, for instrumentation by others.
//
// The module tracing/otlp sets an SDK up and sends the spans. None is needed. While
// the provider is the one that OpenTelemetry has when none was set, or its no-op
// one, no span is made, and a request or message that comes with a traceparent
// leaves with the same one, span id included, as the specification has it for
// services that take no part in tracing. One that comes without gets none, and log
// lines then show no ids; set [Config].MintIDs to have ids minted at the first
// service. They are not by default, because they have to be marked as not sampled,
// and services behind that do record would obey.
//
// # Guarantees
//
//   - No header, however malformed, repeated or long, makes a request or message
//     fail, and the work spent on headers is bounded.
//   - A malformed or repeated traceparent starts a new trace; a malformed
//     tracestate is dropped and leaves the trace as it is.
//   - Several tracestate lines are one list; keys of level 2 pass; at most 32
//     members and 512 bytes are sent on, whole members only.
//   - At most 64 members and 8192 bytes of baggage are read and sent, whole
//     members only.
//   - Baggage leaves only to the hosts and topics that the Config lists, and is
//     dropped where a request comes from a public endpoint. Where the Config lists
//     hosts for the trace context, it leaves only to them.
//   - A public request starts a new trace that links to the one it came with, and
//     cannot force that it is recorded.
//   - Each attempt of a retried call has a span of its own, beside the others,
//     with its number.
//   - A caller's cancellation is not an error; a passed deadline is.
//   - A panic is recorded on the span and goes on with its stack; an
//     http.ErrAbortHandler is no error of the server.
//   - Span names and error types are few: no path, id or error text is in them.
//   - No credential of a signed URL is on a span, unless an error of yours has it in
//     its text.
//   - Wrapping twice makes one span and one measure; another request or message
//     that is sent below a span has one of its own.
//   - The caller's request and messages are not changed.
//   - The measures of a service are few: a route, not a path, a known method and a
//     status tell them apart, and on the client the host.
//   - Flush, Hijack, Push, ReadFrom and http.ResponseController work as without.
//
// Not guaranteed: that a sampled trace is recorded anywhere; that is up to the
// provider. Query parameters other than those known to sign URLs are kept: list
// in [Config].RedactQuery what your services put there.
//
// # Defaults
//
// Every inbound context is believed, because most services are called by their
// own kind; set [Config].Public at the edge. Baggage stays inside, because a
// header with customer data goes to every host a client calls. A handled message
// starts a new trace with a link, as the conventions advise, since one message
// may have many handlers and a trace that stays open for days shows nothing.
//
// # Composition
//
// On the client, tracing is innermost, below retries and breakers, so that a span
// is one attempt: p.Transport(b.Transport(tracer.Transport(nil))). On the server
// and the consumer it is outermost but for what recovers panics. Around an
// outbox, tracing.Publisher makes each row carry the context of its writer.
//
// # Errors
//
// [New] reports all faults of a Config. Nothing else returns errors of its own:
// those of the wrapped handler, transport or publisher pass through unchanged.
// On spans they become an error.type of a few words: "timeout", "canceled",
// "rejected", "connection_refused", "connection_reset", "unexpected_eof", "dns",
// "tls", "panic", a status such as "503", words for the reasons of package
// messaging, and "_OTHER".
//
// # Concurrency
//
// All that New and the methods return is safe for concurrent use. No goroutine
// outlives a call, save one that ends the span of a response whose context ended
// before its body did.
package tracing
