package idempotency_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/parley-go/parley/idempotency"
)

// allocations returns how many f makes.
func allocations(t *testing.T, f func()) float64 {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates too: run without -race")
	}
	f() // grows pools and maps
	return testing.AllocsPerRun(2000, f)
}

func TestAllocsOfARequestWithoutAKeyAreNone(t *testing.T) {
	memory := newMemory(t, idempotency.MemoryConfig{})
	g, err := idempotency.New(memory, idempotency.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mw, err := g.Middleware(idempotency.HTTP{GlobalScope: true})
	if err != nil {
		t.Fatal(err)
	}
	h := mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w := &discard{}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req := httptest.NewRequestWithContext(t.Context(), method, "/", http.NoBody)
		if got := allocations(t, func() { h.ServeHTTP(w, req) }); got != 0 {
			t.Errorf("allocations of a %s without a key = %v, want 0", method, got)
		}
	}
}

func TestAllocsOfAFirstRequestAndAReplayAreAtMostTenAboveAHandWrittenFloor(t *testing.T) {
	ours, theirs := newCaller(t, newOurs(t)), newCaller(t, newFloor())
	got, floor := allocations(t, ours.first), allocations(t, theirs.first)
	t.Logf("first: %v, floor %v", got, floor)
	if got > floor+10 {
		t.Errorf("allocations of a first request = %v, want at most 10 above %v", got, floor)
	}
	got, floor = allocations(t, ours.send), allocations(t, theirs.send)
	t.Logf("replay: %v, floor %v", got, floor)
	if got > floor+10 {
		t.Errorf("allocations of a replay = %v, want at most 10 above %v", got, floor)
	}
}

func TestAllocsOfADuplicateMessageAreAtMostTwo(t *testing.T) {
	g, err := idempotency.New(newMemory(t, idempotency.MemoryConfig{}), idempotency.Config{})
	if err != nil {
		t.Fatal(err)
	}
	inbox := idempotency.Inbox(g, "billing", messageID, func(context.Context, *message) error { return nil })
	ctx, m := t.Context(), &message{ID: "1"}
	if got := allocations(t, func() { _ = inbox(ctx, m) }); got > 2 {
		t.Errorf("allocations of a duplicate message = %v, want at most 2", got)
	}
}
