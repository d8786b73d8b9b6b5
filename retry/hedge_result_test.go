package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

func TestHedgeRefusesANilOperationAndABudgetOfNoConstructor(t *testing.T) {
	if _, err := retry.Hedge[int](t.Context(), retry.Hedging{}, nil, nil); !errors.Is(err, retry.ErrPolicy) {
		t.Errorf("Hedge(nil) = %v, want ErrPolicy", err)
	}
	if err := (retry.Hedging{Budget: &retry.Budget{}}).Validate(); !errors.Is(err, retry.ErrPolicy) {
		t.Errorf("Validate() = %v, want ErrPolicy", err)
	}
}

func TestHedgedCallsEarnTheirShareOfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, retry.BudgetConfig{RetryRate: 0.5, MinPerSecond: 1, Burst: 10})
		for spend(t, b) {
		}
		before := b.Tokens()
		for range 4 {
			_, _ = retry.Hedge(t.Context(), retry.Hedging{Budget: b}, func(context.Context) (int, error) { return 1, nil }, nil)
		}
		if got := b.Tokens() - before; got != 2 {
			t.Errorf("4 hedged calls earned %v retries, want 2", got)
		}
	})
}

func TestAHedgesErrorKeepsFirstLastAndEightRecent(t *testing.T) {
	n := 0
	_, err := retry.Hedge(t.Context(), retry.Hedging{MaxAttempts: 20, Delay: time.Hour}, func(context.Context) (int, error) {
		n++ // one at a time: each failure starts the next
		return 0, fmt.Errorf("%d", n)
	}, nil)
	e := wantError(t, err, 20, retry.ErrExhausted)
	if e.First.Error() != "1" || e.Last.Error() != "20" || fmt.Sprint(e.Recent) != "[13 14 15 16 17 18 19 20]" {
		t.Errorf("First, Last, Recent = %v, %v, %v", e.First, e.Last, e.Recent)
	}
}

func TestAHedgeThatSucceedsReportsNoError(t *testing.T) {
	var res retry.Result
	h := retry.Hedging{OnDone: func(_ context.Context, r retry.Result) { res = r }}
	_, _ = retry.Hedge(t.Context(), h, script(answer(0, "", errBoom), answer(0, "b", nil)).op, nil)
	if res.Attempts != 2 || res.Reason != "" || res.Err != nil {
		t.Errorf("OnDone saw %+v, want 2 attempts and no error", res)
	}
}

func TestAHedgeWhoseCallerLeftStartsNothingMore(t *testing.T) {
	for name, err := range map[string]error{
		"plain": errBoom, "permanent": retry.Permanent(errBoom), "asks": retry.After(errBoom, time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				a := script(func(context.Context) (string, error) { cancel(errShutdown); return "", err })
				_, got := retry.Hedge(ctx, retry.Hedging{MaxAttempts: 3}, a.op, nil)
				wantError(t, got, 1, retry.ErrCanceled, errShutdown, errBoom)
			})
		})
	}
}

func TestAPanicInDiscardLosesNoOtherResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var discarded []string
		a := script(stubborn(5*time.Second, "late1"), stubborn(5*time.Second, "late2"), answer(time.Second, "won", nil))
		defer func() {
			if v := recover(); v != "boom" || len(discarded) != 3 {
				t.Errorf("recover() = %v, discarded = %v, want boom and all three", v, discarded)
			}
		}()
		_, _ = retry.Hedge(t.Context(), retry.Hedging{MaxAttempts: 3}, a.op, func(v string) {
			if discarded = append(discarded, v); len(discarded) == 1 {
				panic("boom")
			}
		})
	})
}

func TestAPanicInOnDoneOfAHedgeDiscardsTheWinner(t *testing.T) {
	b := text("x")
	var own context.Context
	h := retry.Hedging{OnDone: func(context.Context, retry.Result) { panic("boom") }}
	defer func() {
		if v := recover(); v != "boom" || b.closes.Load() != 1 || own.Err() == nil {
			t.Errorf("recover() = %v, closed %d times, context %v, want boom, once, ended", v, b.closes.Load(), own.Err())
		}
	}()
	_, _ = retry.Hedge(t.Context(), h, func(ctx context.Context) (*http.Response, error) {
		own = ctx //nolint:fatcontext // it is looked at when the call is over
		return &http.Response{StatusCode: 200, Body: b}, nil
	}, nil)
}

func TestHedgedRequestsOverRealConnectionsAreReadWholeAndLeaveNothingOpen(t *testing.T) {
	const size = 512 << 10
	var n atomic.Int32
	srv, _ := listen(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%2 == 1 {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	})
	count := &counting{next: srv.Client().Transport}
	for range 5 {
		resp, err := retry.Hedge(t.Context(), retry.Hedging{Delay: 5 * time.Millisecond}, func(ctx context.Context) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			if err != nil {
				return nil, err
			}
			return count.RoundTrip(req)
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if len(got) != size || err != nil {
			t.Errorf("read %d bytes, %v, want %d, nil", len(got), err, size)
		}
	}
	if o, c := count.opened.Load(), count.closed.Load(); o != c {
		t.Errorf("bodies opened %d, closed %d", o, c)
	}
}
