package need_test

import (
	"testing"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// recorder notes how a test would have ended.
type recorder struct {
	testing.TB
	failed, skipped bool
}

func (*recorder) Helper()                 {}
func (r *recorder) Fatalf(string, ...any) { r.failed = true }
func (r *recorder) Skip(...any)           { r.skipped = true }

func TestAMissingServiceSkipsUnlessItIsRequired(t *testing.T) {
	t.Setenv(services.UseVariable, "") // what is asked for here is no use of it
	s := services.Redis()
	t.Setenv(s.Variable, "")
	for required, fails := range map[string]bool{
		"": false, "rabbitmq": false, "redis": true, "rabbitmq, redis": true, "all": true, "none": false,
	} {
		t.Setenv("PARLEY_REQUIRE", required)
		r := &recorder{TB: t}
		if got := need.Address(r, s); got != "" || r.failed != fails || !fails && !r.skipped {
			t.Errorf("PARLEY_REQUIRE=%q: Address() = %q, failed %v, skipped %v; want failed %v", required, got, r.failed, r.skipped, fails)
		}
	}
	t.Setenv(s.Variable, "127.0.0.1:1")
	if got := need.Address(t, s); got != "127.0.0.1:1" {
		t.Errorf("Address() = %q, want the value of %s", got, s.Variable)
	}
}
