package idempotency_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/idempotency"
)

func TestMiddlewareRefusesAConfigThatLeavesOpenWhoseAKeyIs(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	for name, c := range map[string]struct {
		config idempotency.HTTP
		want   string
	}{
		"no scope": {idempotency.HTTP{}, "neither Scope nor GlobalScope is set: say whose a key is"},
		"both": {
			idempotency.HTTP{GlobalScope: true, Scope: func(*http.Request) (string, error) { return "", nil }},
			"both Scope and GlobalScope are set",
		},
		"all the rest": {
			idempotency.HTTP{
				GlobalScope: true, Methods: []string{"", "post"}, MaxBody: -1, MaxStored: -2, Wait: -3, DocsURL: "/docs",
				DropHeaders: []string{"", "X-A: b"},
			},
			`method "" is not an upper-case name; method "post" is not an upper-case name; DropHeaders: "" is not the name of a header; ` +
				`DropHeaders: "X-A: b" is not the name of a header; MaxBody -1 is negative; ` +
				`MaxStored -2 is negative; Wait -3ns is negative; DocsURL: "/docs" is not an absolute http or https URL`,
		},
		"a DocsURL that is none":         {idempotency.HTTP{GlobalScope: true, DocsURL: "http://a b"}, "DocsURL: not a URL"},
		"a DocsURL with fragment":        {idempotency.HTTP{GlobalScope: true, DocsURL: "http://a/#b"}, `DocsURL: "http://a/#b" has a fragment or a character that a Link cannot carry`},
		"a DocsURL that breaks the Link": {idempotency.HTTP{GlobalScope: true, DocsURL: "http://a/>b"}, `DocsURL: "http://a/>b" has a fragment or a character that a Link cannot carry`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := g.Middleware(c.config)
			if want := "idempotency: HTTP config: " + c.want; err == nil || err.Error() != want {
				t.Errorf("Middleware() = %v, want %s", err, want)
			}
		})
	}
	var none *idempotency.Guard
	if _, err := none.Middleware(idempotency.HTTP{GlobalScope: true}); err == nil {
		t.Error("Middleware() of a nil Guard = nil, want an error")
	}
}

func TestARepeatedRequestGetsTheSameAnswerWithoutASecondRun(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, nil)
	first := s.send(t, request{key: "k", body: "tea"})
	wantAnswer(t, "the first request", first, http.StatusCreated, "", false)
	for range 2 {
		again := s.send(t, request{key: "k", body: "tea"})
		wantAnswer(t, "the repeated request", again, http.StatusCreated, "", true)
		if again.Body.String() != first.Body.String() {
			t.Errorf("body = %q, want %q", again.Body, first.Body)
		}
	}
	s.wantRuns(t, 1)
	for i := range 2 {
		other := s.send(t, request{key: "l", body: "tea"})
		wantAnswer(t, "another key", other, http.StatusCreated, "", i > 0)
		if other.Body.String() != "order 2" {
			t.Errorf("another key = %q, want the answer of a run of its own", other.Body)
		}
	}
}

func TestErrorsAreProblemDetailsThatNoCacheKeepsWithALinkToTheDocs(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{Required: true, DocsURL: docsURL}, nil)
	w := s.send(t, request{})
	wantAnswer(t, "a request without a key", w, http.StatusBadRequest, "key-missing", false)
	for name, want := range map[string]string{
		"Content-Type": "application/problem+json", "Cache-Control": "no-store",
		"Link": "<" + docsURL + `>; rel="describedby"; type="text/html"`,
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	plain := newService(t, nil, idempotency.HTTP{Required: true}, nil).send(t, request{})
	if got := plain.Header().Get("Link"); got != "" || strings.Contains(plain.Body.String(), `"type"`) {
		t.Errorf("without DocsURL: Link %q, body %s, want neither a link nor a type", got, plain.Body)
	}
}

func TestARequestWithoutAKeyIsRefusedOnlyWhereAKeyIsRequired(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, nil)
	for range 2 {
		wantAnswer(t, "optional", s.send(t, request{}), http.StatusCreated, "", false)
	}
	s.wantRuns(t, 2)
	if got := s.events.endings(); got != nil {
		t.Errorf("events without a key: %v, want none", got)
	}
	s = newService(t, nil, idempotency.HTTP{Required: true, DocsURL: docsURL}, nil)
	wantAnswer(t, "required", s.send(t, request{}), http.StatusBadRequest, "key-missing", false)
	s.wantRuns(t, 0)
	if got := s.events.last(); got.Ending != idempotency.EndInvalid || got.Kind != "http" || !errors.Is(got.Err, idempotency.ErrKey) {
		t.Errorf("event = %+v, want invalid, http, ErrKey", got)
	}
}

