package services

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestMain is also a program of [Program], and the program that TestServersEndWithTheProgramThatStartedThem
// kills. The tests set the variables that steer Run; those of the run that they
// are part of do not count.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PARLEY_TEST_NODE"); dir != "" {
		n, err := Redis().Start(context.Background(), dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n.URL())
		select {}
	}
	if os.Getenv("PARLEY_TEST_HTTP") != "" { // the program of tests of Program
		fmt.Fprintln(os.Stderr, serveHTTP(os.Args[len(os.Args)-1]))
		os.Exit(1)
	}
	_ = os.Unsetenv("PARLEY_SERVICES")
	_ = os.Unsetenv("PARLEY_REQUIRE")
	os.Exit(m.Run())
}

// serveHTTP is what a [Program] of the tests does. GET /work uses some processor
// time.
func serveHTTP(port string) error {
	return http.ListenAndServe(net.JoinHostPort("127.0.0.1", port), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var u syscall.Rusage
		for r.URL.Path == "/work" && time.Duration(u.Utime.Nano()) < worked {
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		}
		w.Header().Set("Server", "test")
	}))
}

const worked = 200 * time.Millisecond
