// Package need lets a test say which real server it cannot do without.
package need

import (
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
	return at
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
	t.Skip(reason)
}
