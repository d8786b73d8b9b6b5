package problem_test

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/problem"
)

func TestWriteSendsProblemDetailsThatNoCacheKeeps(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Encoding", "gzip")
	problem.Write(w, problem.Problem{
		Type: "https://example.com/errors#busy", Status: http.StatusConflict,
		Detail: "the first request is still running; repeat it later", RetryAfter: 1100 * time.Millisecond,
	})

	if w.Code != http.StatusConflict {
		t.Errorf("status = %d, want 409", w.Code)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/problem+json", "Cache-Control": "no-store", "Retry-After": "2", "Content-Encoding": "",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("body %q: %v", w.Body, err)
	}
	if body["title"] != "Conflict" || body["status"] != 409.0 || body["type"] != "https://example.com/errors#busy" {
		t.Errorf("body = %v, want type, title Conflict and status 409", body)
	}
}

func TestSecondsRoundsUpAndIsAtLeastOne(t *testing.T) {
	for d, want := range map[time.Duration]int64{
		-time.Second: 1, 0: 1, time.Nanosecond: 1, time.Second: 1, time.Second + 1: 2, 90 * time.Second: 90,
		math.MaxInt64: 9223372037,
	} {
		if got := problem.Seconds(d); got != want {
			t.Errorf("Seconds(%v) = %d, want %d", d, got, want)
		}
	}
}