func TestMalformedKeysAreRefusedBeforeTheStoreIsAsked(t *testing.T) {
	store := newFaulty(t)
	store.set("acquire", errStore) // a store that is asked answers 503
	s := newService(t, store, idempotency.HTTP{DocsURL: docsURL}, nil)
	for name, lines := range map[string][]string{
		"empty":           {""},
		"an empty string": {`""`},
		"256 characters":  {strings.Repeat("k", 256)},
		"a tab":           {"a\tb"},
		"not ASCII":       {"schlüssel"},
		"a list":          {"a, b"},
		"two lines":       {"a", "b"},
		"twice the same":  {"a", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			req := request{}.build(t)
			req.Header["Idempotency-Key"] = lines
			w := httptest.NewRecorder()
			s.ServeHTTP(w, req)
			wantAnswer(t, "the request", w, http.StatusBadRequest, "key-invalid", false)
		})
	}
	s.wantRuns(t, 0)
}

func TestQuotedAndBareKeysAreOneKeyUnlessStrict(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, nil)
	s.send(t, request{key: "k"})
	wantAnswer(t, "the same key in quotes", s.send(t, request{key: `"k"`}), http.StatusCreated, "", true)
	s = newService(t, nil, idempotency.HTTP{Strict: true, DocsURL: docsURL}, nil)
	wantAnswer(t, "a bare key", s.send(t, request{key: "k"}), http.StatusBadRequest, "key-invalid", false)
	wantAnswer(t, "a quoted key", s.send(t, request{key: `"k"`}), http.StatusCreated, "", false)
}

func TestTheSameKeyWithAnotherPayloadIsRefused(t *testing.T) {
	first := request{key: "k", body: "tea", header: []string{"Content-Type", "text/plain", "Content-Encoding", "identity"}}
	for name, change := range map[string]func(*request){
		"another body":             func(r *request) { r.body = "coffee" },
		"another path":             func(r *request) { r.target = "http://shop.test/refunds" },
		"another query":            func(r *request) { r.target = "http://shop.test/orders?n=2" },
		"another method":           func(r *request) { r.method = "PATCH" },
		"another Content-Type":     func(r *request) { r.header = []string{"Content-Type", "text/html", "Content-Encoding", "identity"} },
		"another Content-Encoding": func(r *request) { r.header = []string{"Content-Type", "text/plain"} },
		"parts that join to the same": func(r *request) {
			r.header = []string{"Content-Type", "text/plainidentity"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			other := first
			change(&other)
			var s *service
			s = newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, _ *http.Request) {
				wantAnswer(t, "while the first runs", s.send(t, other), http.StatusUnprocessableEntity, "key-reused", false)
				w.WriteHeader(http.StatusCreated)
			})
			s.send(t, first)
			wantAnswer(t, "after the first is done", s.send(t, other), http.StatusUnprocessableEntity, "key-reused", false)
			wantAnswer(t, "the first again", s.send(t, first), http.StatusCreated, "", true)
			s.wantRuns(t, 1)
		})
	}
}

func TestCanonicalJSONComparesWhatTheJSONSays(t *testing.T) {
	for name, c := range map[string]struct {
		one, two string
		same     bool
	}{
		"white space":              {`{"a":1,"b":[2]}`, " {\n \"a\": 1, \"b\": [ 2 ] }", true},
		"order of members":         {`{"a":1,"b":2}`, `{"b":2,"a":1}`, true},
		"escapes":                  {`"\u0041<"`, `"A\u003c"`, true},
		"order of elements":        {`[1,2]`, `[2,1]`, false},
		"another value":            {`{"a":1}`, `{"a":2}`, false},
		"large numbers":            {`9007199254740993`, `9007199254740992`, false},
		"a number and a string":    {`1`, `"1"`, false},
		"a second value":           {`{"a":1}`, `{"a":1}{"b":2}`, false},
		"different second values":  {`1 2`, `1 3`, false},
		"bodies that are not JSON": {`{"a":1`, `{"a": 1`, false},
		"bytes that are not UTF-8": {"\"\xff\"", "\"\xfe\"", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{Fingerprint: idempotency.CanonicalJSON, DocsURL: docsURL}, nil)
			s.send(t, request{key: "k", body: c.one})
			w := s.send(t, request{key: "k", body: c.two})
			if c.same {
				wantAnswer(t, "the second body", w, http.StatusCreated, "", true)
			} else {
				wantAnswer(t, "the second body", w, http.StatusUnprocessableEntity, "key-reused", false)
			}
		})
	}
	s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, nil)
	s.send(t, request{key: "k", body: `{"a":1}`})
	wantAnswer(t, "by default other white space", s.send(t, request{key: "k", body: `{"a": 1}`}), http.StatusUnprocessableEntity, "key-reused", false)
}

