package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

const want = "OrderPlaced 1 mailed\nOrderPlaced 2 mailed\nOrderPlaced 3 mailed\n"

// run runs source as a program of this module.
func run(t *testing.T, source []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "run", file).Output()
	if err != nil {
		t.Fatalf("go run: %v", err)
	}
	return string(out)
}

func source(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > 80 {
		t.Errorf("the program has %d lines, want at most 80", n)
	}
	return text
}

func TestTheProgramRunsOnTheEmbeddedBroker(t *testing.T) {
	if got := run(t, source(t)); got != want {
		t.Errorf("it printed\n%swant\n%s", got, want)
	}
}

func TestTheProgramRunsOnEveryServerWithOneLineChanged(t *testing.T) {
	for _, s := range []services.Service{services.RabbitMQ(), services.Kafka(), services.SQS()} {
		t.Run(s.Name, func(t *testing.T) {
			url := need.Address(t, s)
			switch s.Name {
			case "kafka":
				url = "kafka://" + url
			case "elasticmq":
				url = "sqs" + strings.TrimPrefix(url, "http")
			}
			changed := strings.Replace(string(source(t)), `const server = "memory"`, "const server = "+strconv.Quote(url), 1)
			if got := run(t, []byte(changed)); got != want {
				t.Errorf("it printed\n%swant\n%s", got, want)
			}
		})
	}
}
