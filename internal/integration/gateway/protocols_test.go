package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/parley-go/parley/gateway"
)

// front serves a gateway of one upstream and returns its address.
func front(t *testing.T, u gateway.Upstream, r gateway.Route) string {
	t.Helper()
	var b gateway.Builder
	u.Name, r.Pattern, r.Upstream = "svc", "/", "svc"
	b.Upstream(&u)
	b.Route(r)
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := gw.Server("")
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v, want ErrServerClosed", err)
		}
		gw.CloseIdleConnections()
	})
	return l.Addr().String()
}

// service is a gRPC server of the health and reflection protocols, for their
// shapes: unary, server streaming and bidirectional.
type service struct {
	healthpb.UnimplementedHealthServer
	reflectionpb.UnimplementedServerReflectionServer
	deadline chan time.Duration
}

func (s *service) Check(ctx context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if d, ok := ctx.Deadline(); ok {
		select {
		case s.deadline <- time.Until(d):
		default:
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-echo", first(md["x-ask"])))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "late"))
	switch in.GetService() {
	case "missing":
		return nil, status.Error(codes.NotFound, "no such service: \u00fc%") // trailers only
	case "slow":
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (s *service) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	for i := range 3 {
		if err := stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_ServingStatus(i)}); err != nil {
			return err
		}
	}
	return status.Error(codes.ResourceExhausted, "enough")
}

func (s *service) ServerReflectionInfo(stream grpc.BidiStreamingServer[reflectionpb.ServerReflectionRequest, reflectionpb.ServerReflectionResponse]) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&reflectionpb.ServerReflectionResponse{ValidHost: "got " + in.GetHost()}); err != nil {
			return err
		}
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// dial puts a gateway between a gRPC client and the service.
func dial(t *testing.T, s *service, r gateway.Route) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, s)
	reflectionpb.RegisterServerReflectionServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	at := front(t, gateway.Upstream{Targets: []string{"http://" + l.Addr().String()}, HTTP2: true}, r)
	conn, err := grpc.NewClient("passthrough:///"+at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestGRPCCallKeepsItsMessageMetadataAndStatus(t *testing.T) {
	client := healthpb.NewHealthClient(dial(t, new(service), gateway.Route{}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-ask", "hello")
	var header, trailer metadata.MD
	for name, opts := range map[string][]grpc.CallOption{"plain": nil, "compressed": {grpc.UseCompressor(gzip.Name)}} {
		resp, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, append(opts, grpc.Header(&header), grpc.Trailer(&trailer))...)
		if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("%s: Check() = %v, %v, want SERVING", name, resp, err)
		}
		if first(header["x-echo"]) != "hello" || first(trailer["x-trailer"]) != "late" {
			t.Errorf("%s: header %v, trailer %v, want x-echo: hello and x-trailer: late", name, header, trailer)
		}
	}
	_, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "missing"})
	if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != "no such service: \u00fc%" {
		t.Errorf("Check() = %v, want NotFound with its message", err)
	}
}

func TestGRPCStreamsPassInBothDirectionsAtOnce(t *testing.T) {
	conn := dial(t, new(service), gateway.Route{})
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if got, err := watch.Recv(); err != nil || int(got.GetStatus()) != i {
			t.Fatalf("message %d = %v, %v", i, got, err)
		}
	}
	if _, err := watch.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the end of the stream = %v, want ResourceExhausted", err)
	}
	both, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", "three"} {
		if err := both.Send(&reflectionpb.ServerReflectionRequest{Host: word}); err != nil {
			t.Fatal(err)
		}
		if got, err := both.Recv(); err != nil || got.GetValidHost() != "got "+word {
			t.Fatalf("answer = %v, %v, want got %s", got, err, word)
		}
	}
	if err := both.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the stream = %v, want EOF", err)
	}
}

func TestGRPCDeadlineOfTheClientReachesTheServiceAndBoundsTheGateway(t *testing.T) {
	s := &service{deadline: make(chan time.Duration, 1)}
	client := healthpb.NewHealthClient(dial(t, s, gateway.Route{}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if left := <-s.deadline; left <= 0 || left > 10*time.Second {
		t.Errorf("the service has %v left, want at most 10s", left)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "slow"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Check() = %v, want DeadlineExceeded", err)
	}
	<-s.deadline
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case left := <-s.deadline:
		t.Errorf("the service has a deadline of %v, want none where the client has set none", left)
	default:
	}
}

func TestWebSocketMessagesPassInBothDirections(t *testing.T) {
	backend := httptest.NewServer(websocket.Handler(func(ws *websocket.Conn) {
		for {
			var text string
			if websocket.Message.Receive(ws, &text) != nil || websocket.Message.Send(ws, "got "+text) != nil {
				return
			}
		}
	}))
	t.Cleanup(backend.Close)
	at := front(t, gateway.Upstream{Targets: []string{backend.URL}}, gateway.Route{Timeout: time.Second})
	ws, err := websocket.Dial("ws://"+at+"/chat", "", "http://"+at)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	start := time.Now()
	for n := 0; n < 3 || time.Since(start) < 1100*time.Millisecond; n++ { // beyond Timeout
		var got string
		if err := websocket.Message.Send(ws, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(ws, &got); err != nil || got != "got hello" {
			t.Fatalf("message = %q, %v, want got hello", got, err)
		}
	}
	large := string(make([]byte, 1<<20))
	if err := websocket.Message.Send(ws, large); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "got "+large {
		t.Errorf("large message: %d bytes, %v, want %d", len(got), err, len(large)+4)
	}
}
