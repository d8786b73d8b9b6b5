package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// A Config says what a [Tracer] does. The zero value is legal: spans go to the
// global provider, every inbound trace is continued, no baggage leaves.
type Config struct {
	// Provider makes the spans. Default: the global one, looked up at each use,
	// so that it may be set later than the Tracer is made.
	Provider trace.TracerProvider

	// MeterProvider takes the duration of each request that Middleware serves and
	// Transport sends, in seconds, as http.server.request.duration and
	// http.client.request.duration; a request without a span, but for those of
	// Skip, is measured all the same. Default: nothing is measured. Pass
	// otel.GetMeterProvider() for the global one.
	MeterProvider metric.MeterProvider

	// Public reports whether a request comes from outside the circle whose
	// trace context is believed. Such a request starts a new trace, which links
	// to the one it came with; its baggage is dropped. Default: none does. It
	// must be safe for concurrent use.
	Public func(*http.Request) bool

	// Skip reports whether a request gets no span and is not measured, such as a
	// health check. Its trace context is passed on all the same. Default: each one
	// gets a span. It must be safe for concurrent use.
	Skip func(*http.Request) bool

	// TraceHosts lists the hosts that Transport sends traceparent and tracestate to,
	// written as in BaggageHosts; the spans of requests to others are made all the
	// same. Default: all hosts, because a trace ends where these do not arrive.
	TraceHosts []string

	// BaggageHosts lists the hosts that Transport sends baggage to: names or IP
	// addresses without a port, in any case; "*.example.com" means all names
	// below example.com. Default: none, because baggage may hold what others
	// must not see (W3C Baggage §5).
	BaggageHosts []string

	// BaggageTopics lists the topics on which Publisher sends baggage along.
	// Default: none.
	BaggageTopics []string

	// RedactQuery lists names of query parameters whose values are replaced by
	// REDACTED in spans, in any case, beside access_token and those that sign URLs
	// at AWS, Azure and Google, which always are.
	RedactQuery []string

	// MessagingSystem is the attribute messaging.system of messaging spans, such
	// as "rabbitmq", "kafka" or "aws_sqs". Default "parley".
	MessagingSystem string

	// ParentMessages makes the span in which a message is handled a child of the
	// span that published it, in the same trace. Default: it starts a trace of
	// its own and links to the publisher's, because a message may be handled by
	// many, much later, or again.
	ParentMessages bool

	// MintIDs starts a trace with random ids where none came in and no provider
	// is installed, so that logs can be joined by trace id without any tracing
	// backend. Such a trace says that it is not sampled. Leave it off where a
	// service behind this one records traces: a sampler that follows its parent
	// would record none of them.
	MintIDs bool
}

// A Tracer carries trace context across the edges of a service and makes a span
// at each. Make it with [New]; the zero Tracer makes no spans, whatever the
// provider, and only passes the context on. All its methods are safe for
// concurrent use.
type Tracer struct {
	cfg     Config // its hosts in lower case
	redact  []string
	fixed   *source                // from Config.Provider, or nil
	global  atomic.Pointer[source] // of the global provider seen last
	server  trace.SpanStartOption
	client  trace.SpanStartOption
	produce trace.SpanStartOption
	consume trace.SpanStartOption

	durations *durations // nil if none are wanted
}

// A source is where spans come from.
type source struct {
	provider trace.TracerProvider
	tracer   trace.Tracer // nil if the provider records nothing
}

