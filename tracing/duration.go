package tracing

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// maxSeries bounds the sets of attributes that durations keeps ready: more than a
// service has routes and statuses. What comes beyond is measured all the same.
const maxSeries = 1024

// durations are the two measures of HTTP that the conventions call stable. A nil
// one measures nothing.
type durations struct {
	server, client metric.Float64Histogram
	// ready holds the attributes of each series as an SDK wants them, since making
	// those costs more than the rest of a measure. It is copied to be changed, so
	// that a look into it takes no lock.
	ready atomic.Pointer[map[series]metric.MeasurementOption]
}

// A series is what the requests of one time series have in common.
type series struct {
	method, route, scheme string // route and scheme on the server
	host                  string // with its port, as the URL has it, on the client
	version, fault        string
	status                int
}

func newDurations(p metric.MeterProvider) (*durations, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // a nil one is of use
	}
	meter := p.Meter(scopeName, metric.WithSchemaURL(schemaURL))
	// The boundaries are those of the conventions; an SDK's default ones are
	// meant for milliseconds.
	buckets := metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)
	server, err1 := meter.Float64Histogram(metricServer, metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of HTTP server requests."))
	client, err2 := meter.Float64Histogram(metricClient, metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of HTTP client requests."))
	if err := cmp.Or(err1, err2); err != nil {
		return nil, fmt.Errorf("MeterProvider: %w", err)
	}
	return &durations{server: server, client: client}, nil
}

// now returns when a measure begins.
func (d *durations) now() time.Time {
	if d == nil {
		return time.Time{}
	}
	return time.Now()
}

// served measures a request that was answered with o. ctx holds its span, of
// which an SDK may make an exemplar.
func (d *durations) served(ctx context.Context, began time.Time, r *http.Request, o outcome) {
	if d == nil {
		return
	}
	method, _ := knownMethod(o.method)
	d.record(ctx, d.server, began, nil, series{
		method: method, route: o.route, scheme: schemeOf(r),
		version: protocolVersion(r.ProtoMajor, r.ProtoMinor), fault: o.fault(), status: o.status,
	})
}

// sent measures a request to u that was answered with s.status, 0 if it was not.
func (d *durations) sent(ctx context.Context, began time.Time, method string, u *url.URL, s series) {
	if d == nil {
		return
	}
	s.method, _ = knownMethod(method)
	s.scheme, s.host = u.Scheme, u.Host
	d.record(ctx, d.client, began, u, s)
}

func (d *durations) record(ctx context.Context, h metric.Float64Histogram, began time.Time, u *url.URL, s series) {
	ready := d.ready.Load()
	if ready != nil {
		if option, ok := (*ready)[s]; ok {
			h.Record(ctx, time.Since(began).Seconds(), option)
			return
		}
	}
	option := metric.WithAttributeSet(attribute.NewSet(s.attributes(u)...))
	h.Record(ctx, time.Since(began).Seconds(), option)
	d.keep(ready, s, option)
}

// keep makes option ready for the next time, unless there are too many or somebody
// else just did as much.
func (d *durations) keep(old *map[series]metric.MeasurementOption, s series, option metric.MeasurementOption) {
	next := map[series]metric.MeasurementOption{}
	if old != nil {
		if len(*old) >= maxSeries {
			return
		}
		next = maps.Clone(*old)
	}
	next[s] = option
	d.ready.CompareAndSwap(old, &next)
}

// attributes returns what describes s; u is nil on the server.
func (s series) attributes(u *url.URL) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 6), keyMethod.String(s.method))
	if u == nil {
		attrs = append(attrs, keyURLScheme.String(s.scheme))
	} else {
		attrs = appendAddress(attrs, keyServerAddress, keyServerPort, u.Host, defaultPort(u))
	}
	for _, optional := range [...]struct {
		key   attribute.Key
		value string
	}{{keyRoute, s.route}, {keyProtocolVersion, s.version}, {keyErrorType, s.fault}} {
		if optional.value != "" {
			attrs = append(attrs, optional.key.String(optional.value))
		}
	}
	if s.status != 0 {
		attrs = append(attrs, keyStatusCode.Int(s.status))
	}
	return attrs
}
