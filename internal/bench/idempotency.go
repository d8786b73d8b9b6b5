package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v3"
	fiberidem "github.com/gofiber/fiber/v3/middleware/idempotency"
	"github.com/redis/go-redis/v9"
	"github.com/valyala/fasthttp"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/redisstore"
)

var kilobyte = bytes.Repeat([]byte("0123456789abcdef"), 64)

// idempotencyRows compare requests of 1 KiB that are answered by 1 KiB: without a
// key, for the first time, and again.
func idempotencyRows() []row {
	if !wanted("idempotency/") {
		return nil
	}
	none := func(http.ResponseWriter, *http.Request) {}
	oursFirst, floorFirst := first(protected), first(newFloor)
	oursAgain, floorAgain := again(protected(answer)), again(newFloor(answer))
	fiberFirst, fiberAgain := fiberLoops()
	rows := []row{
		{name: "idempotency/no_key", ours: without(protected(none)), peer: "bare_handler", them: without(http.HandlerFunc(none)), ns: 30},
		{name: "idempotency/first", ours: oursFirst, peer: "by_hand", them: floorFirst, most: 1.25, allocs: int(perOp(floorFirst)) + 10},
		{name: "idempotency/replay", ours: oursAgain, peer: "by_hand", them: floorAgain, most: 1.25, allocs: int(perOp(floorAgain)) + 10},
		// Fiber is another server below; these show only.
		{name: "idempotency/first", ours: oursFirst, peer: "fiber_v3", them: fiberFirst, allocs: -1},
		{name: "idempotency/replay", ours: oursAgain, peer: "fiber_v3", them: fiberAgain, allocs: -1},
	}
	return append(rows, redisRows()...)
}

// protected puts h behind the middleware and a memory store.
func protected(h http.HandlerFunc) http.Handler {
	memory := must(idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: 10_000_000, MaxBytes: 10 << 30}))
	guard := must(idempotency.New(memory, idempotency.Config{}))
	return must(guard.Middleware(idempotency.HTTP{GlobalScope: true}))(h)
}

// answer reads the body and answers, as a small API does.
func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(kilobyte)
}

// void is a ResponseWriter that costs nothing itself.
type void struct{ h http.Header }

func (v *void) Header() http.Header         { return v.h }
func (v *void) WriteHeader(int)             {}
func (v *void) Write(p []byte) (int, error) { return len(p), nil }

// reread is a request body that is sent again and again.
type reread struct{ bytes.Reader }

func (*reread) Close() error { return nil }

// sender returns what sends a request to h, with the key that is set in it.
func sender(h http.Handler) (send func(), req *http.Request) {
	// A context that can end, as that of a server's request; nobody ends this one.
	ctx, cancel := context.WithCancel(context.Background())
	_ = cancel
	req = httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/orders", http.NoBody)
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(len(kilobyte))
	w := &void{h: http.Header{}}
	return func() {
		clear(w.h)
		b := &reread{}
		b.Reset(kilobyte)
		req.Body = b
		h.ServeHTTP(w, req)
	}, req
}

// first sends a new key each time, to a store that is emptied now and then: what
// a growing heap costs depends on where in a loop its last collection falls, and
// that is chance.
func first(protect func(http.HandlerFunc) http.Handler) loop {
	const enough = 2000
	return func(n int) {
		var send func()
		var req *http.Request
		for k := range n {
			if k%enough == 0 {
				send, req = sender(protect(answer))
			}
			req.Header["Idempotency-Key"] = []string{"order-" + strconv.Itoa(k)}
			send()
		}
	}
}

// again sends one key for ever.
func again(h http.Handler) loop {
	send, req := sender(h)
	req.Header.Set("Idempotency-Key", "the same")
	return func(n int) {
		for range n {
			send()
		}
	}
}

// without sends no key, and no body either, since nothing reads it.
func without(h http.Handler) loop {
	req := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/", http.NoBody)
	w := &void{}
	return func(n int) {
		for range n {
			h.ServeHTTP(w, req)
		}
	}
}

