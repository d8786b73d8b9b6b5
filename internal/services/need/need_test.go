package need_test

import (
	"net"
	"os/exec"
	"runtime"
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

func TestAMissingPythonClientSkipsUnlessItIsRequired(t *testing.T) {
	t.Setenv(services.UseVariable, "")
	s := services.Kafka()
	s.Python = []string{"python3-no_such_module"}
	for required, fails := range map[string]bool{"": false, "kafka": true} {
		t.Setenv("PARLEY_REQUIRE", required)
		r := &recorder{TB: t}
		if got := need.Python(r, s); got != "" || r.failed != fails || !fails && !r.skipped {
			t.Errorf("PARLEY_REQUIRE=%q: Python() = %q, failed %v, skipped %v; want failed %v", required, got, r.failed, r.skipped, fails)
		}
	}
	s.Python = []string{"python3-json"} // which is there wherever Python is
	if _, err := exec.LookPath("python3"); err == nil && need.Python(t, s) == "" {
		t.Error("Python() = \"\", want an interpreter")
	}
}

// ender is a recorder that ends the goroutine of its test, as a test does.
type ender struct{ recorder }

func (e *ender) Skip(...any) {
	e.skipped = true
	runtime.Goexit()
}

func TestANodeNeedsARunWithTheServiceAndItsProgram(t *testing.T) {
	t.Setenv(services.UseVariable, "")
	t.Setenv("PARLEY_REQUIRE", "")
	s := services.Redis()
	for name, set := range map[string]func(t *testing.T){
		"a run without the service": func(t *testing.T) { t.Setenv(s.Variable, "") },
		"a machine without the program": func(t *testing.T) {
			t.Setenv(s.Variable, "127.0.0.1:1")
			t.Setenv("PATH", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			set(t)
			e := &ender{recorder{TB: t}}
			done := make(chan struct{})
			go func() {
				defer close(done)
				need.Node(e, s)
			}()
			<-done
			if !e.skipped {
				t.Error("Node() does not skip the test")
			}
		})
	}
}

func TestANodeEndsWithItsTest(t *testing.T) {
	t.Setenv(services.UseVariable, "")
	s := services.Redis()
	if err := s.Installed(); err != nil {
		t.Skip(err)
	}
	t.Setenv(s.Variable, "127.0.0.1:1")
	var node *services.Node
	t.Run("a test", func(t *testing.T) {
		node = need.Node(t, s)
		if err := node.Start(t.Context()); err == nil {
			t.Error("Start() = nil, want an error: the node is up")
		}
	})
	c, err := net.Dial("tcp", node.URL())
	if err == nil {
		_ = c.Close()
		t.Error("the server still listens after the test")
	}
}
