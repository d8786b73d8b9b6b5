package sqs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

// weather is a service on a bad day: one request in ten fails, or loses its answer, or
// fails in part.
func weather(op string, before int) *sqsfake.Fault {
	if rand.IntN(10) > 0 {
		return nil
	}
	switch rand.IntN(4) {
	case 0:
		return &sqsfake.Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"}
	case 1:
		return &sqsfake.Fault{Status: http.StatusBadRequest, Code: "RequestThrottled"}
	case 2:
		return &sqsfake.Fault{Lose: true}
	}
	return &sqsfake.Fault{Fail: map[int]string{rand.IntN(3): "InternalError"}}
}

// What was confirmed is received in order of each Key, by two processes that retry,
// release and dead-letter, while requests fail.
func TestOnABadDayNothingConfirmedIsLostAndOrderIsKept(t *testing.T) {
	t.Parallel()
	const keys, each = 6, 25
	for name, fifo := range map[string]bool{"standard": false, "FIFO": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &sqsfake.Server{}
			cfg := over(t, s)
			topic := unique()
			var mu sync.Mutex
			done := map[string]int{}    // acknowledged or dead-lettered, by payload and key
			attempt := map[string]int{} // that was asked to be tried again
			last := map[string]int{}
			var left atomic.Int64
			left.Store(keys * each)
			all := make(chan struct{})
			for range 2 {
				b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), FIFO: fifo, Visibility: 3 * time.Second})
				ctx, cancel := context.WithCancel(context.Background())
				ready, ended := make(chan struct{}, 1000), make(chan error, 1)
				var settling sync.WaitGroup
				go func() {
					ended <- b.Subscribe(ctx, messaging.Subscription{Topic: topic, Group: "g", Prefetch: 16, OnReady: func() { ready <- struct{}{} }},
						func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
							settling.Go(func() {
								id, n := d.Key+"/"+string(d.Payload), 0
								n, _ = strconv.Atoi(string(d.Payload))
								mu.Lock()
								if fifo && n > last[d.Key]+1 || n > each {
									t.Errorf("%s came after %d", id, last[d.Key])
								}
								verdict := messaging.Verdict{Kind: []messaging.Kind{messaging.Ack, messaging.Ack, messaging.Ack, messaging.DeadLetter, messaging.Release, messaging.Retry}[rand.IntN(6)]}
								if attempt[id]++; attempt[id] > 3 {
									verdict.Kind = messaging.Ack
								}
								mu.Unlock()
								if rand.IntN(3) == 0 {
									_ = set.Extend(lease, 3*time.Second)
								}
								final := verdict.Kind == messaging.Ack || verdict.Kind == messaging.DeadLetter
								if final {
									mu.Lock()
									last[d.Key] = max(last[d.Key], n)
									mu.Unlock()
								}
								err := set.Settle(lease, verdict)
								if err == nil && final {
									mu.Lock()
									defer mu.Unlock()
									if done[id]++; done[id] == 1 && left.Add(-1) == 0 {
										close(all)
									}
								}
							})
							return nil
						})
				}()
				receive(t, ready)
				t.Cleanup(func() {
					cancel()
					if err := receive(t, ended); err != nil {
						t.Errorf("Subscribe() = %v, want nil", err)
					}
					settling.Wait()
				})
			}
			s.Break(weather)
			b := newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), FIFO: fifo})
			var publishers sync.WaitGroup
			for k := range keys {
				publishers.Go(func() {
					for n := 1; n <= each; n++ {
						m := message("k"+strconv.Itoa(k), n)
						if err := b.Publish(within(t, patience), topic, m); err != nil {
							t.Errorf("Publish() = %v, want nil", err)
							return
						}
					}
				})
			}
			publishers.Wait()
			select {
			case <-all:
			case <-time.After(2 * patience):
				suffix := map[bool]string{true: ".fifo"}[fifo]
				mu.Lock()
				var missing []string
				for k := range keys {
					for n := 1; n <= each; n++ {
						if id := "k" + strconv.Itoa(k) + "/" + strconv.Itoa(n); done[id] == 0 {
							missing = append(missing, id+" tried "+strconv.Itoa(attempt[id]))
						}
					}
				}
				t.Errorf("%d messages are left, want none: %v; the queue holds %d, the dead letters %d", left.Load(), missing, s.Len(topic+"_to_g"+suffix), s.Len(topic+"_to_g_dlq"+suffix))
				mu.Unlock()
			}
			s.Break(nil)
		})
	}
}

