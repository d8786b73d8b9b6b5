package services

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A Service is a kind of real server that tests run against: what it is called,
// how to talk to it and how to run it. It holds no state.
type Service struct {
	// Name is what PARLEY_SERVICES, PARLEY_REQUIRE and compose.yaml call it.
	Name string

	// Variable is the environment variable by which tests learn its address.
	Variable string

	// Packages are the Debian packages that hold the server.
	Packages []string

	// Python are the Debian packages of a Python client that tests drive against the
	// server beside ours, "python3-" and a module's name each. nil means none.
	Python []string

	// Port is where such a server usually listens, in its container too.
	Port int

	// More are further ports of the server. One that is started by us has them
	// right above its first.
	More []int

	// advertises says that the server sends its clients to an address that it is
	// told before it starts. Its port in Docker is then ours to pick.
	advertises bool

	// address turns host:port into what Variable holds. Where there are More, it
	// gets the addresses of all, with commas between.
	address func(hostport string) string

	// greet opens a conversation in the server's protocol, as far as a
	// successful login, and returns the version that the server gives.
	greet func(conn io.ReadWriter) (version string, err error)

	// find returns the server's program, or an error if it is not installed.
	find func() (path string, err error)

	// fetch brings the program where Packages alone do not. nil means that they do.
	fetch func(ctx context.Context, say func(string)) error

	// control is the name of the program by which a running server is
	// administered, in the directory of the server's own. Empty means none.
	control string

	// launch starts the server on loopback, with all that it keeps below dir. It
	// returns the processes, also those before a failure; the server is the last.
	launch func(ctx context.Context, dir string, port int) ([]*process, error)
}

// UseVariable is the environment variable that names a file to which tests add
// the services they use, a line "SERVICE ran|skipped TEST" each.
const UseVariable = "PARLEY_SERVICE_USE"

// All returns every service that tests know.
func All() []Service {
	return []Service{
		RabbitMQ(),
		Redis(),
		Postgres(),
		Jaeger(),
		Zipkin(),
		Kafka(),
		SQS(),
	}
}

// Installed returns nil when the server's program is there, so that
// [Service.Start] can work, and otherwise says what is missing.
func (s Service) Installed() error {
	if _, err := s.find(); err != nil {
		return fmt.Errorf("services: %s: install %s: %w", s.Name, strings.Join(s.Packages, " "), err)
	}
	return nil
}

// pick returns the names that the environment variable means: "all", "none", or
// names of list with commas between. Each name that it does not know is a fault.
func pick(variable, byDefault string, list []Service) (picked, faults []string) {
	var known []string
	for _, s := range list {
		known = append(known, s.Name)
	}
	value := strings.TrimSpace(cmp.Or(os.Getenv(variable), byDefault))
	switch value {
	case "all":
		return known, nil
	case "none":
		return nil, nil
	}
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); slices.Contains(known, name) {
			picked = append(picked, name)
			continue
		}
		faults = append(faults, fmt.Sprintf("%s names %q: write all, none, or some of %s with commas between",
			variable, name, strings.Join(known, ", ")))
	}
	return picked, faults
}
