package idempotency_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/internal/memhttp"
)

func TestReplayLeavesOutHeadersOfTheConnectionAndTheMoment(t *testing.T) {
	dropped := []string{
		"Connection", "X-Listed", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Proxy-Status",
		"Date", "Retry-After", "Server-Timing", "Set-Cookie", "Traceparent", "Tracestate", "Baggage", "Trailer:X-Sum",
	}
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range dropped {
			w.Header()[name] = []string{"first"}
		}
		w.Header().Set("Connection", "close, x-listed")
		w.Header().Set("Location", "/orders/1")
		w.Header()["Link"] = []string{"<a>", "<b>"}
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "order")
	})
	first := s.send(t, request{key: "k"})
	if first.Header().Get("Set-Cookie") != "first" {
		t.Errorf("the first answer's headers = %v, want all that the handler set", first.Header())
	}
	replay := s.send(t, request{key: "k"})
	want := http.Header{
		"Location": {"/orders/1"}, "Link": {"<a>", "<b>"}, "Content-Length": {"5"}, "Idempotency-Replayed": {"true"},
	}
	if diff := cmp.Diff(want, replay.Header()); diff != "" {
		t.Errorf("headers of the replay (-want +got):\n%s", diff)
	}
}

func TestReplayKeepsWhatAMiddlewareOutsideHasSet(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Vary", "Origin, Accept") // over the one from outside
		w.WriteHeader(http.StatusCreated)
	})
	n := 0
	outside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("X-Request-Id", fmt.Sprint("request ", n))
		w.Header().Set("Vary", "Origin")
		s.ServeHTTP(w, r)
	})
	for i := range 2 {
		w := httptest.NewRecorder()
		outside.ServeHTTP(w, request{key: "k"}.build(t))
		if got, want := w.Header().Get("X-Request-Id"), fmt.Sprint("request ", i+1); got != want {
			t.Errorf("X-Request-Id = %q, want %q", got, want)
		}
		if got := w.Header().Get("Vary"); got != "Origin, Accept" {
			t.Errorf("Vary = %q, want the handler's", got)
		}
	}
	s.wantRuns(t, 1)
}

func TestReplayLeavesOutWhatTheHandlerDeletedOfThoseOutside(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Del("Content-Type")
		w.Header().Del("Traceparent")
		io.WriteString(w, "<p>")
	})
	outside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Request-Id", "1")
		w.Header().Set("Traceparent", "of this request")
		s.ServeHTTP(w, r)
	})
	for i, want := range []http.Header{
		{"X-Request-Id": {"1"}},
		{
			"X-Request-Id": {"1"}, "Content-Length": {"3"}, "Idempotency-Replayed": {"true"},
			"Traceparent": {"of this request"}, // is of the moment, whoever set it
		},
	} {
		w := httptest.NewRecorder()
		outside.ServeHTTP(w, request{key: "k"}.build(t))
		if diff := cmp.Diff(want, w.Header()); diff != "" {
			t.Errorf("headers of answer %d (-want +got):\n%s", i+1, diff)
		}
	}
	s.wantRuns(t, 1)
}

func TestReplayLeavesOutTheHeadersThatTheConfigDrops(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{DropHeaders: []string{"x-requests-left"}}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Requests-Left", "7")
		w.Header().Set("X-Order", "1")
		w.WriteHeader(http.StatusCreated)
	})
	if w := s.send(t, request{key: "k"}); w.Header().Get("X-Requests-Left") != "7" {
		t.Errorf("headers of the first answer = %v, want all of the handler's", w.Header())
	}
	if w := s.send(t, request{key: "k"}); w.Header().Get("X-Requests-Left") != "" || w.Header().Get("X-Order") != "1" {
		t.Errorf("headers of the replay = %v, want X-Order alone", w.Header())
	}
}

func TestReplayLeavesOutTheHeadersThatTheConfigDropsAlsoOfAResultMadeOfAResponse(t *testing.T) {
	store := newMemory(t, idempotency.MemoryConfig{})
	uncanonical := strings.ToLower("X-Requests-Left")
	s := newService(t, store, idempotency.HTTP{DropHeaders: []string{"X-Requests-Left"}}, func(w http.ResponseWriter, r *http.Request) {
		own := http.Header{"X-Requests-Left": {"7"}, uncanonical: {"7"}, "X-Order": {"1"}}
		l, _ := idempotency.FromContext(r.Context())
		if err := store.Complete(r.Context(), l.ID, l.Token, idempotency.HTTPResult(http.StatusOK, own, nil), l.TTL); err != nil {
			t.Error(err)
		}
	})
	s.send(t, request{key: "k"})
	outside := httptest.NewRecorder()
	outside.Header().Set("X-Requests-Left", "6") // as it is now
	s.ServeHTTP(outside, request{key: "k"}.build(t))
	if h := outside.Header(); h.Get("X-Requests-Left") != "6" || h[uncanonical] != nil || h.Get("X-Order") != "1" {
		t.Errorf("headers of the replay = %v, want X-Order and the 6 that was set outside", h)
	}
	s.wantRuns(t, 1)
}

