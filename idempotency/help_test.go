package idempotency_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/idempotency"
)

var errStore = errors.New("connection refused")

// faultyStore is a Store whose steps can be made to fail or to be late.
type faultyStore struct {
	idempotency.Store
	mu      sync.Mutex
	fail    map[string]error              // by method; guarded by mu
	before  func(context.Context, string) // set before use
	extends int                           // guarded by mu
}

func newFaulty(t testing.TB) *faultyStore {
	return &faultyStore{Store: newMemory(t, idempotency.MemoryConfig{}), fail: make(map[string]error)}
}

func (s *faultyStore) set(method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[method] = err
}

func (s *faultyStore) step(ctx context.Context, method string) error {
	if s.before != nil {
		s.before(ctx, method)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail[method]
}

func (s *faultyStore) Acquire(ctx context.Context, c idempotency.Claim) (idempotency.Outcome, error) {
	if err := s.step(ctx, "acquire"); err != nil {
		return idempotency.Outcome{}, err
	}
	return s.Store.Acquire(ctx, c)
}

func (s *faultyStore) Complete(ctx context.Context, id idempotency.ID, token int64, r idempotency.Result, ttl time.Duration) error {
	if err := s.step(ctx, "complete"); err != nil {
		return err
	}
	return s.Store.Complete(ctx, id, token, r, ttl)
}

func (s *faultyStore) Release(ctx context.Context, id idempotency.ID, token int64) error {
	if err := s.step(ctx, "release"); err != nil {
		return err
	}
	return s.Store.Release(ctx, id, token)
}

func (s *faultyStore) Extend(ctx context.Context, id idempotency.ID, token int64, lease time.Duration) error {
	s.mu.Lock()
	s.extends++
	s.mu.Unlock()
	if err := s.step(ctx, "extend"); err != nil {
		return err
	}
	return s.Store.Extend(ctx, id, token, lease)
}

// events collects what OnOutcome is told.
type events struct {
	mu  sync.Mutex
	all []idempotency.Event
}

func (e *events) add(_ context.Context, ev idempotency.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

// endings returns how the calls ended, and forgets them.
func (e *events) endings() []idempotency.Ending {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []idempotency.Ending
	for _, ev := range e.all {
		all = append(all, ev.Ending)
	}
	e.all = nil
	return all
}

// last returns the last event.
func (e *events) last() idempotency.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.all) == 0 {
		return idempotency.Event{}
	}
	return e.all[len(e.all)-1]
}

// newGuard returns a Guard over store, or over a new Memory, that reports to the
// events.
func newGuard(t testing.TB, store idempotency.Store, config idempotency.Config) (*idempotency.Guard, *events) {
	t.Helper()
	if store == nil {
		store = newMemory(t, idempotency.MemoryConfig{})
	}
	e := new(events)
	config.OnOutcome = e.add
	g, err := idempotency.New(store, config)
	if err != nil {
		t.Fatal(err)
	}
	return g, e
}

var charge = idempotency.Key{Scope: "charge", ID: "order-1"}

// counter returns a function for Value that returns how often it ran.
func counter() (*int, func(context.Context) (int, error)) {
	n := new(int)
	return n, func(context.Context) (int, error) {
		*n++
		return *n, nil
	}
}

// service is a handler behind the middleware.
type service struct {
	http.Handler
	guard  *idempotency.Guard
	events *events
	runs   atomic.Int32
}

// newService puts handle, or a handler that answers 201 and counts, behind the
// middleware. A config without scope gets the global one.
func newService(t testing.TB, store idempotency.Store, config idempotency.HTTP, handle http.HandlerFunc) *service {
	t.Helper()
	s := new(service)
	s.guard, s.events = newGuard(t, store, idempotency.Config{})
	config.GlobalScope = config.Scope == nil
	mw, err := s.guard.Middleware(config)
	if err != nil {
		t.Fatal(err)
	}
	s.Handler = mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.runs.Add(1)
		if handle != nil {
			handle(w, r)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "order %d", n)
	}))
	return s
}

// request describes a request by its differences from one that is fine.
type request struct {
	method, target, key, body string
	header                    []string // names and values
	ctx                       context.Context
}

func (r request) build(t testing.TB) *http.Request {
	t.Helper()
	ctx := r.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	req := httptest.NewRequestWithContext(ctx, cmp.Or(r.method, "POST"), cmp.Or(r.target, "http://shop.test/orders"), strings.NewReader(r.body))
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	for i := 0; i+1 < len(r.header); i += 2 {
		req.Header.Add(r.header[i], r.header[i+1])
	}
	return req
}

// send serves the request and returns the answer.
func (s *service) send(t testing.TB, r request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.build(t))
	return w
}

// kind returns the kind of problem that an answer describes, "" for none. The
// service's DocsURL must be docsURL.
func kind(w *httptest.ResponseRecorder) string {
	if w.Header().Get("Content-Type") != "application/problem+json" {
		return ""
	}
	var p struct{ Type string }
	_ = json.Unmarshal(w.Body.Bytes(), &p)
	return strings.TrimPrefix(p.Type, docsURL+"#")
}

const docsURL = "https://shop.test/docs/idempotency"

// wantAnswer checks status, kind of problem and replay marker.
func wantAnswer(t testing.TB, what string, w *httptest.ResponseRecorder, status int, problem string, replayed bool) {
	t.Helper()
	if w.Code != status || kind(w) != problem || (w.Header().Get("Idempotency-Replayed") == "true") != replayed {
		t.Errorf("%s = %d %q replayed %q %s, want %d %q replayed %t",
			what, w.Code, kind(w), w.Header().Get("Idempotency-Replayed"), w.Body, status, problem, replayed)
	}
}

func (s *service) wantRuns(t testing.TB, want int32) {
	t.Helper()
	if got := s.runs.Load(); got != want {
		t.Errorf("the handler ran %d times, want %d", got, want)
	}
}
