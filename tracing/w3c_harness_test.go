package tracing_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-go/parley/tracing"
)

// The harness itself is a program that no registry has, so its cases stand in
// TestW3CConformance. This runs the original where somebody has it:
//
//	git clone https://github.com/w3c/trace-context && pip install aiohttp
//	PARLEY_W3C_HARNESS=$PWD/trace-context/test go test -v -run W3CHarness ./tracing
func TestW3CHarness(t *testing.T) {
	dir := os.Getenv("PARLEY_W3C_HARNESS")
	if dir == "" {
		t.Skip("PARLEY_W3C_HARNESS does not name the directory of the harness; its cases run as TestW3CConformance")
	}
	tracer := mustNew(t, tracing.Config{Provider: &recorder{}})
	service := httptest.NewServer(tracer.Middleware(harnessService(t, &http.Client{Transport: tracer.Transport(nil)})))
	defer service.Close()

	cmd := exec.CommandContext(t.Context(), "python3", filepath.Join(dir, "test.py"), service.URL)
	cmd.Env = append(os.Environ(), "SPEC_LEVEL=2", "STRICT_LEVEL=2")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the harness ends with %v, want all of its cases ok", err)
	}
	if !bytes.Contains(out, []byte("Ran 41 tests")) {
		t.Error("the harness ran other than 41 tests: bring TestW3CConformance up to date")
	}
}

// harnessService calls what the harness asks for, within the caller's trace.
func harnessService(t *testing.T, client *http.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var calls []struct {
			URL       string          `json:"url"`
			Arguments json.RawMessage `json:"arguments"`
		}
		if err := json.NewDecoder(r.Body).Decode(&calls); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, c := range calls {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, c.URL, strings.NewReader(string(c.Arguments)))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		}
	}
}
