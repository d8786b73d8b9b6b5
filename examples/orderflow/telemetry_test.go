package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func TestEachServiceSendsItsSpansUnderItsName(t *testing.T) {
	var mu sync.Mutex
	var got strings.Builder
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s with %v, want spans at /v1/traces", r.URL, err)
		}
		mu.Lock()
		defer mu.Unlock()
		got.Write(body)
	}))
	defer collector.Close()
	if err := run(t.Context(), []string{"-smoke", "-otlp=" + collector.URL}); err != nil {
		t.Errorf("run() = %v, want nil", err)
	}
	for _, name := range []string{"gateway", "user", "inventory", "order", "notification"} {
		// The attribute service.name and its value, in the wire format of protobuf.
		if !strings.Contains(got.String(), "service.name\x12"+string(rune(len(name)+2))+"\n"+string(rune(len(name)))+name) {
			t.Errorf("no spans of a service named %s", name)
		}
	}
}

func TestAnAddressThatIsNoURLIsAFault(t *testing.T) {
	err := run(t.Context(), []string{"-otlp=localhost:4318"})
	if err == nil || !strings.Contains(err.Error(), `Endpoint is "localhost:4318": write a URL such as http://localhost:4318`) {
		t.Errorf("run() = %v, want it to say what to write", err)
	}
}

func TestTheServicesWaitForACollectorTogether(t *testing.T) {
	services := []string{"gateway", "order"}
	var asked sync.WaitGroup
	asked.Add(len(services))
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Done()
		asked.Wait() // answers none until it has heard of all
	}))
	defer collector.Close()
	spans := &telemetry{endpoint: collector.URL, log: slog.New(slog.DiscardHandler)}
	for _, service := range services {
		p, err := spans.provider(service)
		if err != nil {
			t.Fatal(err)
		}
		_, s := p.Tracer("test").Start(t.Context(), "a")
		s.End()
	}
	if err := spans.shutdown(t.Context()); err != nil {
		t.Errorf("shutdown() = %v, want nil: the collector answers once all have asked", err)
	}
}

func TestACollectorThatIsDownIsToldAndHarmsNothing(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	var log strings.Builder
	spans := &telemetry{endpoint: down.URL, log: slog.New(slog.NewTextHandler(&log, nil))}
	p, err := spans.provider("order")
	if err != nil {
		t.Fatal(err)
	}
	_, s := p.Tracer("test").Start(t.Context(), "a")
	s.End()
	if err := spans.shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("shutdown() = %v, want nil: nothing is left to send", err)
	}
	if !strings.Contains(log.String(), "spans could not be exported") {
		t.Errorf("the log says %q, want that the span is lost", &log)
	}
}
