package system_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/examples/orderflow/system"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/tracing/otlp"
)

// A span is what Jaeger and Zipkin both tell of one.
type span struct {
	id, parent, service, name, kind string
	failed                          bool
	attrs                           map[string]string
}

// The trace of an order, as it stands in a trace server: one trace from the
// gateway to the notification, in which Inventory failed at the first attempt.
func expectTheTraceOfAnOrder(t *testing.T, spans []span) {
	t.Helper()
	find := func(service, kind, name string) (found []span) {
		for _, s := range spans {
			if s.service == service && s.kind == kind && strings.HasPrefix(strings.ToLower(s.name), strings.ToLower(name)) {
				found = append(found, s)
			}
		}
		return found
	}
	one := func(service, kind, name string) span {
		found := find(service, kind, name)
		if len(found) != 1 {
			t.Errorf("%d spans %s of kind %s in %s, want 1", len(found), name, kind, service)
			return span{id: "missing"}
		}
		return found[0]
	}
	child := func(of, is span) {
		t.Helper()
		if is.parent != of.id {
			t.Errorf("the parent of %s %q is %s, want %s %q", is.service, is.name, is.parent, of.service, of.name)
		}
	}
	entry := one("gateway", "server", "POST")
	forward := one("gateway", "client", "POST")
	placing := one("order", "server", "POST")
	child(entry, forward)
	child(forward, placing)
	if entry.parent != "" {
		t.Errorf("the entry has the parent %s, want none", entry.parent)
	}

	// The attempts stand beside each other, and say which they are.
	attempts := find("order", "client", "PUT")
	if len(attempts) != 2 {
		t.Fatalf("%d attempts to reserve, want 2", len(attempts))
	}
	slices.SortFunc(attempts, func(a, b span) int {
		return strings.Compare(a.attrs["http.request.resend_count"], b.attrs["http.request.resend_count"])
	})
	for i, a := range attempts {
		child(placing, a)
		if want := []string{"", "1"}[i]; a.attrs["http.request.resend_count"] != want || a.failed != (i == 0) {
			t.Errorf("attempt %d has resend_count %q and failed: %v, want %q and only the first failed", i+1, a.attrs["http.request.resend_count"], a.failed, want)
		}
	}
	reserves := find("inventory", "server", "PUT")
	if len(reserves) != 2 {
		t.Fatalf("Inventory was asked %d times, want 2", len(reserves))
	}
	if p := []string{reserves[0].parent, reserves[1].parent}; !slices.Contains(p, attempts[0].id) || !slices.Contains(p, attempts[1].id) {
		t.Errorf("Inventory was asked by %v, want by each attempt, %s and %s", p, attempts[0].id, attempts[1].id)
	}

	// The message hops.
	published := one("order", "producer", "publish orders")
	child(placing, published)
	for _, service := range []string{"inventory", "notification"} {
		handled := one(service, "consumer", "process orders")
		child(published, handled)
		if service == "notification" {
			child(handled, one(service, "client", "GET"))
		}
	}
}

// outage makes Inventory fail until the first attempt to reach it has failed, and
// notes the trace in which that was.
type outage struct {
	once  sync.Once
	end   func()
	trace string
}

func (*outage) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (o *outage) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanKind() == trace.SpanKindClient && s.Name() == http.MethodPut && s.Status().Code == codes.Error {
		o.once.Do(func() {
			o.trace = s.SpanContext().TraceID().String()
			o.end()
		})
	}
}

func (*outage) Shutdown(context.Context) error   { return nil }
func (*outage) ForceFlush(context.Context) error { return nil }

// placeTraced places an order through an outage of Inventory's, waits for its last
// effect, and returns the id of its trace.
func placeTraced(t *testing.T, provider func(service string) (trace.TracerProvider, error)) string {
	t.Helper()
	var sys *system.System
	o := &outage{end: func() { sys.Inventory.SetDown(false) }}
	sys = start(t, system.Config{Provider: func(service string) (trace.TracerProvider, error) {
		p, err := provider(service)
		if sdk, ok := p.(*sdktrace.TracerProvider); ok && service == "order" {
			sdk.RegisterSpanProcessor(o)
		}
		return p, err
	}})
	sys.Inventory.SetDown(true)
	a := send(t, "POST", sys.URL()+"/v1/orders", "traced", `{"userId":123,"items":["item1"]}`)
	if a.status != http.StatusCreated {
		t.Fatalf("POST /v1/orders = %d %s, want 201", a.status, a.body)
	}
	eventually(t, "stock moves and the user is notified", func() bool { return moves(sys) == 1 && mails(sys) == 1 })
	return o.trace
}

// spansOfAnOrder is how many spans the trace has: two of the gateway, eight of the
// order with what it asks of User and Inventory, and four of the handlers.
const spansOfAnOrder = 14

