package breaker_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/internal/memhttp"
)

func wholeBody(t testing.TB) *breaker.Breaker {
	t.Helper()
	return mustNew(t, breaker.Config{WholeBody: true})
}

func send(ctx context.Context, t testing.TB, b *breaker.Breaker, next http.RoundTripper) *http.Response {
	t.Helper()
	resp, err := b.Transport(next).RoundTrip(request(ctx, t, nil))
	if err != nil {
		t.Fatalf("RoundTrip() = %v, want nil", err)
	}
	return resp
}

func wantCounts(t testing.TB, b *breaker.Breaker, want breaker.Counts) {
	t.Helper()
	if got := b.Stats().Counts; got != want {
		t.Errorf("Counts = %+v, want %+v", got, want)
	}
}

// broken fails in the middle.
type broken struct{ err error }

func (b broken) Read(p []byte) (int, error) { return copy(p, "half"), b.err }
func (broken) Close() error                 { return nil }

func TestWholeBodyWaitsForTheEndOfTheBody(t *testing.T) {
	t.Run("read to its end it is a success", func(t *testing.T) {
		b := wholeBody(t)
		body := &closing{Reader: strings.NewReader("complete")}
		resp := send(t.Context(), t, b, answering(200, body))
		wantCounts(t, b, breaker.Counts{})
		if got, err := io.ReadAll(resp.Body); string(got) != "complete" || err != nil {
			t.Errorf("ReadAll() = %q, %v, want complete, nil", got, err)
		}
		wantCounts(t, b, breaker.Counts{Successes: 1})
		resp.Body.Close()
		wantCounts(t, b, breaker.Counts{Successes: 1})
		if body.closed != 1 {
			t.Errorf("the body was closed %d times, want 1", body.closed)
		}
	})
	t.Run("closed before that too", func(t *testing.T) {
		b := wholeBody(t)
		resp := send(t.Context(), t, b, answering(200, io.NopCloser(strings.NewReader("long"))))
		if n, err := resp.Body.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("Read() = %v, %v, want 1, nil", n, err)
		}
		wantCounts(t, b, breaker.Counts{})
		resp.Body.Close()
		wantCounts(t, b, breaker.Counts{Successes: 1})
	})
	t.Run("breaking off it is a failure", func(t *testing.T) {
		b := wholeBody(t)
		resp := send(t.Context(), t, b, answering(200, broken{io.ErrUnexpectedEOF}))
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ReadAll() = %v, want %v", err, io.ErrUnexpectedEOF)
		}
		resp.Body.Close()
		wantCounts(t, b, breaker.Counts{Failures: 1})
	})
	t.Run("ended by a caller that left it is neither", func(t *testing.T) {
		b := wholeBody(t)
		ctx, cancel := context.WithCancel(t.Context())
		resp := send(ctx, t, b, answering(200, broken{context.Canceled}))
		cancel()
		_, _ = io.ReadAll(resp.Body)
		wantCounts(t, b, breaker.Counts{})
		if got := b.Stats().Ignored; got != 1 {
			t.Errorf("Ignored = %d, want 1", got)
		}
	})
	t.Run("read and closed at once it counts once", func(t *testing.T) {
		b := wholeBody(t)
		resp := send(t.Context(), t, b, answering(200, broken{errDown}))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _, _ = resp.Body.Read(make([]byte, 8)) })
			wg.Go(func() { resp.Body.Close() })
		}
		wg.Wait()
		if got := b.Stats().Counts.Calls(); got != 1 {
			t.Errorf("%d outcomes, want 1", got)
		}
	})
	t.Run("judged by a Classify that panics it is a failure", func(t *testing.T) {
		b := mustNew(t, breaker.Config{WholeBody: true, Consecutive: 1, Classify: func(_ context.Context, err error) breaker.Outcome {
			if err != nil {
				panic("boom")
			}
			return breaker.Success
		}})
		resp := send(t.Context(), t, b, answering(200, broken{errDown}))
		if got := panicOf(func() { _, _ = io.ReadAll(resp.Body) }); got != "boom" {
			t.Errorf("recover() = %v, want boom", got)
		}
		wantState(t, b, breaker.Open)
	})
}

func TestWholeBodyBooksAtOnce(t *testing.T) {
	type connection struct{ io.ReadWriteCloser }
	for name, c := range map[string]struct {
		code int
		body io.ReadCloser
		want breaker.Counts
	}{
		"a status that is a failure":            {503, broken{}, breaker.Counts{Failures: 1}},
		"a response without a body":             {204, http.NoBody, breaker.Counts{Successes: 1}},
		"a response whose body is nil":          {200, nil, breaker.Counts{Successes: 1}},
		"a switch of protocols, and leaves it ": {101, connection{}, breaker.Counts{Successes: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b := wholeBody(t)
			resp := send(t.Context(), t, b, answering(c.code, c.body))
			wantCounts(t, b, c.want)
			if resp.Body != c.body {
				t.Errorf("the body was replaced")
			}
		})
	}
}

func TestWholeBodyFindsAServerThatBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{WholeBody: true, Consecutive: 1})
		server := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}))
		resp := send(t.Context(), t, b, server.Transport)
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ReadAll() = %v, want %v", err, io.ErrUnexpectedEOF)
		}
		resp.Body.Close()
		wantState(t, b, breaker.Open)
	})
}

func TestWholeBodyTimesTheBodyToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{WholeBody: true, SlowCall: time.Second, MinCalls: 1})
		resp := send(t.Context(), t, b, answering(200, io.NopCloser(strings.NewReader("slow"))))
		time.Sleep(time.Second)
		resp.Body.Close()
		wantState(t, b, breaker.Open)
	})
}
