package otlp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/parley-go/parley/tracing"
	"github.com/parley-go/parley/tracing/otlp"
)

// A collector takes spans over both protocols.
type collector struct {
	coltrace.UnimplementedTraceServiceServer
	httpURL, grpcURL string

	mu    sync.Mutex
	paths []string // guarded by mu
	got   []string // guarded by mu; "service/span", and the further attributes of the service
}

func newCollector(t testing.TB) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(c.serveHTTP))
	t.Cleanup(server.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	coltrace.RegisterTraceServiceServer(g, c)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	c.httpURL, c.grpcURL = server.URL, "http://"+l.Addr().String()
	return c
}

func (c *collector) serveHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req coltrace.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &req) != nil {
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.paths = append(c.paths, r.URL.Path)
	c.mu.Unlock()
	_, _ = c.Export(r.Context(), &req)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Export implements the collector's side of OTLP.
func (c *collector) Export(_ context.Context, req *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range req.GetResourceSpans() {
		attrs := map[string]string{}
		for _, a := range rs.GetResource().GetAttributes() {
			attrs[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.got = append(c.got, attrs["service.name"]+"/"+s.GetName()+" "+attrs["team"])
			}
		}
	}
	return &coltrace.ExportTraceServiceResponse{}, nil
}

func setup(t testing.TB, cfg otlp.Config) *otlp.SDK {
	t.Helper()
	cfg.Local = true
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sdk, err := otlp.Setup(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Setup() = %v, want nil", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cancel()
		_ = sdk.Shutdown(ctx)
	})
	return sdk
}

func end(sdk *otlp.SDK, names ...string) {
	for _, name := range names {
		_, s := sdk.Provider().Tracer("test").Start(context.Background(), name)
		s.End()
	}
}

func TestSpansArriveOverEachProtocol(t *testing.T) {
	for _, tt := range []struct {
		does string
		env  map[string]string
		cfg  func(*collector) otlp.Config
		want string
	}{
		{"HTTP by default", nil, func(c *collector) otlp.Config { return otlp.Config{Service: "s", Endpoint: c.httpURL} }, "s/a "},
		{"HTTP to a path", nil, func(c *collector) otlp.Config { return otlp.Config{Service: "s", Endpoint: c.httpURL + "/x/"} }, "s/a "},
		{"gRPC", nil, func(c *collector) otlp.Config {
			return otlp.Config{Service: "s", Endpoint: c.grpcURL, Protocol: "grpc", Attributes: map[string]string{"team": "t"}}
		}, "s/a t"},
		{
			"all from the environment",
			map[string]string{"OTEL_SERVICE_NAME": "e", "OTEL_RESOURCE_ATTRIBUTES": "team=u", "OTEL_EXPORTER_OTLP_ENDPOINT": "HTTP", "OTEL_TRACES_EXPORTER": "otlp"},
			func(*collector) otlp.Config { return otlp.Config{} }, "e/a u",
		},
		{
			"gRPC from the environment",
			map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "GRPC", "OTEL_SERVICE_NAME": "e"},
			func(*collector) otlp.Config { return otlp.Config{} }, "e/a ",
		},
		{
			"fields win over the environment",
			map[string]string{"OTEL_SERVICE_NAME": "e", "OTEL_RESOURCE_ATTRIBUTES": "team=u", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_TRACES_EXPORTER": "none"},
			func(c *collector) otlp.Config {
				return otlp.Config{Service: "s", Exporter: "otlp", Protocol: "http/protobuf", Endpoint: c.httpURL, Attributes: map[string]string{"team": "t"}}
			}, "s/a t",
		},
	} {
		t.Run(tt.does, func(t *testing.T) {
			c := newCollector(t)
			for name, value := range tt.env {
				t.Setenv(name, map[string]string{"HTTP": c.httpURL, "GRPC": c.grpcURL}[value])
				if os.Getenv(name) == "" {
					t.Setenv(name, value)
				}
			}
			sdk := setup(t, tt.cfg(c))
			end(sdk, "a")
			if err := sdk.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown() = %v, want nil", err)
			}
			if !slices.Equal(c.got, []string{tt.want}) {
				t.Errorf("the collector has %q, want %q", c.got, tt.want)
			}
			for _, p := range c.paths {
				if !strings.HasSuffix(p, "/v1/traces") || strings.Contains(p, "//") {
					t.Errorf("spans are sent to %s, want …/v1/traces", p)
				}
			}
			if got := sdk.Stats(); got != (otlp.Stats{Exported: 1}) {
				t.Errorf("Stats() = %+v, want 1 exported", got)
			}
		})
	}
}

