package idempotency_test

import (
	"context"
	"errors"
	"io"
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

func TestAHandlerThatPanicsReleasesTheKeyAndThePanicGoesOn(t *testing.T) {
	for name, value := range map[string]any{"of its own": "boom", "to abort": http.ErrAbortHandler} {
		t.Run(name, func(t *testing.T) {
			var s *service
			s = newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "half")
				if s.runs.Load() == 1 {
					panic(value)
				}
			})
			func() {
				defer func() {
					if p := recover(); p != value {
						t.Errorf("recovered %v, want %v", p, value)
					}
				}()
				s.send(t, request{key: "k"})
			}()
			if got := s.events.last().Ending; got != idempotency.EndFailed {
				t.Errorf("ending = %s, want failed", got)
			}
			wantAnswer(t, "the next request", s.send(t, request{key: "k"}), http.StatusOK, "", false)
			s.wantRuns(t, 2)
		})
	}
}

func TestAHandlerThatPanicsAfterTheClientHasSeenItsSuccessIsNotRunAgain(t *testing.T) {
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		kept   bool
	}{
		"flushed": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}, true},
		"above MaxStored":   {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "0123456789") }, true},
		"a flushed failure": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); w.(http.Flusher).Flush() }, false},
		"held back":         {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil, idempotency.HTTP{MaxStored: 5, DocsURL: docsURL}, func(w http.ResponseWriter, r *http.Request) {
				c.handle(w, r)
				panic(http.ErrAbortHandler)
			})
			send := func() (w *httptest.ResponseRecorder, panicked any) {
				w = httptest.NewRecorder()
				defer func() { panicked = recover() }()
				s.ServeHTTP(w, request{key: "k"}.build(t))
				return w, nil
			}
			if _, p := send(); p != any(http.ErrAbortHandler) {
				t.Errorf("recovered %v, want the panic to go on", p)
			}
			if got, want := s.events.last().Ending == idempotency.EndExecuted, c.kept; got != want {
				t.Errorf("event = %+v, want executed %t", s.events.last(), want)
			}
			again, _ := send()
			if c.kept {
				wantAnswer(t, "the repeated request", again, http.StatusConflict, "response-not-stored", false)
				s.wantRuns(t, 1)
			} else {
				s.wantRuns(t, 2)
			}
		})
	}
}

func TestAResponseIsRecordedWholeEvenIfTheClientHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large := strings.Repeat("0123456789", 50_000) // more than buffers hold
		finished := make(chan struct{})
		s := newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done() // the client is gone
			time.Sleep(time.Second)
			if _, err := io.WriteString(w, large); err != nil {
				t.Errorf("WriteString() = %v, want nil: the body is kept for the retry", err)
			}
			close(finished)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req := request{key: "k", ctx: ctx}.build(t)
		req.RequestURI = ""
		if resp, err := (&http.Client{Transport: memhttp.New(t, s).Transport}).Do(req); err == nil {
			resp.Body.Close()
			t.Fatal("the client did not give up")
		}
		<-finished
		synctest.Wait()
		again := s.send(t, request{key: "k"})
		wantAnswer(t, "the repeated request", again, http.StatusOK, "", true)
		if again.Body.Len() != len(large) {
			t.Errorf("the replay has %d bytes, want %d", again.Body.Len(), len(large))
		}
		s.wantRuns(t, 1)
	})
}

func TestAHandlerThatGivesUpBecauseTheClientHasLeftIsNotASuccess(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"and answers 503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"and answers by aborted": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "canceled", http.StatusInternalServerError)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var s *service
			s = newService(t, nil, idempotency.HTTP{}, func(w http.ResponseWriter, r *http.Request) {
				if s.runs.Load() == 1 {
					cancel()
					<-r.Context().Done()
					handle(w, r)
					return
				}
				w.WriteHeader(http.StatusCreated)
			})
			if w := s.send(t, request{key: "k", ctx: ctx}); w.Code < 500 {
				t.Errorf("answer = %d %s, want a 5xx", w.Code, w.Body)
			}
			if got := s.events.last().Ending; got != idempotency.EndFailed {
				t.Errorf("ending = %s, want failed", got)
			}
			wantAnswer(t, "the next request", s.send(t, request{key: "k"}), http.StatusCreated, "", false)
			s.wantRuns(t, 2)
		})
	}
}