// byHand is the least that a service would write by itself: read the body, hash it,
// look the key up, capture the response, keep it. It has no lease, bound, expiry or
// scope, and waits for nobody.
type byHand struct {
	next http.Handler
	mu   sync.Mutex
	seen map[string]*kept // guarded by mu
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

func newFloor(h http.HandlerFunc) http.Handler {
	return &byHand{next: h, seen: make(map[string]*kept)}
}

func (f *byHand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Idempotency-Key")
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

// fiberLoops send to fiber's middleware, which looks at keys of 36 characters and at
// nothing else of a request.
func fiberLoops() (first, again loop) {
	app := fiber.New()
	app.Use(fiberidem.New())
	app.Post("/v1/orders", func(c fiber.Ctx) error {
		_ = c.Body()
		c.Set("Content-Type", "application/json")
		return c.Status(http.StatusCreated).Send(kilobyte)
	})
	serve := app.Handler()
	var ctx fasthttp.RequestCtx
	send := func(key string) {
		ctx.Response.Reset()
		ctx.Request.Reset()
		ctx.Request.Header.SetMethod(http.MethodPost)
		ctx.Request.SetRequestURI("/v1/orders")
		ctx.Request.Header.SetContentType("application/json")
		ctx.Request.Header.Set("X-Idempotency-Key", key)
		ctx.Request.SetBodyRaw(kilobyte)
		serve(&ctx)
	}
	k := 0
	first = func(n int) {
		for range n {
			k++
			send(fmt.Sprintf("%036d", k))
		}
	}
	again = func(n int) {
		for range n {
			send("8e03978e-40d5-43e8-bc93-6894a57f9324")
		}
	}
	return first, again
}

// trips counts the round trips of a client.
type trips struct{ n atomic.Int64 }

func (*trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		t.n.Add(1)
		return next(ctx, cmd)
	}
}

func (*trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// redisRows show what a call through Redis costs this process beside as many raw
// commands. They end the program where a call takes more round trips than promised.
func redisRows() []row {
	addr := os.Getenv("PARLEY_REDIS_ADDR")
	if addr == "" {
		fmt.Fprintln(os.Stderr, "idempotency/redis_*: skipped, PARLEY_REDIS_ADDR is not set")
		return nil
	}
	// The records of a run are gone soon after it.
	const ttl = time.Minute
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	store := must(redisstore.New(client, redisstore.Config{Prefix: fmt.Sprintf("bench-%d:", os.Getpid())}))
	guard := must(idempotency.New(store, idempotency.Config{TTL: ttl, Lease: ttl}))
	one := func(context.Context) (int, error) { return 1, nil }
	call := func(key string) {
		_, _, err := idempotency.Value(ctx, guard, idempotency.Key{Scope: "bench", ID: key}, one)
		check(err)
	}
	k := 0
	oursFirst := func(n int) {
		for range n {
			k++
			call(strconv.Itoa(k))
		}
	}
	oursAgain := func(n int) {
		for range n {
			call("the same")
		}
	}
	raw := func(commands int) loop {
		return func(n int) {
			for range n {
				for range commands {
					must(client.Set(ctx, "bench-raw", "x", ttl).Result())
				}
			}
		}
	}
	oursFirst(1) // loads the scripts
	oursAgain(1)
	counted := new(trips)
	client.AddHook(counted)
	for want, l := range map[int64]loop{2: oursFirst, 1: oursAgain} {
		counted.n.Store(0)
		if l(1); counted.n.Load() != want {
			check(fmt.Errorf("idempotency/redis: %d round trips, want %d", counted.n.Load(), want))
		}
	}
	return []row{
		{name: "idempotency/redis_first_2_trips", ours: oursFirst, peer: "2_raw_commands", them: raw(2), allocs: -1},
		{name: "idempotency/redis_replay_1_trip", ours: oursAgain, peer: "1_raw_command", them: raw(1), allocs: -1},
	}
}