func TestAServiceWithoutANameIsNamedAfterItsProgram(t *testing.T) {
	c := newCollector(t)
	sdk := setup(t, otlp.Config{Endpoint: c.httpURL})
	end(sdk, "a")
	if err := sdk.Flush(t.Context()); err != nil {
		t.Errorf("Flush() = %v, want nil", err)
	}
	if len(c.got) != 1 || !strings.HasPrefix(c.got[0], "unknown_service:otlp.test") {
		t.Errorf("the collector has %q, want a span of unknown_service:otlp.test", c.got)
	}
}

func TestConsoleWritesJSON(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	var out bytes.Buffer
	sdk := setup(t, otlp.Config{Out: &out})
	end(sdk, "a")
	if err := sdk.Shutdown(t.Context()); err != nil || !strings.Contains(out.String(), `"Name":"a"`) {
		t.Errorf("Shutdown() = %v after writing %s, want nil and the span", err, &out)
	}
}

func TestSetupReportsAllFaultsOnOneLine(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "otpl")
	t.Setenv("OTEL_TRACES_SAMPLER", "sometimes")
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "team")
	_, err := otlp.Setup(t.Context(), otlp.Config{Protocol: "udp", Endpoint: "localhost:4318"})
	if err == nil {
		t.Fatal("Setup() = nil, want an error")
	}
	for _, want := range []string{
		`OTEL_TRACES_EXPORTER is "otpl": write otlp or console or none`, `Protocol is "udp": write http/protobuf or grpc`,
		`Endpoint is "localhost:4318": write a URL`, `OTEL_TRACES_SAMPLER is "sometimes"`, `OTEL_BSP_MAX_QUEUE_SIZE is "-1"`, "team",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Setup() = %v, want it to say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "otlp: config: ") {
		t.Errorf("Setup() = %q, want one line that begins with the package", err)
	}
	if _, err := otlp.Setup(t.Context(), otlp.Config{Exporter: "none", Queue: -1}); err == nil || !strings.Contains(err.Error(), "Queue -1 is negative") {
		t.Errorf("Setup() = %v, want the fault of Queue", err)
	}
}

