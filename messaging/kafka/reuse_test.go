package kafka_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging/kafka"
)

// What a call takes serves the next one, but not while the client still has it.
func TestCallsThatAreLeftEarlySpoilNoRecordOfLaterOnes(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(2, "t"))
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	var mu sync.Mutex
	confirmed := map[string]bool{}
	var running sync.WaitGroup
	for p := range 32 {
		running.Go(func() {
			for n := range 200 {
				m := numbered(1)[0]
				m.ID = strconv.Itoa(p) + "/" + strconv.Itoa(n)
				m.Key, m.Payload = m.ID, []byte(m.ID)
				ctx, cancel := within(t, patience), func() {}
				if p%2 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(n%20)*100*time.Microsecond)
				}
				err := b.Publish(ctx, "t", m)
				cancel()
				switch {
				case err == nil:
					mu.Lock()
					confirmed[m.ID] = true
					mu.Unlock()
				case p%2 != 0:
					t.Errorf("Publish() = %v, want nil for who stays", err)
				}
			}
		})
	}
	running.Wait()
	cl := raw(t, c.ListenAddrs(), kgo.ConsumeTopics("t"))
	seen := map[string]bool{}
	for left := len(confirmed); left > 0; {
		fetches := cl.PollFetches(within(t, patience))
		if err := fetches.Err(); err != nil {
			t.Fatalf("%d confirmed messages are not stored: %v", left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			id := string(r.Key)
			for _, h := range r.Headers {
				if h.Key == "ce_id" && string(h.Value) != id {
					t.Errorf("record %s has ce_id %s", id, h.Value)
				}
			}
			if string(r.Value) != id {
				t.Errorf("record %s has the payload %q", id, r.Value)
			}
			if seen[id] {
				t.Errorf("record %s is stored twice", id)
			}
			seen[id] = true
			if confirmed[id] {
				left--
			}
		})
	}
}
