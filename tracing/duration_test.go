package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/tracing"
)

// A meter is a MeterProvider that keeps what is recorded.
type meter struct {
	embedded.MeterProvider
	fails bool
	mu    sync.Mutex
	all   []measure
	units map[string]string
}

// A measure is one value that was recorded.
type measure struct {
	name, attrs string
	seconds     float64
	span        trace.SpanContext
}

func (m *meter) Meter(string, ...metric.MeterOption) metric.Meter { return instruments{m: m} }

type instruments struct {
	noop.Meter
	m *meter
}

func (i instruments) Float64Histogram(name string, opts ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	m := i.m
	if m.fails {
		return noop.Float64Histogram{}, errors.New("no more instruments")
	}
	cfg := metric.NewFloat64HistogramConfig(opts...)
	if m.units == nil {
		m.units = map[string]string{}
	}
	m.units[name] = fmt.Sprint(cfg.Unit(), cfg.ExplicitBucketBoundaries())
	return histogram{m: m, name: name}, nil
}

type histogram struct {
	noop.Float64Histogram
	m    *meter
	name string
}

func (h histogram) Record(ctx context.Context, v float64, opts ...metric.RecordOption) {
	set := metric.NewRecordConfig(opts).Attributes()
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.all = append(h.m.all, measure{h.name, set.Encoded(attribute.DefaultEncoder()), v, trace.SpanContextFromContext(ctx)})
}

// only returns the one value that was recorded.
func (m *meter) only(t testing.TB) measure {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.all) != 1 {
		t.Fatalf("%d values were recorded, want 1: %v", len(m.all), m.all)
	}
	return m.all[0]
}

func TestMeasuresAreThoseOfTheConventions(t *testing.T) {
	m := &meter{}
	mustNew(t, tracing.Config{MeterProvider: m})
	const want = "s[0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10]"
	if m.units["http.server.request.duration"] != want || m.units["http.client.request.duration"] != want || len(m.units) != 2 {
		t.Errorf("instruments = %v, want two with %s", m.units, want)
	}
	if _, err := tracing.New(tracing.Config{MeterProvider: &meter{fails: true}, BaggageTopics: []string{""}}); err == nil ||
		!strings.Contains(err.Error(), "MeterProvider: no more instruments") || strings.Contains(err.Error(), "\n") {
		t.Errorf("New() = %v, want one line with the fault of the MeterProvider", err)
	}
}

func TestServerDurationIsThatOfTheSpanWithOrWithoutOne(t *testing.T) {
	for _, provider := range []trace.TracerProvider{&recorder{}, &recorder{neverRoots: true}, nil} {
		synctest.Test(t, func(t *testing.T) {
			m := &meter{}
			mux := http.NewServeMux()
			mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(1500 * time.Millisecond)
				w.WriteHeader(http.StatusServiceUnavailable)
			})
			h := mustNew(t, tracing.Config{Provider: provider, MeterProvider: m}).Middleware(mux)
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/users/7", nil))
			got := m.only(t)
			if want := "error.type=503,http.request.method=GET,http.response.status_code=503,http.route=/users/{id},network.protocol.version=1.1,url.scheme=http"; got.name != "http.server.request.duration" || got.attrs != want {
				t.Errorf("%s has %s, want %s", got.name, got.attrs, want)
			}
			if got.seconds != 1.5 {
				t.Errorf("duration = %v, want 1.5 s", got.seconds)
			}
			if rec, ok := provider.(*recorder); ok && !rec.neverRoots && got.span.SpanID() != rec.only(t).sc.SpanID() {
				t.Errorf("recorded in span %s, want that of the request, for exemplars", got.span.SpanID())
			}
		})
	}
}

func TestClientDurationLastsUntilTheBodyHasBeenRead(t *testing.T) {
	for _, provider := range []trace.TracerProvider{&recorder{}, &recorder{neverRoots: true}, nil} {
		synctest.Test(t, func(t *testing.T) {
			m := &meter{}
			rt := mustNew(t, tracing.Config{Provider: provider, MeterProvider: m}).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
				resp := answer(404)
				resp.Body = io.NopCloser(strings.NewReader("x"))
				return resp, nil
			}))
			resp, err := rt.RoundTrip(request(t.Context(), "https://h.example/users/7?q=1"))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			io.ReadAll(resp.Body)
			resp.Body.Close()
			got := m.only(t)
			if want := "error.type=404,http.request.method=GET,http.response.status_code=404,network.protocol.version=1.1,server.address=h.example,server.port=443"; got.name != "http.client.request.duration" || got.attrs != want || got.seconds != 2 {
				t.Errorf("%s has %s and %v s, want %s and 2 s", got.name, got.attrs, got.seconds, want)
			}
		})
	}
}

