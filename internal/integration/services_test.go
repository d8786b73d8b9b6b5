package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v3"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

func TestRedisAnswersAtTheAddressHandedOver(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: need.Address(t, services.Redis())})
	defer c.Close()
	if got, err := c.Ping(t.Context()).Result(); got != "PONG" || err != nil {
		t.Errorf("PING = %q, %v, want PONG", got, err)
	}
}

func TestPostgreSQLAnswersAtTheAddressHandedOver(t *testing.T) {
	c, err := pgx.Connect(t.Context(), need.Address(t, services.Postgres()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	var now time.Time
	if err := c.QueryRow(t.Context(), "select now()").Scan(&now); err != nil || now.IsZero() {
		t.Errorf("select now() = %v, %v, want a time", now, err)
	}
}

// The compose file is for machines with a Docker engine; this holds what can be
// held without one.
func TestComposeFileBindsLoopbackAndPinsImages(t *testing.T) {
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image       string
			Ports       []string
			Healthcheck map[string]any
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rabbitmq", "redis", "postgres", "jaeger", "zipkin", "kafka", "elasticmq"} {
		s, ok := file.Services[name]
		if !ok {
			t.Errorf("service %s is missing", name)
			continue
		}
		if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
			t.Errorf("%s: image %q is not pinned", name, s.Image)
		}
		if len(s.Healthcheck) == 0 {
			t.Errorf("%s has no health check", name)
		}
		if len(s.Ports) == 0 {
			t.Errorf("%s publishes no port", name)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %q is not bound to loopback", name, p)
			}
		}
	}
}