func TestWhatTheExportersCannotReadIsAFaultThatTellsNoSecret(t *testing.T) {
	for name, tt := range map[string]struct {
		variable, value string
		cfg             otlp.Config
		want            string // "" if it is fine
	}{
		"no scheme":             {"ENDPOINT", "localhost:4318", otlp.Config{}, `OTEL_EXPORTER_OTLP_ENDPOINT is "localhost:4318": write a URL`},
		"no URL":                {"TRACES_ENDPOINT", "127.0.0.1:4318", otlp.Config{}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is no URL"},
		"a target of gRPC":      {"ENDPOINT", "dns:///collector:4317", otlp.Config{Protocol: "grpc"}, ""},
		"no target of gRPC":     {"ENDPOINT", "127.0.0.1:4317", otlp.Config{Protocol: "grpc"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
		"not asked for":         {"ENDPOINT", "::", otlp.Config{Exporter: "none"}, ""},
		"overruled":             {"ENDPOINT", "localhost:4318", otlp.Config{Endpoint: "http://localhost:4318"}, ""},
		"credentials":           {"ENDPOINT", "https://user:SECRET@collector", otlp.Config{}, "OTEL_EXPORTER_OTLP_ENDPOINT has credentials"},
		"credentials, no URL":   {"ENDPOINT", "https://user:SECRET%@collector", otlp.Config{}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
		"configured":            {"ENDPOINT", "", otlp.Config{Endpoint: "ftp://user:SECRET@collector"}, "Endpoint has credentials"},
		"configured, no scheme": {"ENDPOINT", "", otlp.Config{Endpoint: "user:SECRET@collector"}, "Endpoint has credentials"},
		"configured, a query":   {"ENDPOINT", "", otlp.Config{Endpoint: "https://collector/?key=SECRET"}, "Endpoint has credentials or a query"},
		"headers":               {"HEADERS", "a=b, c=d%20e", otlp.Config{}, ""},
		"a header without name": {"HEADERS", "a=b,Bearer SECRET", otlp.Config{}, "OTEL_EXPORTER_OTLP_HEADERS: header 2 is not name=value"},
		"a header of two words": {"TRACES_HEADERS", "SECRET b=c", otlp.Config{}, "OTEL_EXPORTER_OTLP_TRACES_HEADERS: header 1"},
		"a header badly quoted": {"HEADERS", "a=SECRET%", otlp.Config{}, "OTEL_EXPORTER_OTLP_HEADERS: header 1"},
		"a timeout with a unit": {"TIMEOUT", "10s", otlp.Config{}, `OTEL_EXPORTER_OTLP_TIMEOUT is "10s": write a number of milliseconds above 0`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_"+tt.variable, tt.value)
			tt.cfg.Local = true
			sdk, err := otlp.Setup(t.Context(), tt.cfg)
			if err == nil {
				_ = sdk.Shutdown(t.Context())
			}
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "SECRET")) {
				t.Errorf("Setup() = %v, want an error that says %q and no secret", err, tt.want)
			}
		})
	}
}

func TestSamplersOfTheSpecification(t *testing.T) {
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true})
	sampled := trace.ContextWithSpanContext(context.Background(), remote.WithTraceFlags(trace.FlagsSampled))
	unsampled := trace.ContextWithSpanContext(context.Background(), remote)
	for _, tt := range []struct {
		name, arg                string
		root, sampled, unsampled bool
	}{
		{"", "", true, true, false},
		{"always_on", "", true, true, true},
		{"always_off", "", false, false, false},
		{"traceidratio", "0", false, false, false},
		{" TraceIDRatio ", "1", true, true, true},
		{"parentbased_always_on", "", true, true, false},
		{"parentbased_always_off", "", false, true, false},
		{"parentbased_traceidratio", "", true, true, false},
		{"parentbased_traceidratio", "0.0", false, true, false},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", tt.name)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", tt.arg)
		sdk := setup(t, otlp.Config{Exporter: "console", Out: io.Discard})
		for ctx, want := range map[context.Context]bool{context.Background(): tt.root, sampled: tt.sampled, unsampled: tt.unsampled} {
			_, s := sdk.Provider().Tracer("test").Start(ctx, "a")
			if got := s.SpanContext().IsSampled(); got != want {
				t.Errorf("%s %s: a span in %v is sampled: %v, want %v", tt.name, tt.arg, ctx, got, want)
			}
		}
	}
	for _, arg := range []string{"2", "-1", "NaN", "half"} {
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", arg)
		if _, err := otlp.Setup(t.Context(), otlp.Config{Local: true}); err == nil || !strings.Contains(err.Error(), "write a number from 0 to 1") {
			t.Errorf("Setup() with the rate %s = %v, want an error", arg, err)
		}
	}
}

