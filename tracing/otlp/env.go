package otlp

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	exporterOTLP    = "otlp"
	exporterConsole = "console"
	exporterNone    = "none"
	protocolHTTP    = "http/protobuf"
	protocolGRPC    = "grpc"
	defaultQueue    = 2048
)

// An environment is what a Config and the variables say together.
type environment struct {
	exporter, protocol string
	endpoint           *url.URL // nil leaves it to the exporter, which reads the variables
	sampler            sdktrace.Sampler
	queue              int
}

// readEnvironment also returns what is wrong, nil if nothing is.
func readEnvironment(cfg Config) (e environment, faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	one := func(field, value, byDefault string, choices []string, variables ...string) string {
		from := field
		for _, v := range variables {
			if value == "" {
				value, from = strings.ToLower(strings.TrimSpace(os.Getenv(v))), v
			}
		}
		if value = cmp.Or(value, byDefault); !slices.Contains(choices, value) {
			fault("%s is %q: write %s", from, value, strings.Join(choices, " or "))
		}
		return value
	}
	e.exporter = one("Exporter", cfg.Exporter, exporterOTLP, []string{exporterOTLP, exporterConsole, exporterNone}, "OTEL_TRACES_EXPORTER")
	e.protocol = one("Protocol", cfg.Protocol, protocolHTTP, []string{protocolHTTP, protocolGRPC},
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	if strings.EqualFold(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED")), "true") {
		e.exporter = exporterNone
	}
	if cfg.Endpoint != "" {
		u, err := url.Parse(cfg.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			fault("Endpoint is %q: write a URL such as http://localhost:4318", cfg.Endpoint)
		}
		e.endpoint = u
	}
	if e.sampler = cfg.Sampler; e.sampler == nil {
		var err error
		if e.sampler, err = samplerOf(os.Getenv("OTEL_TRACES_SAMPLER"), os.Getenv("OTEL_TRACES_SAMPLER_ARG")); err != nil {
			fault("%v", err)
		}
	}
	e.queue = cfg.Queue
	if v := strings.TrimSpace(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE")); e.queue == 0 && v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n <= 0 {
			fault("OTEL_BSP_MAX_QUEUE_SIZE is %q: write a number above 0", v)
		}
		e.queue = n
	}
	if e.queue = cmp.Or(e.queue, defaultQueue); cfg.Queue < 0 {
		fault("Queue %d is negative", cfg.Queue)
	}
	return e, faults
}

// samplerOf returns the sampler of a name in the specification.
func samplerOf(name, arg string) (sdktrace.Sampler, error) {
	rate := 1.0
	if arg = strings.TrimSpace(arg); arg != "" {
		var err error
		if rate, err = strconv.ParseFloat(arg, 64); err != nil || !(rate >= 0 && rate <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG is %q: write a number from 0 to 1", arg)
		}
	}
	name = strings.ToLower(strings.TrimSpace(name))
	root, parentBased := strings.CutPrefix(cmp.Or(name, "parentbased_always_on"), "parentbased_")
	var sampler sdktrace.Sampler
	switch root {
	case "always_on":
		sampler = sdktrace.AlwaysSample()
	case "always_off":
		sampler = sdktrace.NeverSample()
	case "traceidratio":
		sampler = sdktrace.TraceIDRatioBased(rate)
	default:
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER is %q: write always_on, always_off or traceidratio, with parentbased_ before it to follow the parent", name)
	}
	if parentBased {
		sampler = sdktrace.ParentBased(sampler)
	}
	return sampler, nil
}

// newExporter returns what sends spans. None of them connects before it has to.
func newExporter(ctx context.Context, e environment, out io.Writer) (sdktrace.SpanExporter, error) {
	switch {
	case e.exporter == exporterConsole:
		return stdouttrace.New(stdouttrace.WithWriter(out))
	case e.protocol == protocolGRPC && e.endpoint != nil:
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(e.endpoint.String()))
	case e.protocol == protocolGRPC:
		return otlptracegrpc.New(ctx)
	case e.endpoint != nil:
		return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(e.endpoint.JoinPath("v1/traces").String()))
	}
	return otlptracehttp.New(ctx)
}
