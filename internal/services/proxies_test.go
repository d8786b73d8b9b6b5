//go:build unix

package services

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAProxyForwardsToItsBackend(t *testing.T) {
	for _, proxy := range []func(string) Service{Nginx, HAProxy, Caddy, CaddyLogging} {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.URL.Path+" for "+r.Header.Get("X-Forwarded-For"))
		}))
		defer backend.Close()
		s := proxy(backend.Listener.Addr().String())
		t.Run(s.Name, func(t *testing.T) {
			installed(t, s)
			n, err := s.Start(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := n.Stop(t.Context()); err != nil {
					t.Errorf("Stop() = %v, want nil", err)
				}
				down(t, n, "Stop")
			}()
			resp, err := http.Get("http://" + n.URL() + "/orders")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if want := "/orders for 127.0.0.1"; err != nil || string(body) != want {
				t.Errorf("answer = %q, %v, want %q", body, err, want)
			}
		})
	}
}

// With a file in place of the one that keeps nothing.
func TestCaddyLoggingWritesALineForEachRequest(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer backend.Close()
	file := filepath.Join(t.TempDir(), "access.log")
	s := caddy("caddy_log", backend.Listener.Addr().String(), strings.Replace(caddyLog, os.DevNull, file, 1))
	installed(t, s)
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Kill() }()
	for range 3 {
		resp, err := http.Get("http://" + n.URL() + "/orders")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if got := strings.Count(string(text), `"uri":"/orders"`); err != nil || got != 3 {
		t.Errorf("%d lines of 3 requests, %v:\n%s", got, err, text)
	}
}

// The workers of nginx serve on when their master is killed.
func TestAKilledProxyLeavesNoWorkers(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer backend.Close()
	s := Nginx(backend.Listener.Addr().String())
	installed(t, s)
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := n.Kill(); err != nil {
		t.Errorf("Kill() = %v, want nil", err)
	}
	if took := time.Since(began); took >= stragglers {
		t.Errorf("Kill() took %v: it waited for workers that hold the output open", took)
	}
	down(t, n, "Kill")
}

func TestAProxyWithoutItsBackendIsNotReady(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer broken.Close()
	_, err := Program("x", "x").hello(t.Context(), broken.Listener.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("hello() = %v, want an error that tells of 502", err)
	}
	mute := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer mute.Close()
	if _, err := Program("x", "x").hello(t.Context(), mute.Listener.Addr().String()); err == nil {
		t.Error("hello() of a server that answers nothing = nil, want an error")
	}
}

func TestAProgramOfTheCallersRunsWithItsPort(t *testing.T) {
	t.Setenv("PARLEY_TEST_HTTP", "1")
	n, err := Program("mine", os.Args[0]).Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Kill() }()
	if n.Version() != "test" {
		t.Errorf("Version() = %q, want what it calls itself", n.Version())
	}
	if _, err := Program("mine", "/nonexistent").Start(t.Context(), t.TempDir()); err == nil {
		t.Error("Start() without the program = nil, want an error")
	}
	if _, err := HAProxy("127.0.0.1:1").launch(t.Context(), filepath.Join(t.TempDir(), "none"), 1); err == nil {
		t.Error("launch() without a directory = nil, want an error")
	}
}

func TestInstallBringsWhatIsMissing(t *testing.T) {
	module := t.TempDir()
	fakes(t, map[string]string{"go": `
case "$1" in
mod) echo '{"Dir": "` + module + `"}';;
build) echo built >"$3";;
esac`})
	s := Caddy("127.0.0.1:1")
	if err := s.Installed(); err == nil {
		t.Fatal("Installed() = nil before it was built")
	}
	for _, lines := range []int{1, 0} { // the second time it is there
		var said []string
		if err := s.Install(t.Context(), func(line string) { said = append(said, line) }); err != nil || len(said) != lines {
			t.Errorf("Install() = %v, saying %q, want nil and %d lines", err, said, lines)
		}
	}
	if err := s.Installed(); err != nil {
		t.Errorf("Installed() = %v, want nil", err)
	}
	if err := Nginx("127.0.0.1:1").Install(t.Context(), quiet); err == nil || !strings.HasPrefix(err.Error(), "services: nginx: nginx-light is not installed") {
		t.Errorf("Install() without apt-get = %v, want what is missing", err)
	}
}