func TestFaultsAreMeasured(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		does string
		ctx  context.Context
		next roundTrip
		want string
	}{
		{"an error by its type", t.Context(), func(*http.Request) (*http.Response, error) { return nil, io.EOF }, "error.type=unexpected_eof,http.request.method=GET,server.address=h,server.port=80"},
		{"a caller that gave up as no error", canceled, func(*http.Request) (*http.Response, error) { return nil, context.Canceled }, "http.request.method=GET,server.address=h,server.port=80"},
		{"a body that broke by its error", t.Context(), func(*http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), broken{}))
			return resp, nil
		}, "error.type=connection_reset,http.request.method=GET,http.response.status_code=200,network.protocol.version=1.1,server.address=h,server.port=80"},
	} {
		t.Run(tt.does, func(t *testing.T) {
			m := &meter{}
			resp, err := mustNew(t, tracing.Config{MeterProvider: m}).Transport(tt.next).RoundTrip(request(tt.ctx, "http://h/"))
			if err == nil {
				io.ReadAll(resp.Body)
			}
			if got := m.only(t).attrs; got != tt.want {
				t.Errorf("measured %s, want %s", got, tt.want)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		m := &meter{}
		tracer := mustNew(t, tracing.Config{MeterProvider: m})
		rt := tracer.Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }))
		h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			rt.RoundTrip(request(r.Context(), "http://h/"))
		}))
		func() {
			defer func() {
				if recover() != "boom" {
					t.Error("the panic did not go on")
				}
			}()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		}()
		if len(m.all) != 2 || !strings.HasPrefix(m.all[0].attrs, "error.type=panic") || !strings.HasPrefix(m.all[1].attrs, "error.type=panic") {
			t.Errorf("measured %v, want a panic at the client and one at the server", m.all)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, fmt.Errorf("read: %w", syscall.ECONNRESET) }

func TestTenThousandPathsWithoutRouteAreOneSeriesAMethod(t *testing.T) {
	m := &meter{}
	h := mustNew(t, tracing.Config{MeterProvider: m}).Middleware(http.HandlerFunc(nothing))
	for i := range 10_000 {
		method := []string{"GET", "POST", fmt.Sprint("M", i)}[i%3]
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, fmt.Sprintf("/users/%d", i), nil))
	}
	series := map[string]int{}
	for _, v := range m.all {
		series[v.attrs]++
	}
	if len(series) != 3 || len(m.all) != 10_000 {
		t.Errorf("%d values in the series %v, want 10000 in 3", len(m.all), series)
	}
}

func TestWhatManySeriesCostIsBounded(t *testing.T) {
	m := &meter{}
	rt := mustNew(t, tracing.Config{MeterProvider: m}).Transport(roundTrip(ok))
	for i := range 3000 {
		for range 2 {
			if _, err := rt.RoundTrip(request(t.Context(), fmt.Sprintf("http://h%d/", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 3000 {
		for _, v := range m.all[2*i : 2*i+2] {
			if want := fmt.Sprintf("server.address=h%d,", i); !strings.Contains(v.attrs, want) {
				t.Fatalf("value %d has %s, want %s: beyond the bound too", i, v.attrs, want)
			}
		}
	}
}

func TestWrappingTwiceMeasuresOnceAndAnotherRequestBelowByItself(t *testing.T) {
	for _, provider := range []trace.TracerProvider{nil, &recorder{}} {
		m := &meter{}
		tracer := mustNew(t, tracing.Config{Provider: provider, MeterProvider: m})
		// In between, as an authenticating transport does.
		token := roundTrip(func(r *http.Request) (*http.Response, error) {
			inner := tracer.Transport(roundTrip(ok))
			if _, err := inner.RoundTrip(request(r.Context(), "http://tokens/")); err != nil {
				return nil, err
			}
			return inner.RoundTrip(r.Clone(r.Context()))
		})
		if _, err := tracer.Transport(token).RoundTrip(request(t.Context(), "http://h/")); err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /a/{id}", tracer.Middleware(http.HandlerFunc(nothing)))
		copying := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { mux.ServeHTTP(w, r.Clone(r.Context())) })
		tracer.Middleware(copying).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/a/1", nil))
		var got []string
		for _, v := range m.all {
			got = append(got, v.attrs[strings.LastIndex(v.attrs, "http.r"):])
		}
		want := []string{
			"http.response.status_code=200,network.protocol.version=1.1,server.address=tokens,server.port=80",
			"http.response.status_code=200,network.protocol.version=1.1,server.address=h,server.port=80",
			"http.route=/a/{id},network.protocol.version=1.1,url.scheme=http",
		}
		if !slices.Equal(got, want) {
			t.Errorf("measured %q, want %q", got, want)
		}
	}
}

func TestSkippedRequestsAreNotMeasured(t *testing.T) {
	m := &meter{}
	h := mustNew(t, tracing.Config{MeterProvider: m, Skip: func(r *http.Request) bool { return r.URL.Path == "/healthz" }}).Middleware(http.HandlerFunc(nothing))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/healthz", nil))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	m.only(t)
}

func TestWithoutAProviderAMeasuredRequestPassesItsTraceOn(t *testing.T) {
	m := &meter{}
	tracer := mustNew(t, tracing.Config{MeterProvider: m})
	var sent http.Header
	rt := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { sent = r.Header; return answer(200), nil }))
	h := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		rt.RoundTrip(request(r.Context(), "http://h/"))
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("traceparent", w3cParent+"-01")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got := sent.Get("traceparent"); got != w3cParent+"-01" {
		t.Errorf("traceparent = %q, want the one that came in", got)
	}
	if len(m.all) != 2 {
		t.Errorf("%d values, want one of the server and one of the client", len(m.all))
	}
}