func TestSwitchedOffMakesNoSpansAndStaysOutOfTheWay(t *testing.T) {
	before := otel.GetTracerProvider()
	for _, variable := range []string{"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"} {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
		sdk, err := otlp.Setup(t.Context(), otlp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := sdk.Provider().(tracenoop.TracerProvider); !ok || otel.GetTracerProvider() != before {
			t.Errorf("%s: the provider is a %T, the global one has changed: %v; want one that does nothing and no change", variable, sdk.Provider(), otel.GetTracerProvider() != before)
		}
		if err1, err2 := sdk.Flush(t.Context()), sdk.Shutdown(t.Context()); err1 != nil || err2 != nil || sdk.Stats() != (otlp.Stats{}) {
			t.Errorf("%s: Flush(), Shutdown(), Stats() = %v, %v, %+v, want nothing", variable, err1, err2, sdk.Stats())
		}
		t.Setenv(name, "")
	}
}

func TestSetupInstallsItsProviderAndThePropagatorOfTracing(t *testing.T) {
	provider, propagator := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	t.Cleanup(func() {
		otel.SetTracerProvider(tracenoop.NewTracerProvider()) // the former may be a placeholder, which cannot be set
		otel.SetTextMapPropagator(propagator)
	})
	setup(t, otlp.Config{Exporter: "console", Out: io.Discard})
	if otel.GetTracerProvider() != provider {
		t.Error("a local SDK has become the global one")
	}
	sdk, err := otlp.Setup(t.Context(), otlp.Config{Exporter: "console", Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer sdk.Shutdown(t.Context())
	if otel.GetTracerProvider() != sdk.Provider() || otel.GetTextMapPropagator() != (tracing.Propagator{}) {
		t.Error("the global provider and propagator are others than those of Setup")
	}
}

// hanging is a collector that takes a connection and answers nothing.
func hanging(t testing.TB) string {
	t.Helper()
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	t.Cleanup(func() {
		close(stop)
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

func TestACollectorThatIsDownDelaysNoRequestAndItsSpansAreCounted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nothing listens there any more
	p99 := func(provider trace.TracerProvider) time.Duration {
		tracer, err := tracing.New(tracing.Config{Provider: provider})
		if err != nil {
			t.Fatal(err)
		}
		h := tracer.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
		took := make([]time.Duration, 5000)
		for i := range took {
			began := time.Now()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	healthy := setup(t, otlp.Config{Endpoint: newCollector(t).httpURL})
	base := p99(healthy.Provider())
	for name, cfg := range map[string]otlp.Config{
		"refuses over HTTP": {Endpoint: "http://" + l.Addr().String()},
		"refuses over gRPC": {Endpoint: "http://" + l.Addr().String(), Protocol: "grpc"},
		"hangs":             {Endpoint: hanging(t)},
	} {
		sdk := setup(t, cfg)
		// Waiting for the collector, once in a hundred, would show in seconds. The
		// slack is for a machine that has something else to do.
		if got := p99(sdk.Provider()); got > 5*base+20*time.Millisecond {
			t.Errorf("%s: p99 = %v, want about the %v of a collector that is up", name, got, base)
		}
		before := sdk.Stats()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := sdk.Shutdown(ctx)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: Shutdown took %v, want no more than its context, and the machine's slack", name, took)
		}
		s := sdk.Stats()
		if s.Exported != 0 || s.Queued != 0 || s.Failed+s.Dropped != 5000 || before.Dropped == 0 && before.Failed == 0 {
			t.Errorf("%s: Stats() = %+v, and %+v after Shutdown, want 5000 spans failed or dropped", name, before, s)
		}
		if lost := s.Failed + s.Dropped - before.Failed - before.Dropped; s.Dropped > before.Dropped && (err == nil || !strings.Contains(err.Error(), "spans were not exported")) {
			t.Errorf("%s: Shutdown() = %v with %d spans lost, want it to say so", name, err, lost)
		}
	}
}

func ExampleSetup() {
	taken := make(chan struct{}, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { taken <- struct{}{} }))
	defer collector.Close()

	ctx := context.Background()
	sdk, err := otlp.Setup(ctx, otlp.Config{Service: "orders", Endpoint: collector.URL, Local: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	tracer, err := tracing.New(tracing.Config{Provider: sdk.Provider()})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := tracer.Middleware(http.NotFoundHandler())
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	if err := sdk.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	<-taken
	fmt.Printf("%+v\n", sdk.Stats())
	// Output: {Exported:1 Failed:0 Dropped:0 Queued:0}
}
