package idempotency_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/parley-go/parley/idempotency"
)

// discard is a ResponseWriter that costs nothing itself.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

// body is a request body that can be sent again without allocating.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

var kilobyte = bytes.Repeat([]byte("0123456789abcdef"), 64)

// handle reads the body and answers with 1 KiB, as a small API does.
func handle(w http.ResponseWriter, r *http.Request) {
	_, _ = io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(kilobyte)
}

// floor is the least that a service would write by hand: read the body, hash
// it, look the key up, capture the response, keep it. It has no lease, bound or
// scope, and waits for nobody.
type floor struct {
	next http.Handler
	mu   sync.Mutex
	seen map[string]*kept
}

type kept struct {
	sum    [32]byte
	status int
	header http.Header
	body   []byte
}

type capture struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (c *capture) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *capture) Write(p []byte) (int, error) {
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		f.next.ServeHTTP(w, r)
		return
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	sum := sha256.Sum256(b)
	f.mu.Lock()
	k := f.seen[key]
	f.mu.Unlock()
	if k != nil {
		if k.sum != sum {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		for name, values := range k.header {
			w.Header()[name] = values
		}
		w.Header().Set("Idempotency-Replayed", "true")
		w.WriteHeader(k.status)
		_, _ = w.Write(k.body)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	c := &capture{ResponseWriter: w, status: http.StatusOK}
	f.next.ServeHTTP(c, r)
	k = &kept{sum: sum, status: c.status, header: w.Header().Clone(), body: c.body.Bytes()}
	f.mu.Lock()
	f.seen[key] = k
	f.mu.Unlock()
}

func newFloor() http.Handler {
	return &floor{next: http.HandlerFunc(handle), seen: make(map[string]*kept)}
}

func newOurs(t testing.TB) http.Handler {
	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: 10_000_000, MaxBytes: 10 << 30})
	if err != nil {
		t.Fatal(err)
	}
	g, err := idempotency.New(memory, idempotency.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mw, err := g.Middleware(idempotency.HTTP{GlobalScope: true})
	if err != nil {
		t.Fatal(err)
	}
	return mw(http.HandlerFunc(handle))
}

// caller sends requests to h with few allocations of its own, the same for all.
type caller struct {
	h   http.Handler
	req *http.Request
	w   discard
	n   int
}

func newCaller(t testing.TB, h http.Handler) *caller {
	ctx, cancel := context.WithCancel(context.Background()) // as a server's request has
	t.Cleanup(cancel)
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/orders", http.NoBody)
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(len(kilobyte))
	return &caller{h: h, req: req, w: discard{h: http.Header{}}}
}

func (c *caller) send() {
	clear(c.w.h)
	b := &body{}
	b.Reset(kilobyte)
	c.req.Body = b
	c.h.ServeHTTP(&c.w, c.req)
}

func (c *caller) first() {
	c.n++
	c.req.Header["Idempotency-Key"] = []string{"order-" + strconv.Itoa(c.n)}
	c.send()
}

func BenchmarkMiddleware(b *testing.B) {
	for _, side := range []struct {
		name string
		h    func() http.Handler
	}{
		{"bare", func() http.Handler { return http.HandlerFunc(handle) }},
		{"floor", newFloor},
		{"parley", func() http.Handler { return newOurs(b) }},
	} {
		b.Run("first/"+side.name, func(b *testing.B) {
			c := newCaller(b, side.h())
			b.ReportAllocs()
			for b.Loop() {
				c.first()
			}
		})
		b.Run("replay/"+side.name, func(b *testing.B) {
			c := newCaller(b, side.h())
			c.first()
			b.ReportAllocs()
			for b.Loop() {
				c.send()
			}
		})
	}
	b.Run("no key", func(b *testing.B) {
		memory, _ := idempotency.NewMemory(idempotency.MemoryConfig{})
		g, _ := idempotency.New(memory, idempotency.Config{})
		mw, _ := g.Middleware(idempotency.HTTP{GlobalScope: true})
		h := mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		req := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/", http.NoBody)
		w := &discard{}
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(w, req)
		}
	})
}