// running returns the stacks of goroutines with a label that run this package's code.
func running(t *testing.T, label string) (stacks []string) {
	t.Helper()
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		t.Fatal(err)
	}
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, label) && strings.Contains(stack, "messaging/sqs.(*") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// Close at any moment leaves nothing behind.
func TestCloseAtAnyMomentEndsAllGoroutines(t *testing.T) {
	t.Parallel()
	label := unique() // which goroutines pass on to those that they start
	var rounds sync.WaitGroup
	for range 15 {
		rounds.Go(func() {
			pprof.SetGoroutineLabels(pprof.WithLabels(t.Context(), pprof.Labels("test", label)))
			s := &sqsfake.Server{}
			cfg := over(t, s)
			s.Break(weather)
			b, err := sqs.New(sqs.Config{Client: awssqs.NewFromConfig(cfg), FIFO: rand.IntN(2) == 0, Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Error(err)
				return
			}
			sqs.SetFreshly(b, 0, 0)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g"}, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
						all.Go(func() {
							_ = set.Extend(lease, time.Minute)
							_ = set.Settle(lease, messaging.Verdict{Kind: messaging.Kind(rand.IntN(4))})
						})
						if rand.IntN(8) == 0 {
							<-lease.Done()
							return context.Cause(lease)
						}
						return nil
					})
					if !errors.Is(err, messaging.ErrClosed) {
						t.Errorf("Subscribe() = %v, want ErrClosed", err)
					}
				})
				all.Go(func() {
					for i := 0; ; i++ {
						err := b.Publish(t.Context(), "t", message("k", i), message("", i))
						if errors.Is(err, messaging.ErrClosed) {
							return
						}
					}
				})
			}
			time.Sleep(rand.N(400 * time.Millisecond)) // the moment
			if err := b.Close(within(t, patience)); err != nil {
				t.Errorf("Close() = %v, want nil", err)
			}
			all.Wait()
		})
	}
	rounds.Wait()
	deadline := time.Now().Add(5 * time.Second)
	for left := running(t, label); len(left) > 0; left = running(t, label) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines of the Broker are left: %s", len(left), left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Only what is given back comes again within the test.
func TestASubscriptionThatEndsWhileMessagesComeKeepsNone(t *testing.T) {
	t.Parallel()
	const rounds = 8
	for name, fifo := range map[string]bool{"standard": false, "FIFO": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &sqsfake.Server{}
			b := fakeBroker(t, s, sqs.Config{FIFO: fifo, Visibility: time.Hour})
			topic := unique()
			sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
			left := map[string]bool{}
			for n := range rounds {
				a, c := message("k", 2*n), message("", 2*n+1)
				left[a.ID], left[c.ID] = true, true
				var sending sync.WaitGroup
				sending.Go(func() { publish(t, b, topic, a, c) })
				time.Sleep(rand.N(20 * time.Millisecond)) // the moment
				sub.cancel()
				ended := sub.done
				for ended != nil {
					select {
					case d := <-sub.come:
						delete(left, d.ID)
						d.ack(t)
					case <-ended:
						ended = nil
					}
				}
				sending.Wait()
				if n < rounds-1 {
					sub = subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
				}
			}
			sub = subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"})
			for len(left) > 0 {
				d := sub.receive()
				delete(left, d.ID)
				d.ack(t)
			}
		})
	}
}
