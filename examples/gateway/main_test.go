package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// start runs the program until the end of the test and returns its address.
func start(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", out)
		out.Close()
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run() = %v, want nil", err)
		}
	})
	printed := bufio.NewReader(in)
	for {
		line, err := printed.ReadString('\n')
		if err != nil {
			t.Fatalf("the program ends with %v without saying where it is", <-ended)
		}
		if m := regexp.MustCompile(`curl -i http://([^/]+)/`).FindStringSubmatch(line); m != nil {
			go func() { _, _ = io.Copy(io.Discard, printed) }() // the access log
			return m[1]
		}
	}
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestTheProgramIsShort(t *testing.T) {
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n >= 80 {
		t.Errorf("main.go has %d lines, want fewer than 80", n)
	}
}

func TestRESTIsAnsweredByBothBackendsInTurn(t *testing.T) {
	addr := start(t)
	seen := map[string]bool{}
	for range 4 {
		resp, body := get(t, "http://"+addr+"/api/orders/7")
		var got struct{ Order, Backend, Client string }
		if err := json.Unmarshal([]byte(body), &got); err != nil || got.Order != "7" || got.Client != "127.0.0.1" {
			t.Errorf("answer = %s %q, want order 7 for 127.0.0.1", resp.Status, body)
		}
		seen[got.Backend] = true
	}
	if !seen["one"] || !seen["two"] {
		t.Errorf("answered by %v, want both", seen)
	}
	if resp, _ := get(t, "http://"+addr+"/api/%2e%2e/secret"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("GET of an ambiguous path = %s, want 400", resp.Status)
	}
}

func TestEventsComeOneByOne(t *testing.T) {
	resp, err := http.Get("http://" + start(t) + "/api/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() // the stream has no end of its own
	events := bufio.NewReader(resp.Body)
	for _, want := range []string{"data: 1 from ", "data: 2 from ", "data: 3 from "} {
		if line, err := events.ReadString('\n'); !strings.HasPrefix(line, want) {
			t.Fatalf("event = %q, %v, want %s", line, err, want)
		}
		_, _ = events.ReadString('\n')
	}
}

func TestWebSocketMessagesComeBack(t *testing.T) {
	c, _, err := websocket.Dial(t.Context(), "ws://"+start(t)+"/api/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hello", strings.Repeat("x", 10_000)} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if kind, got, err := c.Read(t.Context()); kind != websocket.MessageText || string(got) != want {
			t.Fatalf("message = %.20q, %v, want %.20q", got, err, want)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("Close() = %v, want nil: the closing handshake passes, too", err)
	}
}

// dial returns a client that speaks HTTP/2 without TLS.
func dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(start(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestGRPCCallsAreAnswered(t *testing.T) {
	client := grpc_health_v1.NewHealthClient(dial(t))
	resp, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("Check() = %v, %v, want SERVING", resp, err)
	}
	// An error comes in trailers, without a message before it.
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("Check(nobody) = %v, want NotFound", err)
	}
}

func TestGRPCStreamsRunInBothDirections(t *testing.T) {
	stream, err := grpc_reflection_v1.NewServerReflectionClient(dial(t)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // each is asked when the one before has been answered
		ask := &grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}
		if err := stream.Send(ask); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil || len(answer.GetListServicesResponse().GetService()) == 0 {
			t.Fatalf("Recv() = %v, %v, want the services", answer, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("Recv() after CloseSend() = %v, want io.EOF, which status OK becomes", err)
	}
}
