// Command gateway puts two instances of a service behind one address, whatever they
// speak: REST, server-sent events, WebSocket and gRPC.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/examples/gateway/backend"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

const try = `try:
curl -i http://%[1]s/api/orders/7
curl -N http://%[1]s/api/events
curl -i --path-as-is http://%[1]s/api/%%2e%%2e/secret
websocat ws://%[1]s/api/echo
grpcurl -plaintext %[1]s grpc.health.v1.Health/Check
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, "127.0.0.1:8080", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves at addr until ctx ends.
func run(ctx context.Context, addr string, out io.Writer) error {
	var targets []string
	for _, name := range []string{"one", "two"} {
		b, err := backend.Start(ctx, name)
		if err != nil {
			return err
		}
		defer func() { _ = b.Close() }()
		targets = append(targets, b.URL)
	}

	var b gateway.Builder
	b.Upstream(&gateway.Upstream{Name: "service", Targets: targets, Retry: &retry.Policy{}, Breaker: &breaker.Config{}, Health: &gateway.Health{Path: "/healthz"}})
	b.Upstream(&gateway.Upstream{Name: "grpc", Targets: targets, HTTP2: true})
	b.Route(gateway.Route{Pattern: "/api/{path...}", Upstream: "service", Rewrite: "/{path...}"})
	for _, s := range []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} {
		b.Route(gateway.Route{Pattern: "POST /" + s + "/{method}", Upstream: "grpc"})
	}
	b.AccessLog(gateway.AccessLog{Logger: slog.New(slog.NewTextHandler(out, nil))})
	gw, err := b.Build()
	if err != nil {
		return err
	}

	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := gw.Server(addr)
	go func() { _ = server.Serve(l) }() // until Shutdown
	_, _ = fmt.Fprintf(out, try, l.Addr())
	err = gw.Run(ctx) // checks the health of the backends until ctx ends
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(grace), gw.Close(grace))
}
