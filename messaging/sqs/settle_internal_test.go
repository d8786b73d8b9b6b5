package sqs

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
)

// An Extend that is under way when the delivery is settled must not come after it.
func TestAnExtendUndoesNoRetry(t *testing.T) {
	b, err := New(Config{Client: awssqs.New(awssqs.Options{Region: "us-east-1"}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		in := newIntake(b, messaging.Subscription{Topic: "t", Group: "g", Prefetch: 1}, layout{}, b.set.Logger)
		var mu sync.Mutex
		var last time.Duration
		in.stays.do = func(_ context.Context, _ *flight, calls []*call[stay]) {
			mu.Lock()
			defer mu.Unlock()
			last = calls[0].entry.time
			finish(calls, nil)
		}
		s := newSettler(in, &received{receipt: "r", at: time.Now()})
		in.open[s] = struct{}{}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 5 {
					if err := s.Extend(t.Context(), time.Minute); err != nil {
						t.Errorf("Extend() = %v, want nil", err)
					}
				}
			})
		}
		if err := s.Settle(t.Context(), messaging.Verdict{Kind: messaging.Retry, After: time.Hour}); err != nil {
			t.Errorf("Settle() = %v, want nil", err)
		}
		all.Wait()
		if mu.Lock(); last != time.Hour {
			t.Fatalf("the message is kept away for %v at the end, want 1h", last)
		}
		mu.Unlock()
	}
}
