package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// lineBuffer collects the lines of a JSON log.
type lineBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lineBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lineBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// wait returns the lines as soon as there are n: one is written after its
// response has been sent.
func (b *lineBuffer) wait(t *testing.T, n int) []map[string]any {
	t.Helper()
	eventually(t, "log lines", func() bool { return strings.Count(b.text(), "\n") >= n })
	var lines []map[string]any
	for text := range strings.Lines(b.text()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("line %q: %v", text, err)
		}
		lines = append(lines, line)
	}
	if len(lines) != n {
		t.Fatalf("%d log lines, want %d:\n%s", len(lines), n, b.text())
	}
	return lines
}

// logged is a gateway of one target and one route with an access log.
func logged(t *testing.T, target string, r gateway.Route) (*gateway.Gateway, *lineBuffer) {
	t.Helper()
	lines := new(lineBuffer)
	return withLog(t, lines, gateway.Upstream{Targets: []string{target}}, r), lines
}

func withLog(t *testing.T, lines *lineBuffer, u gateway.Upstream, r gateway.Route) *gateway.Gateway {
	t.Helper()
	b := gateway.Builder{TrustedProxies: loopback}
	u.Name, r.Upstream = "svc", "svc"
	b.Upstream(&u)
	b.Route(r)
	b.AccessLog(gateway.AccessLog{Logger: slog.New(slog.NewJSONHandler(lines, nil))})
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gw.CloseIdleConnections)
	return gw
}

func TestEachRequestMakesOneLineInTheAccessLog(t *testing.T) {
	backend := serve(t, &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	}})
	gw, lines := logged(t, backend.URL, gateway.Route{Pattern: "GET /pots/{id}"})
	exchange(t, serve(t, gw), "GET /pots/7?secret=1 HTTP/1.1", "Host: svc", "X-Request-Id: abc", "Authorization: Bearer secret", "Cookie: secret")
	line := lines.wait(t, 1)[0]
	for key, want := range map[string]any{
		"msg": "request", "level": "INFO", "method": "GET", "route": "GET /pots/{id}", "status": 418.0, "bytes": 15.0,
		"upstream": "svc", "target": backend.Listener.Addr().String(), "attempts": 1.0, "request_id": "abc",
	} {
		if line[key] != want {
			t.Errorf("%s = %v, want %v", key, line[key], want)
		}
	}
	if d, ok := line["duration"].(float64); !ok || d <= 0 {
		t.Errorf("duration = %v, want a positive number", line["duration"])
	}
	if strings.Contains(lines.text(), "secret") {
		t.Errorf("the line has a secret: %s", lines.text())
	}
}

// P44.
func TestNothingInARequestMakesASecondLineOrColoursIt(t *testing.T) {
	backend := serve(t, new(recorder))
	requests := [][]string{
		{"GET /%0d%0aFAKE HTTP/1.1", "Host: svc"},
		{"GET /x?a=%0aFAKE HTTP/1.1", "Host: svc"},
		{"GET /caf\xc3\xa9 HTTP/1.1", "Host: svc"},
		{"GET / HTTP/1.1", "Host: svc", "X-Request-Id: FAKE\xe2\x80\xa8line"},
		{"FAKE' / HTTP/1.1", "Host: svc"},
		{"GET /nowhere/else HTTP/1.1", "Host: FAKE.example"},
	}
	for _, newHandler := range []func(io.Writer) slog.Handler{
		func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
		func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
	} {
		lines := new(lineBuffer)
		var b gateway.Builder
		b.Upstream(&gateway.Upstream{Name: "svc", Targets: []string{backend.URL}})
		b.Route(gateway.Route{Pattern: "GET svc/{x}", Upstream: "svc"})
		b.AccessLog(gateway.AccessLog{Logger: slog.New(newHandler(lines))})
		gw, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, gw)
		for _, r := range requests {
			exchange(t, s, r...)
		}
		eventually(t, "log lines", func() bool { return strings.Count(lines.text(), "\n") >= len(requests) })
		if got := strings.Count(lines.text(), "\n"); got != len(requests) {
			t.Errorf("%d lines, want %d:\n%s", got, len(requests), lines.text())
		}
		for _, c := range []byte(strings.ReplaceAll(lines.text(), "µs", "us")) {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Fatalf("the log has byte %#x:\n%s", c, lines.text())
			}
		}
		if strings.Count(lines.text(), "FAKE") > 1 { // the method alone
			t.Errorf("the log has text of the client:\n%s", lines.text())
		}
	}
}

func TestLineSaysWhyThereWasNoAnswerInPrintableText(t *testing.T) {
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "\x1b[31mnonsense\xff"+strings.Repeat("x", 4096)+"\r\n\r\n")
	})
	gw, lines := logged(t, at, everything)
	get(t, serve(t, gw).URL)
	line := lines.wait(t, 1)[0]
	why, _ := line["err"].(string)
	if line["status"] != 502.0 || !strings.Contains(why, "nonsense") || len(why) > 512 || strings.Contains(why, "\x1b") {
		t.Errorf("line %v, want status 502 and err with the cause, printable, at most 512 bytes", line)
	}
}

func TestControlCharactersOfAnErrorAreReplaced(t *testing.T) {
	lines := new(lineBuffer)
	reject := func(http.RoundTripper) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) { return nil, rejection{} })
	}
	gw := withLog(t, lines, gateway.Upstream{Targets: []string{"http://127.0.0.1:1"}, Wrap: reject}, everything)
	ask(gw, http.MethodGet, "svc", "/")
	if line := lines.wait(t, 1)[0]; line["err"] != "bulkhead ?[31m: full" {
		t.Errorf("err = %q, want it printable", line["err"])
	}
}

func TestLineSaysWhenAFallbackAnsweredAndWhenNobodyWrote(t *testing.T) {
	gw, lines := logged(t, unreachable(t), gateway.Route{Pattern: "/", Fallback: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	ask(gw, http.MethodGet, "svc", "/")
	line := lines.wait(t, 1)[0]
	if why, _ := line["err"].(string); line["fallback"] != true || line["status"] != 200.0 || !strings.Contains(why, "refused") {
		t.Errorf("log line %v, want fallback, the implied status 200 and the refused connection", line)
	}
}

func TestWithoutALoggerTheDefaultOneIsTaken(t *testing.T) {
	lines := new(lineBuffer)
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(lines, nil)))
	defer slog.SetDefault(before)
	var b gateway.Builder
	b.AccessLog(gateway.AccessLog{})
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	ask(gw, http.MethodGet, "svc", "/")
	if line := lines.wait(t, 1)[0]; line["status"] != 404.0 {
		t.Errorf("line %v, want status 404", line)
	}
}
