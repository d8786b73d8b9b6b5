package idempotency

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parley-go/parley/idempotency"
)

// counting is a Store that counts the claims it is asked for.
type counting struct {
	idempotency.Store
	claims atomic.Int32
}

func (c *counting) Acquire(ctx context.Context, claim idempotency.Claim) (idempotency.Outcome, error) {
	c.claims.Add(1)
	return c.Store.Acquire(ctx, claim)
}

// journal is a log that may be written while it is read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// endless is a body of n bytes that takes no memory.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), e.left)
	e.left -= n
	return int(n), nil
}

// secret is in every key, so that it can be looked for.
const secret = "s3cr3t"

func TestBadRequestsAreRefusedOverTheWireWithTheStoreUntouchedAndTheKeyNowhere(t *testing.T) {
	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	store, logged := &counting{Store: memory}, new(journal)
	g := newGuard(t, store, idempotency.Config{OnOutcome: func(_ context.Context, e idempotency.Event) { fmt.Fprintf(logged, "%+v\n", e) }})
	once, err := g.Middleware(idempotency.HTTP{
		Scope:    func(r *http.Request) (string, error) { return r.Header.Get("X-Tenant"), nil },
		Required: true,
		DocsURL:  "https://shop.test/docs",
	})
	if err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int32
	server := httptest.NewUnstartedServer(once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		w.WriteHeader(http.StatusCreated)
	})))
	server.Config.ErrorLog = log.New(logged, "", 0)
	server.Start()
	defer server.Close()

	send := func(path, tenant string, keys []string, body io.Reader, length int64) (status int, text string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if length != 0 {
			req.ContentLength = length
		}
		req.Header.Set("X-Tenant", tenant)
		for _, k := range keys {
			req.Header.Add("Idempotency-Key", k)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, fmt.Sprint(string(answer), resp.Header)
	}
	const large = 200 << 20
	one := []string{secret}
	for _, c := range []struct {
		name   string
		keys   []string
		body   io.Reader
		length int64
		status int
		kind   string
	}{
		{"a missing key", nil, strings.NewReader("{}"), 0, 400, "key-missing"},
		{"an empty key", []string{""}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"an empty string", []string{`""`}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"a key of 256 characters", []string{secret + strings.Repeat("k", 250)}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"two keys", []string{secret, secret + "2"}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"a list of keys", []string{secret + ", " + secret + "2"}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"an open quote", []string{`"` + secret}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"a key that is not ASCII", []string{secret + "é"}, strings.NewReader("{}"), 0, 400, "key-invalid"},
		{"a body of 200 MB", one, &endless{large}, large, 413, "body-too-large"},
		{"a body of 200 MB that does not say so", one, &endless{large}, -1, 413, "body-too-large"},
	} {
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		status, text := send("/orders", "acme", c.keys, c.body, c.length)
		runtime.ReadMemStats(&is)
		if status != c.status || !strings.Contains(text, "https://shop.test/docs#"+c.kind) || !strings.Contains(text, "application/problem+json") {
			t.Errorf("%s = %d %s, want %d %s", c.name, status, text, c.status, c.kind)
		}
		if strings.Contains(text, secret) {
			t.Errorf("the answer to %s has the key: %s", c.name, text)
		}
		// Client and server together; 1 MiB is the bound of a body.
		if allocated := is.TotalAlloc - was.TotalAlloc; allocated > 16<<20 {
			t.Errorf("%s took %d bytes of memory", c.name, allocated)
		}
	}
	if runs.Load() != 0 || store.claims.Load() != 0 {
		t.Errorf("the handler ran %d times and the store was asked %d times, want 0", runs.Load(), store.claims.Load())
	}

	for _, c := range []struct {
		name, path, tenant, body string
		status                   int
	}{
		{"the first request", "/orders", "acme", "tea", 201},
		{"another body", "/orders", "acme", "coffee", 422},
		{"another route", "/refunds", "acme", "tea", 422},
		{"another query", "/orders?n=2", "acme", "tea", 422},
		{"another tenant", "/orders", "globex", "coffee", 201},
		{"the first request again", "/orders", "acme", "tea", 201},
	} {
		status, text := send(c.path, c.tenant, one, strings.NewReader(c.body), 0)
		if status != c.status || strings.Contains(text, secret) {
			t.Errorf("%s = %d %s, want %d without the key", c.name, status, text, c.status)
		}
	}
	if runs.Load() != 2 {
		t.Errorf("the handler ran %d times, want once for each tenant", runs.Load())
	}
	server.Close()
	if text := logged.String(); strings.Contains(text, secret) || text == "" {
		t.Errorf("the log has the key, or nothing: %s", text)
	}
}
