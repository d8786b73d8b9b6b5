package services

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPickReadsNamesAllAndNone(t *testing.T) {
	every := []string{"rabbitmq", "redis", "postgres", "jaeger", "zipkin", "kafka", "elasticmq"}
	for _, c := range []struct {
		about, value, byDefault string
		want                    []string
	}{
		{"an empty variable is the default", "", "all", every},
		{"an empty variable is the other default", "", "none", nil},
		{"all names every service", "all", "none", every},
		{"none names no service", "none", "all", nil},
		{"names are taken in their order", "redis,rabbitmq", "all", []string{"redis", "rabbitmq"}},
		{"spaces do not count", " redis , postgres ", "all", []string{"redis", "postgres"}},
	} {
		t.Run(c.about, func(t *testing.T) {
			t.Setenv("PARLEY_SERVICES", c.value)
			got, faults := pick("PARLEY_SERVICES", c.byDefault, All())
			if !slices.Equal(got, c.want) || faults != nil {
				t.Errorf("pick(%q) = %q, %q, want %q", c.value, got, faults, c.want)
			}
		})
	}
}

func TestPickNamesTheKnownServicesForAnUnknownOne(t *testing.T) {
	for value, wrong := range map[string][]string{
		"mongo":             {`"mongo"`},
		"redis,mongo,mysql": {`"mongo"`, `"mysql"`},
		"redis,,postgres":   {`""`},
		"none,redis":        {`"none"`},
	} {
		t.Setenv("PARLEY_REQUIRE", value)
		_, faults := pick("PARLEY_REQUIRE", "none", All())
		if len(faults) != len(wrong) {
			t.Errorf("pick(%q) reports %d faults, want %d: %q", value, len(faults), len(wrong), faults)
			continue
		}
		for i, w := range wrong {
			if !strings.Contains(faults[i], "PARLEY_REQUIRE names "+w) ||
				!strings.Contains(faults[i], "rabbitmq, redis, postgres, jaeger, zipkin, kafka, elasticmq") {
				t.Errorf("pick(%q) = %q, want the variable, %s and the names that exist", value, faults[i], w)
			}
		}
	}
}

func TestAServiceHandsItsAddressToTestsInTheFormTheirDriversRead(t *testing.T) {
	want := map[string]string{
		"PARLEY_RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:1234/",
		"PARLEY_REDIS_ADDR":   "127.0.0.1:1234",
		"PARLEY_POSTGRES_URL": "postgres://postgres@127.0.0.1:1234/postgres?sslmode=disable",
		"PARLEY_JAEGER_ADDRS": "127.0.0.1:1234",
		"PARLEY_ZIPKIN_URL":   "http://127.0.0.1:1234",
		"PARLEY_KAFKA_ADDR":   "127.0.0.1:1234",
		"PARLEY_SQS_URL":      "http://127.0.0.1:1234",
	}
	for _, s := range All() {
		if got := s.address("127.0.0.1:1234"); got != want[s.Variable] {
			t.Errorf("%s = %q, want %q", s.Variable, got, want[s.Variable])
		}
		delete(want, s.Variable)
	}
	if len(want) > 0 {
		t.Errorf("All() has no service for %v", want)
	}
}

func TestTheLineOfAService(t *testing.T) {
	ours := (&Node{}).Stop
	for _, c := range []struct {
		found found
		want  string
	}{
		{found{version: "3.10.8", how: "ready", stop: ours}, "x 3.10.8 ready in 8.1 s"},
		{found{version: "3.10.8", how: "ready in Docker", stop: ours}, "x 3.10.8 ready in Docker in 8.1 s"},
		{found{version: "7.0.15", how: "reused at 127.0.0.1:6379"}, "x 7.0.15 reused at 127.0.0.1:6379"},
		{found{how: "taken from PARLEY_X"}, "x taken from PARLEY_X"},
	} {
		if got := c.found.line("x", 8123*time.Millisecond); got != c.want {
			t.Errorf("line() = %q, want %q", got, c.want)
		}
	}
}
