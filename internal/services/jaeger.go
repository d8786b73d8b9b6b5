package services

import (
	"context"
	"io"
	"os/exec"
	"strconv"
	"syscall"
)

// jaegerVersion is the last of Jaeger's that Go can build: the module of version
// 2 has no path of its own. It takes the same OTLP and answers the same queries.
const jaegerVersion = "1.76.0"

// Jaeger is the all-in-one server of Jaeger, which keeps traces in memory. The
// variable holds three addresses host:port with commas between: that of queries,
// which is HTTP, that of OTLP over HTTP, and that of OTLP over gRPC.
func Jaeger() Service {
	return Service{
		Name:     "jaeger",
		Variable: "PARLEY_JAEGER_ADDRS",
		Port:     16686,
		More:     []int{4318, 4317},
		address:  func(hostports string) string { return hostports },
		greet:    greetJaeger,
		find:     findJaeger,
		fetch:    fetchJaeger,
		launch:   launchJaeger,
	}
}

func findJaeger() (string, error) {
	if path, err := exec.LookPath("jaeger-all-in-one"); err == nil {
		return path, nil
	}
	return cached("jaeger-" + jaegerVersion)
}

func fetchJaeger(ctx context.Context, say func(string)) error {
	say("jaeger: building version " + jaegerVersion + " from its source, which takes some minutes the first time")
	return buildInto(ctx, "jaeger-"+jaegerVersion, "github.com/jaegertracing/jaeger", jaegerVersion, "./cmd/all-in-one")
}

func launchJaeger(ctx context.Context, dir string, port int) ([]*process, error) {
	path, err := findJaeger()
	if err != nil {
		return nil, err
	}
	server, err := start(ctx, program{
		path: path,
		args: []string{
			"--query.http-server.host-port", loopback(port),
			"--collector.otlp.http.host-port", loopback(port + 1),
			"--collector.otlp.grpc.host-port", loopback(port + 2),
			// Nobody asks these.
			"--query.grpc-server.host-port", loopback(0),
			"--collector.http-server.host-port", loopback(0),
			"--collector.grpc-server.host-port", loopback(0),
			"--admin.http.host-port", loopback(0),
			"--memory.max-traces", strconv.Itoa(10_000),
		},
		dir: dir,
		// It has nothing to save, and takes ten seconds over it when it is asked.
		quit: syscall.SIGKILL,
	})
	if err != nil {
		return nil, err
	}
	return []*process{server}, nil
}

// greetJaeger asks for the names of services. Jaeger does not tell its version.
func greetJaeger(conn io.ReadWriter) (version string, err error) {
	var services struct{ Errors []any }
	return "", getJSON(conn, "/api/services", &services)
}
