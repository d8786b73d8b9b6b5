// Package backend is a service that speaks whatever a service may speak: REST,
// server-sent events, WebSocket and gRPC, all at one address.
package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// Backend is one instance of the service.
type Backend struct {
	// URL is where it serves.
	URL string

	name   string
	server *http.Server
	grpc   *grpc.Server
	served sync.WaitGroup
}

// Start serves on a free port of loopback until Close. Each answer tells the name.
func Start(ctx context.Context, name string) (*Backend, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &Backend{URL: "http://" + l.Addr().String(), name: name, grpc: grpc.NewServer()}
	grpc_health_v1.RegisterHealthServer(b.grpc, health.NewServer())
	reflection.Register(b.grpc) // tells grpcurl what there is
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /orders/{id}", b.order)
	mux.HandleFunc("GET /events", b.events)
	mux.HandleFunc("GET /echo", b.echo)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	b.server = &http.Server{Protocols: protocols, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Backend", name)
			if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				b.grpc.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		})}
	b.served.Go(func() { _ = b.server.Serve(l) }) // until Close
	return b, nil
}

// Close ends the service at once.
func (b *Backend) Close() error {
	err := b.server.Close()
	b.served.Wait()
	b.grpc.Stop()
	return err
}

// order is REST: a resource as JSON, with what the gateway told of the client.
func (b *Backend) order(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{
		"order": r.PathValue("id"), "backend": b.name, "client": r.Header.Get("X-Forwarded-For"),
	})
}

// events sends an event now and then, for as long as the client listens.
func (b *Backend) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		_, _ = fmt.Fprintf(w, "data: %d from %s\n\n", n, b.name)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// echo sends back each WebSocket message. The library is coder/websocket: nothing
// else is in its module graph, it is maintained, and it speaks in contexts.
func (b *Backend) echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = c.CloseNow() }()
	for {
		kind, message, err := c.Reader(r.Context())
		if err != nil {
			return
		}
		out, err := c.Writer(r.Context(), kind)
		if err != nil {
			return
		}
		if _, err := io.Copy(out, message); err != nil {
			return
		}
		if err := out.Close(); err != nil {
			return
		}
	}
}
