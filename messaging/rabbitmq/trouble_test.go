package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

// control administers the node of the test.
func control(t *testing.T, node *services.Node, args ...string) {
	t.Helper()
	if _, err := node.Control(within(t, time.Minute), args...); err != nil {
		t.Fatal(err)
	}
}

// Expressions by which RabbitMQ raises and lowers the alarm for a full disk.
const (
	raise = "rabbit_alarm:set_alarm({{resource_limit,disk,node()},[]})"
	lower = "rabbit_alarm:clear_alarm({resource_limit,disk,node()})"
)

// Not parallel: it counts the goroutines of the whole process.
func TestPublishingResumesAfterEachOfManyBlocks(t *testing.T) {
	const blocks = 20
	node := need.Node(t, services.RabbitMQ())
	var log record
	b := newBroker(t, rabbitmq.Config{URL: node.URL(), RetryDelays: rungs[:1], Logger: slog.New(slog.NewTextHandler(&log, nil))})
	adminAt(t, node.URL()).declare(b, "t", "g")
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	var confirmed []time.Time
	first := make(chan struct{}, 1)
	var publishing sync.WaitGroup
	publish := func() {
		for ctx.Err() == nil {
			err := b.Publish(ctx, "t", numbered(1)...)
			switch {
			case err == nil:
				mu.Lock()
				confirmed = append(confirmed, time.Now())
				mu.Unlock()
				select {
				case first <- struct{}{}:
				default:
				}
			case ctx.Err() == nil:
				t.Errorf("Publish() = %v, want nil: its context lasts", err)
			}
		}
	}
	publishing.Go(publish)
	receive(t, first)
	before := runtime.NumGoroutine()
	// The node sleeps in between, and says from when to when it took messages, in
	// milliseconds.
	out, err := node.Control(within(t, 2*time.Minute), "eval", fmt.Sprintf(
		`[begin %s, timer:sleep(300), %s, T = os:system_time(millisecond), timer:sleep(1000), {T, os:system_time(millisecond)} end || _ <- lists:seq(1, %d)].`,
		raise, lower, blocks))
	if err != nil {
		t.Fatal(err)
	}
	after := runtime.NumGoroutine()
	stop()
	publishing.Wait()
	open := strings.FieldsFunc(out, func(r rune) bool { return r < '0' || r > '9' })
	if len(open) != 2*blocks {
		t.Fatalf("the node printed %q, want %d pairs of times", out, blocks)
	}
	for i := 0; i < len(open); i += 2 {
		from, to := millis(t, open[i]), millis(t, open[i+1])
		if !slices.ContainsFunc(confirmed, func(at time.Time) bool { return at.After(from) && at.Before(to) }) {
			t.Errorf("nothing was confirmed within %v after the end of block %d", to.Sub(from), i/2)
		}
	}
	// The broker tells only of blocks in which something was published.
	if n := strings.Count(log.String(), "the broker takes messages again"); n < blocks/2 || strings.Contains(log.String(), "lost") {
		t.Errorf("the log tells of %d blocks, want %d or nearly, and no lost connection:\n%s", n, blocks, log.String())
	}
	if after > before+2 {
		t.Errorf("%d goroutines after %d blocks, %d before", after, blocks, before)
	}
}

func millis(t *testing.T, text string) time.Time {
	t.Helper()
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.UnixMilli(ms)
}

func TestAnAlarmHoldsUpNeitherContextsNorAcknowledgements(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.RabbitMQ())
	b := newBroker(t, rabbitmq.Config{URL: node.URL(), RetryDelays: rungs[:1]})
	a := adminAt(t, node.URL())
	a.declare(b, "t", "g")
	const n, prefetch = 200, 10
	if err := b.Publish(within(t, patience), "t", numbered(n)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	control(t, node, "set_vm_memory_high_watermark", "0.000001")

	stop := errors.New("enough")
	var wg sync.WaitGroup
	for range 8 { // with more than the sockets take
		wg.Go(func() {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, stop)
			defer cancel()
			began := time.Now()
			err := b.Publish(ctx, "t", messaging.NewMessage("Large", make([]byte, 1<<20)))
			if took := time.Since(began); !errors.Is(err, stop) || took > 2*time.Second || !strings.Contains(err.Error(), "blocks publishing") {
				t.Errorf("Publish() = %v after %v, want the cause of its context after 1s, and what held it up", err, took)
			}
		})
	}
	wg.Wait()

	// All of them arrive only if each acknowledgement makes room for the next.
	got := make(chan *messaging.Delivery, n)
	sub := subscribe(t, b, messaging.Subscription{Topic: "t", Group: "g", Prefetch: prefetch}, into(got, messaging.Verdict{}))
	for range n {
		receive(t, got)
	}
	sub.stop()
	if left := a.count("t.g"); left != 0 {
		t.Errorf("%d messages are left in the queue, want 0", left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("Close() during the alarm = %v, want nil", err)
	}
}