func TestTheSameKeyOfAnotherTenantIsAnotherKey(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{
		DocsURL: docsURL,
		Scope: func(r *http.Request) (string, error) {
			if tenant := r.Header.Get("Tenant"); tenant != "?" {
				return tenant, nil
			}
			return "", errors.New("secret: no session")
		},
	}, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "of "+r.Header.Get("Tenant"))
	})
	a := request{key: "k", body: "tea", header: []string{"Tenant", "a"}}
	b := request{key: "k", body: "coffee", header: []string{"Tenant", "b"}}
	s.send(t, a)
	if w := s.send(t, b); w.Code != http.StatusOK || w.Body.String() != "of b" {
		t.Errorf("tenant b with a's key = %d %s, want its own answer and no hint of a's", w.Code, w.Body)
	}
	if w := s.send(t, a); w.Body.String() != "of a" || w.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("tenant a again = %s, want its replay", w.Body)
	}
	s.wantRuns(t, 2)
	for _, unknown := range []string{"", "?"} {
		w := s.send(t, request{key: "k", header: []string{"Tenant", unknown}})
		wantAnswer(t, "a request of nobody", w, http.StatusInternalServerError, "scope-unknown", false)
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("the answer %s tells the client what Scope said", w.Body)
		}
	}
	s.wantRuns(t, 2)
}

func TestOtherMethodsPassUntouchedUnlessListed(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL, Required: true}, nil)
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE"} {
		for _, key := range []string{"k", "", "a, b"} {
			wantAnswer(t, method, s.send(t, request{method: method, key: key}), http.StatusCreated, "", false)
		}
	}
	s.wantRuns(t, 15)
	s = newService(t, nil, idempotency.HTTP{Methods: []string{"DELETE"}}, nil)
	for i := range 2 {
		wantAnswer(t, "DELETE", s.send(t, request{method: "DELETE", key: "k"}), http.StatusCreated, "", i > 0)
		wantAnswer(t, "POST", s.send(t, request{key: "k"}), http.StatusCreated, "", false)
	}
}

func TestOfNestedMiddlewaresTheOutermostActs(t *testing.T) {
	inner := newService(t, nil, idempotency.HTTP{}, nil)
	mw, err := inner.guard.Middleware(idempotency.HTTP{GlobalScope: true, DocsURL: docsURL})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{Handler: mw(inner)}
	for i := range 2 {
		wantAnswer(t, "through both", s.send(t, request{key: "k"}), http.StatusCreated, "", i > 0)
	}
	inner.wantRuns(t, 1)
}

func TestARequestInsideAnotherIsProtectedByItsOwnKey(t *testing.T) {
	inner := newService(t, nil, idempotency.HTTP{Required: true, DocsURL: docsURL}, nil)
	mw, err := inner.guard.Middleware(idempotency.HTTP{GlobalScope: true, DocsURL: docsURL})
	if err != nil {
		t.Fatal(err)
	}
	outer := &service{Handler: mw(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		call := func(ctx context.Context, what, key string, status int, problem string, replayed bool) {
			t.Helper()
			wantAnswer(t, what, inner.send(t, request{key: key, ctx: ctx, target: "http://shop.test/charge"}), status, problem, replayed)
		}
		for i := range 2 {
			call(r.Context(), "another key", "charge", http.StatusCreated, "", i > 0)
		}
		call(r.Context(), "without a key", "", http.StatusBadRequest, "key-missing", false)
		inner.wantRuns(t, 1)
		call(r.Context(), "the key that is held", "order", http.StatusCreated, "", false)
		inner.wantRuns(t, 2)
		_, _, err := idempotency.Value(r.Context(), inner.guard, charge, func(ctx context.Context) (int, error) {
			call(ctx, "the key that is held, with a Value between", "order", http.StatusCreated, "", false)
			return 1, nil
		})
		if err != nil {
			t.Errorf("Value() = %v, want nil", err)
		}
		inner.wantRuns(t, 3)
	}))}
	outer.send(t, request{key: "order"})
	inner.wantRuns(t, 3)
}

func TestARepeatedRequestGetsTheReplayFromAnotherInstanceOfTheService(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, nil)
	for i, host := range []string{"10.0.0.1:8080", "10.0.0.2:8080"} { // as a gateway asks for them
		w := s.send(t, request{key: "k", target: "http://" + host + "/orders"})
		wantAnswer(t, "the request to "+host, w, http.StatusCreated, "", i > 0)
	}
	s.wantRuns(t, 1)
}

