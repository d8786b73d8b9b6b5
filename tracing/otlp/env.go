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
	if e.exporter != exporterConsole && e.exporter != exporterNone {
		var more []string
		e.endpoint, more = readOTLP(cfg.Endpoint, e.protocol)
		faults = append(faults, more...)
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

// readOTLP returns the endpoint that was configured, nil if none was, and what is
// wrong with it and with the variables that the exporters read by themselves: those
// do without what they cannot read, and print it, secrets included. Here no fault
// shows a header, or an address that holds more than where to connect to.
func readOTLP(endpoint, protocol string) (u *url.URL, faults []string) {
	check := func(from, value string) *url.URL {
		u, err := url.Parse(value)
		switch {
		case err != nil:
			faults = append(faults, from+" is no URL: write one such as http://localhost:4318")
			return nil
		case u.User != nil, u.RawQuery != "", strings.Contains(u.Opaque, "@"):
			faults = append(faults, from+" has credentials or a query, which are not sent: write headers into OTEL_EXPORTER_OTLP_HEADERS")
		// A target of gRPC may have other forms, such as dns:///collector:4317.
		case from != "Endpoint" && protocol == protocolGRPC:
		case u.Host == "", u.Scheme != "http" && u.Scheme != "https":
			faults = append(faults, fmt.Sprintf("%s is %q: write a URL such as http://localhost:4318", from, value))
		}
		return u
	}
	if endpoint != "" {
		u = check("Endpoint", endpoint)
	}
	for _, prefix := range [...]string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"} {
		if v := strings.TrimSpace(os.Getenv(prefix + "ENDPOINT")); v != "" && endpoint == "" {
			check(prefix+"ENDPOINT", v)
		}
		if v := strings.TrimSpace(os.Getenv(prefix + "TIMEOUT")); v != "" {
			if n, err := strconv.Atoi(v); err != nil || n <= 0 {
				faults = append(faults, fmt.Sprintf("%sTIMEOUT is %q: write a number of milliseconds above 0", prefix, v))
			}
		}
		if v := strings.TrimSpace(os.Getenv(prefix + "HEADERS")); v != "" {
			for i, header := range strings.Split(v, ",") {
				if header = strings.TrimSpace(header); header != "" && !legalHeader(header) {
					faults = append(faults, fmt.Sprintf("%sHEADERS: header %d is not name=value, with %%xx for other than plain characters", prefix, i+1))
				}
			}
		}
	}
	return u, faults
}

// legalHeader reports whether the exporters can read a header of the variable.
func legalHeader(header string) bool {
	name, value, ok := strings.Cut(header, "=")
	name = strings.TrimSpace(name)
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	_, err := url.PathUnescape(value)
	return ok && name != "" && err == nil
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
