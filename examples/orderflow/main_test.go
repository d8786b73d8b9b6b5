package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/examples/orderflow/system"
)

// curls returns the lines of text that begin with curl.
func curls(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "curl ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func readme(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return curls(string(b))
}

const documented = "http://127.0.0.1:8080"

func TestTheProgramPrintsTheCommandsOfTheReadme(t *testing.T) {
	if got, want := curls(hints(documented)), readme(t); len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("the program prints\n%s\nthe README shows\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheCommandsOfTheReadmeWorkWhenPasted(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	sys, err := system.New(system.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sys.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	}()
	select {
	case <-sys.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("not ready after 30s")
	}

	paste := func(line string) string {
		line = strings.ReplaceAll(line, documented, sys.URL())
		out, err := exec.CommandContext(ctx, "sh", "-c", line).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return string(out)
	}
	lines := readme(t)
	for i, want := range []string{`"email":"customer123@example.com"`, `"available":1000`, "HTTP/1.1 201 Created"} {
		if out := paste(lines[i]); !strings.Contains(out, want) {
			t.Errorf("%s\nprinted %s\nwant %s in it", lines[i], out, want)
		}
	}
	if again := paste(lines[2]); !strings.Contains(again, "Idempotency-Replayed: true") {
		t.Errorf("the last one again printed %s\nwant Idempotency-Replayed: true in it", again)
	}
}

func TestABadFlagIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for args, want := range map[string]string{
		"-broker=nats://localhost":  "amqp://USER:SECRET@HOST:PORT/",
		"-broker=kafka://localhost": "host:port",
		"-broker=sqs://10.0.0.1:80": "not on loopback",
		"-broker=sqs://127.0.0.1":   "want sqs://127.0.0.1:PORT",
		"-addr=127.0.0.1:http-ish":  "choose another address with -addr",
		"-smoke -broker=amqp://%zz": "amqp://user:password@host",
		"-smoke -addr=127.0.0.1:1":  "leave out -addr",
		"-smtp=http://mail.example": "want smtp://",
		"-nonsense":                 "-nonsense",
		"smoke":                     "-h lists them",
	} {
		if err := run(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run(%s) = %v, want an error that says %q", args, err, want)
		}
	}
}