// query asks a trace server until it has the whole trace.
func query(t *testing.T, url string, read func([]byte) []span) (spans []span) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %d spans", url, spansOfAnOrder), func() bool {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK {
			spans = read(body)
		}
		return len(spans) >= spansOfAnOrder
	})
	if len(spans) != spansOfAnOrder {
		t.Errorf("the trace has %d spans, want %d", len(spans), spansOfAnOrder)
	}
	return spans
}

func TestTheTraceOfAnOrderAppearsInJaeger(t *testing.T) {
	at := strings.Split(need.Address(t, services.Jaeger()), ",")
	var sdks []*otlp.SDK
	id := placeTraced(t, func(service string) (trace.TracerProvider, error) {
		cfg := otlp.Config{Service: service, Endpoint: "http://" + at[1], Protocol: "http/protobuf", Local: true}
		if service == "inventory" || service == "user" {
			cfg.Endpoint, cfg.Protocol = "http://"+at[2], "grpc"
		}
		sdk, err := otlp.Setup(t.Context(), cfg)
		if err != nil {
			return nil, err
		}
		sdks = append(sdks, sdk)
		return sdk.Provider(), nil
	})
	for _, sdk := range sdks {
		if err := sdk.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
		if s := sdk.Stats(); s.Exported == 0 || s.Failed+s.Dropped > 0 {
			t.Errorf("Stats() = %+v, want all exported", s)
		}
	}
	expectTheTraceOfAnOrder(t, query(t, "http://"+at[0]+"/api/traces/"+id, readJaeger))
}

// readJaeger reads the answer to a query of Jaeger.
func readJaeger(body []byte) (spans []span) {
	var answer struct {
		Data []struct {
			Spans []struct {
				SpanID, OperationName, ProcessID string
				References                       []struct{ RefType, SpanID string }
				Tags                             []struct {
					Key   string
					Value any
				}
			}
			Processes map[string]struct{ ServiceName string }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil
	}
	for _, d := range answer.Data {
		for _, j := range d.Spans {
			s := span{id: j.SpanID, service: d.Processes[j.ProcessID].ServiceName, name: j.OperationName, attrs: map[string]string{}}
			for _, r := range j.References {
				if r.RefType == "CHILD_OF" {
					s.parent = r.SpanID
				}
			}
			for _, tag := range j.Tags {
				s.attrs[tag.Key] = fmt.Sprint(tag.Value)
			}
			s.kind, s.failed = s.attrs["span.kind"], s.attrs["error"] == "true"
			spans = append(spans, s)
		}
	}
	return spans
}

func TestTheTraceOfAnOrderAppearsInZipkin(t *testing.T) {
	at := need.Address(t, services.Zipkin())
	var providers []*sdktrace.TracerProvider
	id := placeTraced(t, func(service string) (trace.TracerProvider, error) {
		p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(toZipkin{at + "/api/v2/spans", service}))
		providers = append(providers, p)
		return p, nil
	})
	for _, p := range providers {
		if err := p.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
	}
	expectTheTraceOfAnOrder(t, query(t, at+"/api/v2/trace/"+id, readZipkin))
}

// toZipkin sends spans in Zipkin's own format, as a collector in front of it does:
// a Zipkin by itself takes no OTLP, and the exporter of OpenTelemetry is deprecated.
type toZipkin struct{ url, service string }

func (z toZipkin) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	list := make([]map[string]any, len(spans))
	for i, s := range spans {
		tags := map[string]string{}
		for _, a := range s.Attributes() {
			tags[string(a.Key)] = a.Value.String()
		}
		if s.Status().Code == codes.Error {
			tags["error"] = s.Status().Description
		}
		list[i] = map[string]any{
			"traceId": s.SpanContext().TraceID().String(), "id": s.SpanContext().SpanID().String(),
			"name": s.Name(), "kind": strings.ToUpper(s.SpanKind().String()), "tags": tags,
			"timestamp": s.StartTime().UnixMicro(), "duration": max(s.EndTime().Sub(s.StartTime()).Microseconds(), 1),
			"localEndpoint": map[string]string{"serviceName": z.service},
		}
		if s.Parent().IsValid() {
			list[i]["parentId"] = s.Parent().SpanID().String()
		}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, z.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return errors.New("Zipkin answers " + resp.Status)
	}
	return nil
}

func (toZipkin) Shutdown(context.Context) error { return nil }

// readZipkin reads the answer to a query of Zipkin.
func readZipkin(body []byte) (spans []span) {
	var answer []struct {
		ID, ParentID, Kind, Name string
		LocalEndpoint            struct{ ServiceName string }
		Tags                     map[string]string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil
	}
	for _, z := range answer {
		_, failed := z.Tags["error"]
		spans = append(spans, span{
			id: z.ID, parent: z.ParentID, service: z.LocalEndpoint.ServiceName, name: z.Name,
			kind: strings.ToLower(z.Kind), failed: failed, attrs: z.Tags,
		})
	}
	return spans
}
