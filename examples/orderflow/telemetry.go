package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/tracing/otlp"
)

// telemetry sends the spans of each service under the service's own name. The
// OTEL_ variables say the rest, such as OTEL_EXPORTER_OTLP_PROTOCOL=grpc.
type telemetry struct {
	endpoint string
	log      *slog.Logger
	sdks     []*otlp.SDK
}

func (t *telemetry) provider(service string) (trace.TracerProvider, error) {
	sdk, err := otlp.Setup(context.Background(), otlp.Config{Service: service, Endpoint: t.endpoint, Local: true, Logger: t.log})
	if err != nil {
		return nil, err
	}
	t.sdks = append(t.sdks, sdk)
	return sdk.Provider(), nil
}

// shutdown sends what is left, for as long as that takes a collector that is up: all
// at once, because each waits 5 seconds for one that hangs.
func (t *telemetry) shutdown(ctx context.Context) error {
	errs := make([]error, len(t.sdks))
	var all sync.WaitGroup
	for i, sdk := range t.sdks {
		all.Go(func() { errs[i] = sdk.Shutdown(context.WithoutCancel(ctx)) })
	}
	all.Wait()
	return errors.Join(errs...)
}
