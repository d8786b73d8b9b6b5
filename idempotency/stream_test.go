package idempotency_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/internal/memhttp"
)

func TestAFlushedResponseReachesTheClientLiveAndIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, line := range []string{"one\n", "two\n", "three\n"} {
				io.WriteString(w, line)
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Errorf("Flush() = %v, want nil", err)
				}
				time.Sleep(time.Second)
			}
		})
		req := request{key: "k"}.build(t)
		req.RequestURI = ""
		start := time.Now()
		resp, err := (&http.Client{Transport: memhttp.New(t, s).Transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for i, want := range []string{"one", "two", "three"} {
			if !lines.Scan() || lines.Text() != want || time.Since(start) != time.Duration(i)*time.Second {
				t.Errorf("line %d = %q after %v, want %s after %ds", i, lines.Text(), time.Since(start), want, i)
			}
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		wantAnswer(t, "the repeated request", s.send(t, request{key: "k"}), http.StatusConflict, "response-not-stored", false)
		s.wantRuns(t, 1)
	})
}

func TestAFlushedFailureReleasesTheKey(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		w.(http.Flusher).Flush()
	})
	for range 2 {
		wantAnswer(t, "each request", s.send(t, request{key: "k"}), http.StatusBadGateway, "", false)
	}
	s.wantRuns(t, 2)
}

// plain is a ResponseWriter that can neither flush nor be hijacked.
type plain struct{ http.ResponseWriter }

func TestWhatTheServerCannotDoIsReported(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		if _, _, err := rc.Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Hijack() = %v, want http.ErrNotSupported", err)
		}
		if err := rc.SetReadDeadline(time.Now()); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("SetReadDeadline() = %v, want http.ErrNotSupported", err)
		}
		io.WriteString(w, "whole")
	})
	w := httptest.NewRecorder()
	s.ServeHTTP(plain{w}, request{key: "k"}.build(t))
	wantAnswer(t, "after a Hijack that failed", s.send(t, request{key: "k"}), http.StatusOK, "", true)

	s = newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "whole")
		if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush() = %v, want http.ErrNotSupported", err)
		}
	})
	w = httptest.NewRecorder()
	s.ServeHTTP(plain{w}, request{key: "k"}.build(t))
	if w.Body.String() != "whole" {
		t.Errorf("body = %q, want whole", w.Body)
	}
}

func TestAHijackedConnectionIsTheHandlersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Errorf("SetWriteDeadline() = %v, want nil, through Unwrap", err)
			}
			conn, rw, err := rc.Hijack()
			if err != nil {
				t.Errorf("Hijack() = %v, want nil", err)
				return
			}
			defer conn.Close()
			rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nraw")
			rw.Flush()
			w.WriteHeader(http.StatusTeapot)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("writing after Hijack = %v, want http.ErrHijacked", err)
			}
		})
		req := request{key: "k"}.build(t)
		req.RequestURI = ""
		resp, err := (&http.Client{Transport: memhttp.New(t, s).Transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != "raw" || err != nil {
			t.Errorf("body = %q, %v, want what the handler put on the wire", body, err)
		}
		synctest.Wait() // until the handler has returned
		wantAnswer(t, "the repeated request", s.send(t, request{key: "k"}), http.StatusConflict, "response-not-stored", false)
	})
}

func TestWritingAfterTheHandlerHasReturnedHasNoEffect(t *testing.T) {
	var late sync.WaitGroup
	release := make(chan struct{})
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "in time")
		late.Go(func() {
			<-release
			for range 100 {
				if _, err := io.WriteString(w, "late"); err == nil {
					t.Error("writing after the return = nil, want an error")
				}
				w.WriteHeader(http.StatusTeapot)
				w.(http.Flusher).Flush()
				if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
					t.Error("Hijack() after the return = nil, want an error")
				}
			}
		})
	})
	first := s.send(t, request{key: "k"})
	close(release)
	for range 100 {
		if again := s.send(t, request{key: "k"}); again.Body.String() != "in time" || again.Code != http.StatusOK {
			t.Errorf("replay = %d %q, want 200 in time", again.Code, again.Body)
		}
	}
	late.Wait()
	if first.Body.String() != "in time" || first.Code != http.StatusOK {
		t.Errorf("first = %d %q, want 200 in time", first.Code, first.Body)
	}
}

func TestWritingAfterTheHandlerHasPanickedHasNoEffect(t *testing.T) {
	var late http.ResponseWriter
	s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		late = w
		panic("boom")
	})
	func() {
		defer func() { _ = recover() }()
		s.send(t, request{key: "k"})
	}()
	if _, err := io.WriteString(late, "late"); err == nil {
		t.Error("writing after the panic = nil, want an error")
	}
}