func TestADeliveryThatOutlastsTheConsumerTimeoutIsLostAndComesAgain(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.RabbitMQ())
	// RabbitMQ looks for such deliveries once a minute otherwise.
	control(t, node, "eval", "application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, channel_tick_interval, 500).")
	b := newBroker(t, rabbitmq.Config{URL: node.URL(), RetryDelays: rungs[:1]})
	type held struct {
		letter
		redelivered bool
	}
	accepted := make(chan held, 10)
	lost := make(chan error, 10)
	sub := subscribe(t, b, messaging.Subscription{Topic: "t", Group: "g", OnLost: func(err error) { lost <- err }},
		func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			accepted <- held{letter{d, s, lease}, d.Redelivered}
			return nil
		})
	if err := b.Publish(within(t, patience), "t", numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	first := receive(t, accepted)
	receive(t, first.lease.Done())
	if cause := context.Cause(first.lease); !errors.Is(cause, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", cause)
	}
	if err := receive(t, lost); !strings.Contains(err.Error(), "timeout") && !strings.Contains(err.Error(), "timed out") {
		t.Errorf("OnLost(%v), want RabbitMQ's reason", err)
	}
	sub.awaitReady()
	second := receive(t, accepted)
	if second.d.ID != first.d.ID || !second.redelivered || second.d.Attempt != 1 {
		t.Errorf("it came again as %+v, want message %s, redelivered, at attempt 1", second.d, first.d.ID)
	}
	if err := first.s.Settle(t.Context(), messaging.Verdict{}); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Settle() of the lost delivery = %v, want ErrLost", err)
	}
	second.settle(t, messaging.Ack)
	sub.stop()
}

// The broker goes on sending heartbeats while it reads nothing, so the connection
// is not dead, however full it is.
func TestAnAlarmThatOutlastsTheHeartbeatCostsNoConnectionAndHoldsUpNoClose(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.RabbitMQ())
	var log record
	config := rabbitmq.Config{URL: node.URL(), RetryDelays: rungs[:1], Heartbeat: time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	b, closes := newBroker(t, config), newBroker(t, config)
	a := adminAt(t, node.URL())
	a.declare(b, "t", "g")
	for _, b := range []*rabbitmq.Broker{b, closes} {
		if err := b.Publish(within(t, patience), "t", numbered(1)...); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
	}
	control(t, node, "eval", raise+".")
	const n = 8
	var wg sync.WaitGroup
	for range n { // with more than the sockets take
		wg.Go(func() {
			if err := b.Publish(within(t, 2*time.Minute), "t", messaging.NewMessage("Large", make([]byte, 1<<20))); err != nil {
				t.Errorf("Publish() = %v, want nil: its context outlasts the alarm", err)
			}
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- closes.Publish(context.Background(), "t", numbered(1)...) }() // with less than that
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); strings.Count(log.String(), "the broker blocks publishing") < 2; {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the broker tells of no block")
		}
	}
	<-time.After(5 * config.Heartbeat) // watches that nothing happens
	if text := log.String(); strings.Contains(text, "lost") {
		t.Errorf("a connection was given up although the broker's heartbeats come:\n%s", text)
	}
	if err := closes.Close(within(t, 10*time.Second)); err != nil {
		t.Errorf("Close() during the alarm = %v, want nil", err)
	}
	if err := receive(t, ended); !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Publish() = %v, want ErrClosed", err)
	}
	control(t, node, "eval", lower+".")
	wg.Wait()
}
