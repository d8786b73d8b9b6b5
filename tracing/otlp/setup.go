package otlp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/parley-go/parley/tracing"
)

// shutdownFor bounds a Shutdown whose context has no deadline.
const shutdownFor = 5 * time.Second

// errLate says why a span is lost that ended while Shutdown was ending.
var errLate = errors.New("they ended too late")

// A Config says who sends spans, and where. The zero value is legal: all is as the
// environment says.
type Config struct {
	// Service is what the backend calls the service, service.name. Default
	// OTEL_SERVICE_NAME, else that in OTEL_RESOURCE_ATTRIBUTES, else
	// "unknown_service:" and the name of the program.
	Service string

	// Attributes describe the service further, such as service.version or
	// deployment.environment.name. Default those of OTEL_RESOURCE_ATTRIBUTES,
	// which also fill in what is not here.
	Attributes map[string]string

	// Exporter is "otlp", "console", which writes JSON to Out, or "none", which
	// makes no spans. Default OTEL_TRACES_EXPORTER, else "otlp".
	Exporter string

	// Protocol is "http/protobuf" or "grpc". Default
	// OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, else OTEL_EXPORTER_OTLP_PROTOCOL, else
	// "http/protobuf".
	Protocol string

	// Endpoint is the URL of the collector, http or https; over HTTP, v1/traces is
	// added to its path. Default OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, which is taken
	// as it is, else OTEL_EXPORTER_OTLP_ENDPOINT, else localhost.
	Endpoint string

	// Sampler says which traces are recorded. Default what OTEL_TRACES_SAMPLER
	// names, else what the parent says, and all that have none.
	Sampler sdktrace.Sampler

	// Queue is how many spans may wait for the exporter; those that find it full
	// are dropped. Default OTEL_BSP_MAX_QUEUE_SIZE, else 2048. Negative is an
	// error.
	Queue int

	// Local keeps Setup from installing the provider and the propagator as the
	// global ones. A program that holds several services has one SDK for each.
	Local bool

	// Out is where the exporter "console" writes. Default os.Stdout.
	Out io.Writer

	// Logger is told of failed exports, at most once a minute. Default
	// slog.Default().
	Logger *slog.Logger
}

// An SDK makes spans and sends them. Make it with [Setup].
type SDK struct {
	provider trace.TracerProvider
	sdk      *sdktrace.TracerProvider // nil if spans are not wanted
	gate     *gate
	cut      context.CancelFunc // ends an export that is going on
	ending   atomic.Bool        // Shutdown was called
	ended    chan struct{}      // closed when it is over
}

// Setup makes an SDK and installs it as the global one, unless cfg says otherwise.
// It reports all faults of cfg and the environment in one error, and connects to
// nothing. It starts the goroutine that exports, which [SDK.Shutdown] ends. ctx is
// for the set-up alone.
func Setup(ctx context.Context, cfg Config) (*SDK, error) {
	e, faults := readEnvironment(cfg)
	res, err := newResource(ctx, cfg)
	if err != nil {
		faults = append(faults, err.Error())
	}
	if faults != nil {
		return nil, errors.New("otlp: config: " + strings.ReplaceAll(strings.Join(faults, "; "), "\n", "; "))
	}
	if e.exporter == exporterNone {
		return &SDK{provider: noop.NewTracerProvider(), gate: &gate{}, cut: func() {}}, nil
	}
	to, err := newExporter(ctx, e, cmp.Or[io.Writer](cfg.Out, os.Stdout))
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	s := newSDK(ctx, e, res, to, cmp.Or(cfg.Logger, slog.Default()))
	if !cfg.Local {
		otel.SetTracerProvider(s.sdk)
		otel.SetTextMapPropagator(tracing.Propagator{})
	}
	return s, nil
}

func newSDK(ctx context.Context, e environment, res *resource.Resource, to sdktrace.SpanExporter, log *slog.Logger) *SDK {
	living, cut := context.WithCancel(context.WithoutCancel(ctx))
	g := &gate{room: e.queue}
	x := &exporter{SpanExporter: to, gate: g, living: living, log: log}
	g.next = sdktrace.NewBatchSpanProcessor(x, sdktrace.WithMaxQueueSize(e.queue))
	sdk := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(g), sdktrace.WithSampler(e.sampler), sdktrace.WithResource(res))
	return &SDK{provider: sdk, sdk: sdk, gate: g, cut: cut, ended: make(chan struct{})}
}

// newResource describes the service.
func newResource(ctx context.Context, cfg Config) (*resource.Resource, error) {
	attrs := make([]attribute.KeyValue, 0, len(cfg.Attributes)+1)
	for key, value := range cfg.Attributes {
		attrs = append(attrs, attribute.String(key, value))
	}
	if cfg.Service != "" {
		attrs = append(attrs, attribute.String("service.name", cfg.Service))
	}
	// What comes later wins.
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithDetectors(defaultName{}), resource.WithFromEnv(),
		resource.WithAttributes(attrs...))
}

// defaultName names a service that nobody has named, as the specification wants it.
type defaultName struct{}

// Detect implements [resource.Detector].
func (defaultName) Detect(context.Context) (*resource.Resource, error) {
	name := os.Args[0]
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	return resource.NewSchemaless(attribute.String("service.name", "unknown_service:"+name)), nil
}

// Provider returns what makes the spans, for [tracing.Config].Provider.
func (s *SDK) Provider() trace.TracerProvider { return s.provider }

// Stats returns what has become of the sampled spans that have ended so far.
func (s *SDK) Stats() Stats { return s.gate.report() }

// Flush sends what is queued and returns when it is gone, or ctx has ended, which
// is an error. That a collector did not take it is not; [SDK.Stats] tells.
func (s *SDK) Flush(ctx context.Context) error {
	if s.sdk == nil {
		return nil
	}
	if err := s.sdk.ForceFlush(ctx); err != nil {
		return fmt.Errorf("otlp: flush: %w", err)
	}
	return nil
}

// Shutdown sends what is queued and ends the goroutine that exports. It returns
// when ctx ends, or after 5 seconds where ctx has no deadline; what has not been
// sent by then is dropped, and the error says how much. Spans that end later are
// not recorded, nor counted. A further call does nothing but wait for the first, no
// longer than its own ctx, or 5 seconds.
func (s *SDK) Shutdown(ctx context.Context) error {
	if s.sdk == nil {
		return nil
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, shutdownFor)
		defer cancel()
	}
	// The SDK would let a further call wait for the context of the first.
	if !s.ending.CompareAndSwap(false, true) {
		return s.awaitEnd(ctx)
	}
	defer close(s.ended)
	s.gate.close()
	err := s.sdk.Shutdown(ctx)
	// The SDK leaves its goroutine alone when ctx has ended already.
	err = cmp.Or(err, s.gate.Shutdown(ctx))
	s.cut()
	if lost := s.gate.abandon(); lost > 0 {
		err = fmt.Errorf("%d spans were not exported: %w", lost, cmp.Or(err, errLate))
	}
	if err != nil {
		return fmt.Errorf("otlp: shutdown: %w", err)
	}
	return nil
}

// awaitEnd returns when a Shutdown that is going on is over, or ctx has ended.
func (s *SDK) awaitEnd(ctx context.Context) error {
	select {
	case <-s.ended:
		return nil // also where ctx has ended
	default:
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("otlp: shutdown: another one is going on: %w", ctx.Err())
	}
}