// slow is a ResponseWriter whose body and hijacking wait until they may go on.
type slow struct {
	*httptest.ResponseRecorder
	begun, release chan struct{}
}

func newSlow() slow {
	return slow{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
}

func (w slow) Write(p []byte) (int, error) {
	close(w.begun)
	<-w.release
	return w.ResponseRecorder.Write(p)
}

func (w slow) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	close(w.begun)
	<-w.release
	return nil, nil, nil
}

func TestWhatAGoroutineLeftBehindStillWritesIsNotTheNextResponse(t *testing.T) {
	for range 20 { // the pool of buffers may forget one
		var late sync.WaitGroup
		w := newSlow()
		s := newService(t, nil, idempotency.HTTP{}, func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Idempotency-Key") != "slow" {
				io.WriteString(rw, "other")
				return
			}
			io.WriteString(rw, "first")
			late.Go(rw.(http.Flusher).Flush)
			<-w.begun
		})
		s.ServeHTTP(w, request{key: "slow"}.build(t))
		s.send(t, request{key: "k"})
		close(w.release)
		late.Wait()
		if got := w.Body.String(); got != "first" {
			t.Fatalf("body = %q, want first", got)
		}
	}
}

func TestAHijackThatEndsAfterTheHandlerDoesNotTakeItsAnswerAway(t *testing.T) {
	var late sync.WaitGroup
	w := newSlow()
	store := newFaulty(t)
	store.before = func(_ context.Context, method string) {
		if method == "complete" { // the handler has returned and its answer is not sent yet
			close(w.release)
			late.Wait()
		}
	}
	s := newService(t, store, idempotency.HTTP{}, func(rw http.ResponseWriter, _ *http.Request) {
		io.WriteString(rw, "in time")
		late.Go(func() { _, _, _ = http.NewResponseController(rw).Hijack() })
		<-w.begun
	})
	s.ServeHTTP(hijackOnly{w}, request{key: "k"}.build(t))
	if got := w.Body.String(); got != "in time" {
		t.Errorf("body = %q, want in time", got)
	}
}

func TestAHijackedConnectionCompletesTheKeyWhateverTheStatusBeforeIt(t *testing.T) {
	for name, panics := range map[string]bool{"and the handler returns": false, "and the handler panics": true} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(http.StatusServiceUnavailable)
				_, _, _ = http.NewResponseController(rw).Hijack()
				if panics {
					panic(http.ErrAbortHandler)
				}
			})
			w := newSlow()
			close(w.release)
			func() {
				defer func() { _ = recover() }()
				s.ServeHTTP(w, request{key: "k"}.build(t))
			}()
			wantAnswer(t, "the repeated request", s.send(t, request{key: "k"}), http.StatusConflict, "response-not-stored", false)
			s.wantRuns(t, 1)
		})
	}
}

// hijackOnly is a slow ResponseWriter whose body does not wait.
type hijackOnly struct{ slow }

func (w hijackOnly) Write(p []byte) (int, error) { return w.ResponseRecorder.Write(p) }

func TestAWriterLeftBehindMeetsTheEndWithoutARace(t *testing.T) {
	for range 50 {
		var late sync.WaitGroup
		s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			late.Go(func() {
				for range 100 {
					io.WriteString(w, "x")
				}
			})
		})
		first := s.send(t, request{key: "k"})
		again := s.send(t, request{key: "k"})
		late.Wait()
		if first.Body.String() != again.Body.String() {
			t.Fatalf("answers = %q and %q, want the same", first.Body, again.Body)
		}
	}
}

// counted counts what is read of a body that never ends.
type counted struct{ n int }

func (c *counted) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

func TestABodyAboveMaxBodyIsRefusedAfterReadingNoMoreThanThat(t *testing.T) {
	const limit = 100 << 10
	for name, length := range map[string]int64{"of unknown length": -1, "that says its length": 100 << 20, "that lies about its length": limit} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{MaxBody: limit, DocsURL: docsURL}, nil)
			endless := new(counted)
			req := request{key: "k"}.build(t)
			req.Body, req.ContentLength = io.NopCloser(endless), length
			w := httptest.NewRecorder()
			s.ServeHTTP(w, req)
			wantAnswer(t, "the request", w, http.StatusRequestEntityTooLarge, "body-too-large", false)
			if endless.n > 2*limit || length > limit && endless.n > 0 {
				t.Errorf("%d bytes were read, want not much more than %d, none where the length tells", endless.n, limit)
			}
			s.wantRuns(t, 0)
		})
	}
	s := newService(t, nil, idempotency.HTTP{MaxBody: limit}, nil)
	wantAnswer(t, "a body of the limit", s.send(t, request{key: "k", body: strings.Repeat("x", limit)}), http.StatusCreated, "", false)
	req := request{key: "l", body: "too large for the server"}.build(t)
	w := httptest.NewRecorder()
	req.Body = http.MaxBytesReader(w, req.Body, 3)
	s.ServeHTTP(w, req)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body above the server's own limit = %d, want 413", w.Code)
	}
}