func TestThePatternOfAServeMuxInsideIsSeenOutside(t *testing.T) {
	for name, broken := range map[string]bool{"the store works": false, "it fails open": true} {
		t.Run(name, func(t *testing.T) {
			store := newFaulty(t)
			if broken {
				store.set("acquire", errStore)
			}
			mux := http.NewServeMux()
			mux.HandleFunc("POST /orders/{id}", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			s := newService(t, store, idempotency.HTTP{FailOpen: true}, mux.ServeHTTP)
			r := request{key: "k", target: "http://shop.test/orders/7"}.build(t)
			func() {
				defer func() { _ = recover() }()
				s.ServeHTTP(httptest.NewRecorder(), r)
			}()
			if got, want := r.Pattern, "POST /orders/{id}"; got != want {
				t.Errorf("Pattern = %q, want %q", got, want)
			}
		})
	}
}

func TestOfFiftyAtOnceOneRunsAndTheOthersAreToldWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(500 * time.Millisecond)
			w.WriteHeader(http.StatusCreated)
		})
		var created, busy atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				switch w := s.send(t, request{key: "k"}); {
				case w.Code == http.StatusCreated:
					created.Add(1)
				case w.Code == http.StatusConflict && kind(w) == "in-progress" && w.Header().Get("Retry-After") == "30":
					busy.Add(1)
				}
			})
		}
		all.Wait()
		s.wantRuns(t, 1)
		if created.Load() != 1 || busy.Load() != 49 {
			t.Errorf("%d created and %d busy, want 1 and 49", created.Load(), busy.Load())
		}
	})
}

func TestRetryAfterIsAtMostHalfAMinute(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{Lease: time.Hour})
	mw, err := g.Middleware(idempotency.HTTP{GlobalScope: true, DocsURL: docsURL})
	if err != nil {
		t.Fatal(err)
	}
	s := new(service)
	s.Handler = mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		w := s.send(t, request{key: "k"})
		wantAnswer(t, "while the first runs", w, http.StatusConflict, "in-progress", false)
		if got := w.Header().Get("Retry-After"); got != "30" {
			t.Errorf("Retry-After = %s, want 30", got)
		}
	}))
	s.send(t, request{key: "k"})
}

func TestWithWaitTheOthersGetTheReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil, idempotency.HTTP{Wait: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(500 * time.Millisecond)
			w.WriteHeader(http.StatusCreated)
		})
		var replayed atomic.Int32
		var all sync.WaitGroup
		start := time.Now()
		for range 50 {
			all.Go(func() {
				if w := s.send(t, request{key: "k"}); w.Code == http.StatusCreated && w.Header().Get("Idempotency-Replayed") == "true" {
					replayed.Add(1)
				}
			})
		}
		all.Wait()
		s.wantRuns(t, 1)
		if replayed.Load() != 49 {
			t.Errorf("%d were replayed, want 49", replayed.Load())
		}
		if took := time.Since(start); took > 750*time.Millisecond {
			t.Errorf("the last one waited %v, want at most a pause longer than the first ran", took)
		}
	})
}

func TestAWaiterTakesOverTheMomentThatTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lease = 200 * time.Millisecond // between two of the waiter's looks
		g, _ := newGuard(t, nil, idempotency.Config{Lease: lease, DisableHeartbeat: true})
		mw, err := g.Middleware(idempotency.HTTP{GlobalScope: true, Wait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var took []time.Duration
		s := &service{Handler: mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if took = append(took, time.Since(start)); len(took) == 1 {
				time.Sleep(time.Hour)
			}
		}))}
		var first sync.WaitGroup
		first.Go(func() { s.send(t, request{key: "k"}) })
		synctest.Wait()
		s.send(t, request{key: "k"})
		if len(took) != 2 || took[1] != lease {
			t.Errorf("runs began after %v, want the second after %v", took, lease)
		}
		first.Wait()
	})
}

func TestWaitingEndsAndAWaiterTakesOverFromAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *service
		s = newService(t, nil, idempotency.HTTP{Wait: time.Second, DocsURL: docsURL}, func(w http.ResponseWriter, _ *http.Request) {
			if s.runs.Load() == 1 {
				time.Sleep(10 * time.Second)
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			w.WriteHeader(http.StatusCreated)
		})
		first := make(chan struct{})
		go func() {
			defer close(first)
			wantAnswer(t, "the first", s.send(t, request{key: "k"}), http.StatusBadGateway, "", false)
		}()
		synctest.Wait()
		start := time.Now()
		wantAnswer(t, "a waiter", s.send(t, request{key: "k"}), http.StatusConflict, "in-progress", false)
		if took := time.Since(start); took != time.Second {
			t.Errorf("it waited %v, want exactly 1s", took)
		}
		time.Sleep(8500 * time.Millisecond)
		wantAnswer(t, "a waiter when the first fails", s.send(t, request{key: "k"}), http.StatusCreated, "", false)
		<-first
		s.wantRuns(t, 2)
	})
}
