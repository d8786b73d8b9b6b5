// Package need lets a test say which real server it cannot do without.
package need

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/parley-go/parley/internal/services"
)

// Address returns where s is. Without it the test is skipped, or fails where
// PARLEY_REQUIRE asks for s.
func Address(t testing.TB, s services.Service) string {
	t.Helper()
	at := os.Getenv(s.Variable)
	if at == "" {
		Missing(t, s, s.Variable+" is not set: run the tests through make test, which starts "+s.Name)
	}
	note(t, s, "ran")
	return at
}

// Node starts an s of the test's own, to be stopped and killed, and ends it with
// the test. It takes some seconds, so it is done only where the run has s anyway;
// elsewhere, and where the program of s is not installed (an s in a container is
// none to kill), the test ends as [Missing] says.
func Node(t testing.TB, s services.Service) *services.Node {
	t.Helper()
	Address(t, s)
	if err := s.Installed(); err != nil {
		Missing(t, s, "the test needs a "+s.Name+" of its own: "+err.Error())
	}
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Kill(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Python returns the interpreter that has the Python client of s. Where there is
// none the test ends as [Missing] says.
func Python(t testing.TB, s services.Service) (interpreter string) {
	t.Helper()
	interpreter, err := s.PythonClient(t.Context())
	if err != nil {
		Missing(t, s, err.Error())
	}
	return interpreter
}

// Missing ends a test for want of s: it is skipped with the reason, or fails
// where PARLEY_REQUIRE asks for s.
func Missing(t testing.TB, s services.Service, reason string) {
	t.Helper()
	for name := range strings.SplitSeq(os.Getenv("PARLEY_REQUIRE"), ",") {
		if slices.Contains([]string{s.Name, "all"}, strings.TrimSpace(name)) {
			t.Fatalf("PARLEY_REQUIRE asks for %s: %s", s.Name, reason)
		}
	}
	note(t, s, "skipped")
	t.Skip(reason)
}

// note adds a line to the file of which the command run makes its summary, since
// go test says nothing of tests that pass or are skipped.
func note(t testing.TB, s services.Service, what string) {
	file := os.Getenv(services.UseVariable)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	// One write of one short line, so that several processes may append at once.
	if _, err := fmt.Fprintf(f, "%s %s %s\n", s.Name, what, t.Name()); err != nil {
		t.Fatal(err)
	}
}