func TestAHandlerThatReturnsWithoutWritingAnswers200EvenIfTheClientHasLeft(t *testing.T) {
	for name, leaves := range map[string]bool{"the client waits": false, "the client has left": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := newService(t, nil, idempotency.HTTP{}, func(http.ResponseWriter, *http.Request) {
				if leaves {
					cancel()
				}
			})
			wantAnswer(t, "the first", s.send(t, request{key: "k", ctx: ctx}), http.StatusOK, "", false)
			wantAnswer(t, "the repeated request", s.send(t, request{key: "k"}), http.StatusOK, "", true)
			s.wantRuns(t, 1)
		})
	}
}

func TestWithoutTheStoreRequestsAreAnswered503UnlessFailOpen(t *testing.T) {
	for _, failure := range []error{errStore, idempotency.ErrFull} {
		store := newFaulty(t)
		store.set("acquire", failure)
		s := newService(t, store, idempotency.HTTP{DocsURL: docsURL}, nil)
		w := s.send(t, request{key: "k"})
		wantAnswer(t, "a request", w, http.StatusServiceUnavailable, "store-unavailable", false)
		if got := w.Header().Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After = %q, want 1", got)
		}
		s.wantRuns(t, 0)
		if got := s.events.last(); got.Ending != idempotency.EndUnavailable || !errors.Is(got.Err, failure) {
			t.Errorf("event = %+v, want unavailable with the store's error", got)
		}

		s = newService(t, store, idempotency.HTTP{FailOpen: true}, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})
		for range 2 {
			w := s.send(t, request{key: "k", body: "tea"})
			wantAnswer(t, "a request that fails open", w, http.StatusOK, "", false)
			if w.Body.String() != "tea" {
				t.Errorf("body = %q, want what the handler read: tea", w.Body)
			}
		}
		s.wantRuns(t, 2)
		if got := s.events.last().Ending; got != idempotency.EndUnavailable {
			t.Errorf("ending = %s, want unavailable", got)
		}
	}
}

// The one that waits knows that the work is being done, so that to run it would not
// be without protection but a second time.
func TestAWaiterDoesNotFailOpenBesideTheRequestThatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		done := make(chan struct{})
		s := newService(t, store, idempotency.HTTP{FailOpen: true, Wait: time.Minute, DocsURL: docsURL}, func(http.ResponseWriter, *http.Request) {
			<-done
		})
		var others sync.WaitGroup
		others.Go(func() { s.send(t, request{key: "k"}) })
		synctest.Wait()
		others.Go(func() {
			wantAnswer(t, "the waiter", s.send(t, request{key: "k"}), http.StatusConflict, "in-progress", false)
		})
		synctest.Wait()
		store.set("acquire", errStore)
		time.Sleep(time.Second)
		synctest.Wait()
		s.wantRuns(t, 1)
		close(done)
		others.Wait()
	})
}

func TestWhenTheStoreFailsAtTheEndTheClientGetsTheRealResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		store.set("complete", errStore)
		s := newService(t, store, idempotency.HTTP{DocsURL: docsURL}, nil)
		wantAnswer(t, "the request", s.send(t, request{key: "k"}), http.StatusCreated, "", false)
		if got := s.events.last().Ending; got != idempotency.EndUnrecorded {
			t.Errorf("ending = %s, want unrecorded", got)
		}
		store.set("complete", nil)
		wantAnswer(t, "within the lease", s.send(t, request{key: "k"}), http.StatusConflict, "in-progress", false)
		time.Sleep(30 * time.Second)
		wantAnswer(t, "after the lease", s.send(t, request{key: "k"}), http.StatusCreated, "", false)
		s.wantRuns(t, 2)
	})
}

func TestAnOvertakenHandlerAnswersAndOverwritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		store.set("extend", errStore)
		var s *service
		s = newService(t, store, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
			if s.runs.Load() == 1 {
				time.Sleep(31 * time.Second)
				wantAnswer(t, "the successor", s.send(t, request{key: "k"}), http.StatusOK, "", false)
				io.WriteString(w, "zombie")
				return
			}
			io.WriteString(w, "successor")
		})
		if w := s.send(t, request{key: "k"}); w.Body.String() != "zombie" {
			t.Errorf("the zombie's client got %q, want its own answer: the effect has happened", w.Body)
		}
		if got := s.events.last().Ending; got != idempotency.EndFenced {
			t.Errorf("ending = %s, want fenced", got)
		}
		if w := s.send(t, request{key: "k"}); w.Body.String() != "successor" {
			t.Errorf("replay = %q, want the successor's", w.Body)
		}
	})
}