func TestReplayLeavesOutTrailers(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "order")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Other", "2")
	})
	if got := s.send(t, request{key: "k"}).Result().Trailer; got.Get("X-Sum") != "1" {
		t.Errorf("trailers of the first answer = %v, want the handler's", got)
	}
	replay := s.send(t, request{key: "k"})
	if got := replay.Result().Trailer; len(got) > 0 || replay.Body.String() != "order" {
		t.Errorf("replay = %q with the trailers %v, want order and none", replay.Body, got)
	}
}

func TestReplayHasAFreshDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil, idempotency.HTTP{}, nil)
		client := &http.Client{Transport: memhttp.New(t, s).Transport}
		var dates []string
		for range 2 {
			req := request{key: "k", body: "tea"}.build(t)
			req.RequestURI = ""
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != "order 1" {
				t.Errorf("body = %q, want order 1", body)
			}
			dates = append(dates, resp.Header.Get("Date"))
			time.Sleep(time.Minute)
		}
		if dates[0] == dates[1] || dates[1] == "" {
			t.Errorf("dates = %v, want two", dates)
		}
	})
}

func TestTheBodyIsCapturedHoweverTheHandlerWritesIt(t *testing.T) {
	const text = "the quick brown fox"
	for name, handle := range map[string]http.HandlerFunc{
		"Write":          func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(text)) },
		"several writes": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(text[:4])); w.Write([]byte(text[4:])) },
		"WriteString":    func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) },
		"io.Copy":        func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, strings.NewReader(text)) },
		"ServeContent": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "a.txt", time.Unix(1e9, 0), strings.NewReader(text))
		},
		"fmt": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) },
		"after the status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, text)
		},
		"two statuses": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{}, handle)
			first, again := s.send(t, request{key: "k"}), s.send(t, request{key: "k"})
			if first.Body.String() != text || again.Body.String() != text || first.Code != again.Code {
				t.Errorf("answers = %d %q and %d %q, want %q twice", first.Code, first.Body, again.Code, again.Body, text)
			}
			s.wantRuns(t, 1)
		})
	}
}

func TestHeadersThatComeAfterTheStatusAreNotKept(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("X-Late", "1")
		io.WriteString(w, "body")
	})
	for range 2 {
		w := s.send(t, request{key: "k"})
		if got := w.Result().Header.Get("X-Late"); got != "" {
			t.Errorf("X-Late = %q, want what net/http makes of it: nothing", got)
		}
	}
}