func TestABodyThatBreaksOffIsRefused(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, nil)
	req := request{key: "k"}.build(t)
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), brokenReader{}))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	wantAnswer(t, "the request", w, http.StatusBadRequest, "body-incomplete", false)
	s.wantRuns(t, 0)
}

func TestABodyThatWasReadOutsideIsRefusedOrComparedByItsForm(t *testing.T) {
	const form, multi = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
	multipart := func(amount string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"amount\"\r\n\r\n" + amount + "\r\n--b--\r\n"
	}
	parse := func(r *http.Request) { _ = r.ParseForm() }
	parseMultipart := func(r *http.Request) { _ = r.ParseMultipartForm(1 << 10) }
	drain := func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	longEnd := strings.Repeat("x", 10<<10) // of which the parser leaves something
	for name, c := range map[string]struct {
		outside     func(*http.Request)
		contentType string
		body, other string
		length      int64 // of the body, 0 for what it has
		refused     bool
	}{
		"a form":                        {parse, form, "amount=1", "amount=999", 0, false},
		"a form of unknown length":      {parse, form, "amount=1", "amount=999", -1, false},
		"ParseForm of something else":   {parse, "text/plain", "tea", "coffee", 0, false},
		"a form without fields":         {parse, form, "&", "&&", 0, true},
		"a multipart form":              {parseMultipart, multi, multipart("1"), multipart("999"), 0, true},
		"a multipart form and the rest": {parseMultipart, multi, multipart("1") + longEnd, multipart("999") + longEnd, 0, true},
		"a body that was read":          {drain, "text/plain", "tea", "coffee", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "paid "+r.FormValue("amount"))
			})
			send := func(body string) *httptest.ResponseRecorder {
				r := request{key: "k", body: body, header: []string{"Content-Type", c.contentType}}.build(t)
				if c.length != 0 {
					r.ContentLength = c.length
				}
				c.outside(r)
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				return w
			}
			if c.refused {
				for _, body := range []string{c.body, c.other} {
					wantAnswer(t, "a body that is gone", send(body), http.StatusInternalServerError, "body-consumed", false)
				}
				s.wantRuns(t, 0)
				return
			}
			first := send(c.body)
			wantAnswer(t, "the first", first, http.StatusOK, "", false)
			if want := "paid " + strings.TrimPrefix(c.body, "amount="); c.contentType == form && first.Body.String() != want {
				t.Errorf("the first = %q, want %q", first.Body, want)
			}
			wantAnswer(t, "the same payload", send(c.body), http.StatusOK, "", true)
			wantAnswer(t, "another payload", send(c.other), http.StatusUnprocessableEntity, "key-reused", false)
			s.wantRuns(t, 1)
		})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestTheHandlerSeesTheBodyAgain(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789"), 20_000)
	for name, body := range map[string][]byte{"empty": nil, "small": []byte("tea"), "large": large} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, r *http.Request) {
				got, err := io.ReadAll(r.Body)
				if !bytes.Equal(got, body) || err != nil {
					t.Errorf("the handler read %d bytes, %v, want %d", len(got), err, len(body))
				}
				if err := r.Body.Close(); err != nil {
					t.Errorf("Close() = %v, want nil", err)
				}
			})
			s.send(t, request{key: "k", body: string(body)})
			s.wantRuns(t, 1)
		})
	}
}

// A handler that reads nothing does not keep the body out of the comparison, and
// a client that waits for the server's consent gets it.
func TestAnUnreadBodyCountsAndExpectContinueWorks(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{DocsURL: docsURL}, nil)
	server := memhttp.New(t, s)
	server.Transport.ExpectContinueTimeout = time.Minute
	send := func(body string) (int, string) {
		req := request{key: "k", body: body, header: []string{"Expect", "100-continue"}}.build(t)
		req.RequestURI = ""
		resp, err := (&http.Client{Transport: server.Transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Header.Get("Idempotency-Replayed")
	}
	for i, want := range []struct {
		body     string
		status   int
		replayed string
	}{{"tea", 201, ""}, {"tea", 201, "true"}, {"coffee", 422, ""}} {
		if status, replayed := send(want.body); status != want.status || replayed != want.replayed {
			t.Errorf("request %d = %d replayed %q, want %d %q", i+1, status, replayed, want.status, want.replayed)
		}
	}
	s.wantRuns(t, 1)
}