func TestAHandlerThatStopsBecauseItWasOvertakenDoesNotAnswer200(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		store.set("extend", errStore) // cut off from the store
		var s *service
		s = newService(t, store, idempotency.HTTP{DocsURL: docsURL}, func(w http.ResponseWriter, r *http.Request) {
			if s.runs.Load() == 1 {
				<-r.Context().Done()
				if cause := context.Cause(r.Context()); !errors.Is(cause, idempotency.ErrFenced) {
					t.Errorf("the handler's context ended with %v, want ErrFenced", cause)
				}
				return
			}
			io.WriteString(w, "successor")
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			w := s.send(t, request{key: "k"})
			wantAnswer(t, "the one overtaken", w, http.StatusServiceUnavailable, "interrupted", false)
			if got := w.Header().Get("Retry-After"); got != "1" {
				t.Errorf("Retry-After = %q, want 1", got)
			}
		}()
		time.Sleep(30*time.Second + time.Millisecond)
		wantAnswer(t, "the successor", s.send(t, request{key: "k"}), http.StatusOK, "", false)
		store.set("extend", nil)
		<-done
		wantAnswer(t, "the repeated request", s.send(t, request{key: "k"}), http.StatusOK, "", true)
	})
}

func TestARequestWhoseClientHasLeftDoesNotRun(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{FailOpen: true, Wait: time.Minute}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.send(t, request{key: "k", ctx: ctx})
	s.wantRuns(t, 0)
	if got := s.events.last().Ending; got != idempotency.EndCanceled {
		t.Errorf("ending = %s, want canceled", got)
	}
}

func TestAWaiterWhoseClientLeavesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *service
		s = newService(t, nil, idempotency.HTTP{Wait: time.Minute}, func(http.ResponseWriter, *http.Request) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			s.send(t, request{key: "k", ctx: ctx})
			if took := time.Since(start); took != time.Second {
				t.Errorf("the waiter left after %v, want 1s", took)
			}
		})
		s.send(t, request{key: "k"})
		s.wantRuns(t, 1)
	})
}

func TestAStoreThatAnswersNonsenseKeepsTheWorkFromBeginning(t *testing.T) {
	s := newService(t, nonsense{}, idempotency.HTTP{DocsURL: docsURL}, nil)
	wantAnswer(t, "the request", s.send(t, request{key: "k"}), http.StatusServiceUnavailable, "store-unavailable", false)
	s.wantRuns(t, 0)
}

// nonsense is a Store without an answer.
type nonsense struct{ idempotency.Store }

func (nonsense) Acquire(context.Context, idempotency.Claim) (idempotency.Outcome, error) {
	return idempotency.Outcome{}, nil
}

func TestTheKeyIsInNoAnswerAndNoEvent(t *testing.T) {
	const secret = "secret-8e03978e"
	store := newFaulty(t)
	var s *service
	s = newService(t, store, idempotency.HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
		noSecret(t, s.send(t, request{key: secret}))
	})
	noSecret(t, s.send(t, request{key: secret}))
	noSecret(t, s.send(t, request{key: secret, body: "other"}))
	noSecret(t, s.send(t, request{key: secret + ", b"}))
	noSecret(t, s.send(t, request{key: secret, body: strings.Repeat("x", 2<<20)}))
	store.set("acquire", errStore)
	noSecret(t, s.send(t, request{key: secret}))
	s.wantRuns(t, 1)
	for _, ev := range s.events.all {
		if ev.Err != nil && strings.Contains(ev.Err.Error(), "secret") {
			t.Errorf("the event's error %v contains the key", ev.Err)
		}
	}
}

func noSecret(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	for name, values := range w.Header() {
		if strings.Contains(strings.Join(values, ""), "secret") {
			t.Errorf("header %s contains the key", name)
		}
	}
	if strings.Contains(w.Body.String(), "secret") {
		t.Errorf("body %s contains the key", w.Body)
	}
}