func TestAnswersWithoutABodyAreReplayedWithoutOne(t *testing.T) {
	for _, status := range []int{http.StatusNoContent, http.StatusNotModified, http.StatusOK} {
		s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"1"`)
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(status)
			if _, err := io.WriteString(w, "x"); status != http.StatusOK && !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Errorf("writing a body with %d = %v, want http.ErrBodyNotAllowed", status, err)
			}
		})
		client := &http.Client{Transport: memhttp.New(t, s).Transport}
		for i := range 2 {
			req := request{key: "k"}.build(t)
			req.RequestURI = ""
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			wantBody := map[bool]string{true: "x", false: ""}[status == http.StatusOK]
			if resp.StatusCode != status || string(body) != wantBody || err != nil || resp.Header.Get("Etag") != `"1"` {
				t.Errorf("answer %d = %d %q %v, %v, want %d %q", i+1, resp.StatusCode, body, resp.Header, err, status, wantBody)
			}
			if got := resp.Header.Get("Content-Length"); status != http.StatusOK && got != "" {
				t.Errorf("answer %d with %d has Content-Length %s", i+1, status, got)
			}
		}
		if w := s.send(t, request{key: "k"}); status != http.StatusOK && (w.Body.Len() > 0 || w.Header().Get("Content-Length") != "") {
			t.Errorf("replay of %d = body %q, headers %v, want no body and no length", status, w.Body, w.Header())
		}
		s.wantRuns(t, 1)
	}
}

func TestWhichStatusesAreKept(t *testing.T) {
	kept := map[int][2]bool{ // by default, with ReplayAll
		200: {true, true}, 201: {true, true}, 204: {true, true}, 303: {true, true}, 400: {true, true}, 404: {true, true}, 422: {true, true},
		401: {false, false}, 403: {false, false}, 408: {false, false}, 409: {false, false}, 425: {false, false}, 429: {false, false},
		499: {true, true}, 500: {false, true}, 502: {false, true}, 503: {false, true},
	}
	for status, want := range kept {
		for i, all := range []bool{false, true} {
			s := newService(t, nil, idempotency.HTTP{ReplayAll: all}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s.send(t, request{key: "k"})
			w := s.send(t, request{key: "k"})
			if got := w.Header().Get("Idempotency-Replayed") == "true"; w.Code != status || got != want[i] {
				t.Errorf("ReplayAll %t: second answer = %d, replayed %t, want %d, %t", all, w.Code, got, status, want[i])
			}
		}
	}
}

func TestAResponseAboveMaxStoredReachesTheClientWholeAndIsNotReplayed(t *testing.T) {
	for name, chunks := range map[string][]int{"in one piece": {101}, "in many": {40, 40, 40, 40}, "at the limit": {100}} {
		t.Run(name, func(t *testing.T) {
			var want bytes.Buffer
			for i, n := range chunks {
				want.Write(bytes.Repeat([]byte{byte('a' + i)}, n))
			}
			s := newService(t, nil, idempotency.HTTP{MaxStored: 100, DocsURL: docsURL}, func(w http.ResponseWriter, _ *http.Request) {
				body := want.Bytes()
				for _, n := range chunks {
					if got, err := w.Write(body[:n]); got != n || err != nil {
						t.Errorf("Write() = %d, %v, want %d, nil", got, err, n)
					}
					body = body[n:]
				}
			})
			if first := s.send(t, request{key: "k"}); first.Body.String() != want.String() {
				t.Errorf("first body = %q, want %q", first.Body, &want)
			}
			again := s.send(t, request{key: "k"})
			if name == "at the limit" {
				wantAnswer(t, "the repeated request", again, http.StatusOK, "", true)
			} else {
				wantAnswer(t, "the repeated request", again, http.StatusConflict, "response-not-stored", false)
				if got := again.Header().Get("Retry-After"); got != "" {
					t.Errorf("Retry-After = %q, want none: it would never change", got)
				}
			}
			s.wantRuns(t, 1)
		})
	}
}

// Compression stands outside, so that what is kept is the plain body.
func TestCompressionOutsideSuitsEveryClient(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, nil)
	outside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			s.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		s.ServeHTTP(zipped{w, z}, r)
	})
	w := httptest.NewRecorder()
	outside.ServeHTTP(w, request{key: "k", header: []string{"Accept-Encoding", "gzip"}}.build(t))
	if w.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("the first answer is not compressed")
	}
	w = httptest.NewRecorder()
	outside.ServeHTTP(w, request{key: "k"}.build(t))
	if w.Body.String() != "order 1" || w.Header().Get("Content-Encoding") != "" {
		t.Errorf("replay without gzip = %q (%s), want the plain body", w.Body, w.Header().Get("Content-Encoding"))
	}
}

type zipped struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (w zipped) Write(p []byte) (int, error) { return w.z.Write(p) }

func TestARecordOfAnotherProgramIsNotReplayedAndNotRunAgain(t *testing.T) {
	store := newFaulty(t)
	s := newService(t, store, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, r *http.Request) {
		lease, _ := idempotency.FromContext(r.Context())
		if err := store.Store.Complete(r.Context(), lease.ID, lease.Token, idempotency.Result{Data: []byte("?")}, time.Hour); err != nil {
			t.Error(err)
		}
	})
	s.send(t, request{key: "k"})
	wantAnswer(t, "the repeated request", s.send(t, request{key: "k"}), http.StatusConflict, "response-not-stored", false)
	s.wantRuns(t, 1)
}

func TestAResultMadeOfAResponseIsReplayedLikeARecordedOne(t *testing.T) {
	lasting := http.Header{"Content-Type": {"text/plain"}, "Set-Cookie": {"session=1"}, "Date": {"yesterday"}}
	for name, c := range map[string]struct {
		result idempotency.Result
		status int
		body   string
	}{
		"with a body":        {idempotency.HTTPResult(http.StatusCreated, lasting, []byte("order 1")), http.StatusCreated, "order 1"},
		"that has no body":   {idempotency.HTTPResult(http.StatusNoContent, lasting, []byte("ignored")), http.StatusNoContent, ""},
		"without any header": {idempotency.HTTPResult(http.StatusOK, nil, nil), http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := newMemory(t, idempotency.MemoryConfig{})
			s := newService(t, store, idempotency.HTTP{}, func(_ http.ResponseWriter, r *http.Request) {
				l, _ := idempotency.FromContext(r.Context())
				if err := store.Complete(r.Context(), l.ID, l.Token, c.result, l.TTL); err != nil {
					t.Error(err)
				}
				panic(http.ErrAbortHandler) // it never answers itself
			})
			func() {
				defer func() { _ = recover() }()
				s.send(t, request{key: "k"})
			}()
			w := s.send(t, request{key: "k"})
			wantAnswer(t, "the repetition", w, c.status, "", true)
			if w.Body.String() != c.body || w.Header().Get("Set-Cookie") != "" || w.Header().Get("Date") != "" {
				t.Errorf("answer = %q %v, want %q without cookie and date", w.Body, w.Header(), c.body)
			}
			s.wantRuns(t, 1)
		})
	}
	if r := idempotency.HTTPResult(http.StatusContinue, nil, nil); !r.NotStored || r.Data != nil {
		t.Errorf("HTTPResult(100) = %+v, want NotStored", r)
	}
}