// New returns a Tracer. It reports all faults of cfg in one error and starts
// nothing.
func New(cfg Config) (*Tracer, error) {
	var faults []string
	t := &Tracer{
		cfg:     cfg,
		redact:  signatureParams(),
		server:  trace.WithSpanKind(trace.SpanKindServer),
		client:  trace.WithSpanKind(trace.SpanKindClient),
		produce: trace.WithSpanKind(trace.SpanKindProducer),
		consume: trace.WithSpanKind(trace.SpanKindConsumer),
	}
	hosts := func(field string, list []string) (lower []string) {
		for _, host := range list {
			if !legalHost(host) {
				faults = append(faults, fmt.Sprintf("%s: %q is not a host name, IP address or \"*.\" and a name; leave out scheme and port", field, host))
			}
			lower = append(lower, strings.ToLower(host))
		}
		return lower
	}
	t.cfg.TraceHosts = hosts("TraceHosts", cfg.TraceHosts)
	t.cfg.BaggageHosts = hosts("BaggageHosts", cfg.BaggageHosts)
	for _, topic := range cfg.BaggageTopics {
		if topic == "" {
			faults = append(faults, "BaggageTopics: a topic is empty")
		}
	}
	for _, name := range cfg.RedactQuery {
		if name == "" {
			faults = append(faults, "RedactQuery: a name is empty")
		}
		t.redact = append(t.redact, name)
	}
	var err error
	if t.durations, err = newDurations(cfg.MeterProvider); err != nil {
		faults = append(faults, err.Error())
	}
	if faults != nil {
		return nil, errors.New("tracing: config: " + strings.Join(faults, "; "))
	}
	t.cfg.BaggageTopics = slices.Clone(cfg.BaggageTopics)
	if t.cfg.MessagingSystem == "" {
		t.cfg.MessagingSystem = "parley"
	}
	// The placeholder that stands for the global provider until one is set means
	// the global one, whatever that will be.
	if cfg.Provider != nil && !isPlaceholder(cfg.Provider) {
		t.fixed = newSource(cfg.Provider)
	}
	return t, nil
}

// tracer returns what makes spans, nil if nothing would record them.
func (t *Tracer) tracer() trace.Tracer {
	if t.server == nil { // not made by New
		return nil
	}
	if t.fixed != nil {
		return t.fixed.tracer
	}
	p := otel.GetTracerProvider()
	if s := t.global.Load(); s != nil && s.provider == p {
		return s.tracer
	}
	s := newSource(p)
	// Only what can be compared is kept: == above panics on anything else.
	if p != nil && reflect.ValueOf(p).Comparable() {
		t.global.Store(s)
	}
	return s.tracer
}

// newSource returns the source for p. Recognising a provider that does nothing
// here, once, is what keeps the cost of an untraced request at a few nanoseconds.
func newSource(p trace.TracerProvider) *source {
	s := &source{provider: p}
	if p != nil && !isPlaceholder(p) && packagePath(p) != "go.opentelemetry.io/otel/trace/noop" {
		s.tracer = p.Tracer(scopeName, trace.WithSchemaURL(schemaURL))
	}
	return s
}

// isPlaceholder recognises the provider that otel.GetTracerProvider returns
// until one is set. Its type has no public name. Were it not recognised, its
// spans would still pass the trace context on, only more slowly.
func isPlaceholder(p trace.TracerProvider) bool {
	return packagePath(p) == "go.opentelemetry.io/otel/internal/global"
}

// packagePath returns where the type of p, or what it points to, is declared.
func packagePath(p trace.TracerProvider) string {
	typ := reflect.TypeOf(p)
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ.PkgPath()
}

// minted returns ctx in a new trace if it is in none and ids are to be minted.
func (t *Tracer) minted(ctx context.Context) context.Context {
	if !t.cfg.MintIDs || trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return trace.ContextWithSpanContext(ctx, newIDs())
}

// lists reports whether the host of u is among hosts, which are in lower case.
func lists(hosts []string, u *url.URL) bool {
	if len(hosts) == 0 {
		return false
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	for _, h := range hosts {
		domain, wild := strings.CutPrefix(h, "*")
		if host == h || wild && len(host) > len(domain) && strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}

// legalHost reports whether host can be an entry of TraceHosts or BaggageHosts.
func legalHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	name := strings.TrimPrefix(strings.ToLower(host), "*.")
	for i := range len(name) {
		if c := name[i]; !isLowerAlnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return name != "" && name[0] != '.' && name[len(name)-1] != '.'
}
