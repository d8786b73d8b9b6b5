package messagingtest

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/messaging"
)

// The Consumer has tests of its own; these show that it and the broker agree.
func consuming() []guarantee {
	return []guarantee{
		{name: "a Consumer tries a failing message MaxAttempts times while others pass", check: consumeFailing},
		{name: "a Consumer never handles two messages with one key at one time or out of order", check: consumeOrdered, unless: unordered},
		{name: "a Consumer with OrderedRetries holds back the later messages of a failing key and no other", check: consumeInOrder, unless: unordered},
		{name: "a Consumer that is paused finishes what runs and gives back the rest until it is resumed", check: consumePaused},
		{name: "a Consumer that stops finishes what runs and leaves the rest to the next", check: consumeDrain},
	}
}

// consume runs a Consumer, and returns what stops it and returns its error.
func (h *harness) consume(cfg messaging.ConsumerConfig, handle messaging.Handler) (stop func() error) {
	h.Helper()
	_, stop = h.consumer(cfg, handle)
	return stop
}

// consumer is consume that returns the Consumer too.
func (h *harness) consumer(cfg messaging.ConsumerConfig, handle messaging.Handler) (c *messaging.Consumer, stop func() error) {
	h.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	c, err := messaging.NewConsumer(h.broker, cfg)
	if err != nil {
		h.Fatalf("NewConsumer() = %v, want nil", err)
	}
	c.Handle(messaging.Subscription{Topic: h.topic, Group: "g"}, handle)
	ctx, cancel := context.WithCancel(h.ctx)
	h.Cleanup(cancel)
	ended := make(chan error, 1)
	h.running.Go(func() { ended <- c.Run(ctx) })
	select {
	case <-c.Ready():
	case err := <-ended:
		h.Fatalf("Run() = %v before it was ready", err)
	case <-time.After(patience):
		h.Fatal("the Consumer does not become ready")
	}
	return c, func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("it does not return")
		}
	}
}

func consumeFailing(h *harness) {
	const attempts, others = 3, 20
	var mu sync.Mutex
	var tries []int
	passed := map[string]bool{}
	dead, all := make(chan struct{}), make(chan struct{})
	died, passedAll := sync.OnceFunc(func() { close(dead) }), sync.OnceFunc(func() { close(all) })
	stop := h.consume(messaging.ConsumerConfig{
		Concurrency: 1, MaxAttempts: attempts, Backoff: func(int) time.Duration { return time.Millisecond },
		OnSettle: func(s messaging.Settled) {
			if s.Verdict.Kind == messaging.DeadLetter {
				died()
			}
		},
	}, func(_ context.Context, d *messaging.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if d.Type == "failing" {
			tries = append(tries, d.Attempt)
			return errors.New("failed")
		}
		if passed[d.ID] = true; len(passed) == others {
			passedAll()
		}
		return nil
	})
	h.publish(message("failing"))
	for range others {
		h.publish(message("passing"))
	}
	await(h, all, "the handling of the other messages")
	await(h, dead, "the dead-lettering")
	if err := stop(); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
	if len(tries) != attempts || tries[0] != 1 || tries[attempts-1] != attempts {
		h.Errorf("attempts = %v, want 1 to %d", tries, attempts)
	}
	h.nothingLeft()
}

func consumeOrdered(h *harness) {
	const keys, each = 4, 50
	var running [keys]atomic.Int64
	var next [keys]int
	var left atomic.Int64
	left.Store(keys * each)
	all := make(chan struct{})
	stop := h.consume(messaging.ConsumerConfig{Concurrency: 3}, func(_ context.Context, d *messaging.Delivery) error {
		k, _ := strconv.Atoi(d.Key)
		n, _ := strconv.Atoi(string(d.Payload))
		if running[k].Add(1) != 1 {
			h.Errorf("key %d: two handlers run at one time", k)
		}
		if n != next[k] && !d.Redelivered {
			h.Errorf("key %d: message %d came where %d was next", k, n, next[k])
		}
		next[k] = n + 1
		running[k].Add(-1)
		if left.Add(-1) == 0 {
			close(all)
		}
		return nil
	})
	var msgs []messaging.Message
	for n := range each {
		for k := range keys {
			m := messaging.NewMessage("m", []byte(strconv.Itoa(n)))
			m.Key = strconv.Itoa(k)
			msgs = append(msgs, m)
		}
	}
	h.publish(msgs...)
	await(h, all, "the handling of all messages")
	if err := stop(); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
}

// The first message of a key fails until one of another key has passed, so that
// nothing depends on how long anything takes.
func consumeInOrder(h *harness) {
	var mu sync.Mutex
	var failures int
	var log []string // what was handled, without failing
	all := make(chan struct{})
	stop := h.consume(messaging.ConsumerConfig{
		OrderedRetries: true, MaxAttempts: 1 << 30, Backoff: func(int) time.Duration { return time.Millisecond },
	}, func(_ context.Context, d *messaging.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if d.Type == "first" && (failures == 0 || !slices.Contains(log, "passing")) {
			failures++
			return errors.New("failed")
		}
		if log = append(log, d.Type); len(log) == 3 {
			close(all)
		}
		return nil
	})
	msgs := []messaging.Message{message("first"), message("second"), message("passing")}
	msgs[0].Key, msgs[1].Key, msgs[2].Key = "failing", "failing", "passing"
	h.publish(msgs...)
	await(h, all, "the handling of all messages")
	if err := stop(); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
	if first, second := slices.Index(log, "first"), slices.Index(log, "second"); first > second {
		h.Errorf("handled %s, want first before second", log)
	}
	h.nothingLeft()
}

func consumePaused(h *harness) {
	const total = 5
	begun, finish := make(chan string, 2*total), make(chan struct{})
	settled := make(chan messaging.Kind, 20*total)
	c, stop := h.consumer(messaging.ConsumerConfig{
		Concurrency: 1, OnSettle: func(s messaging.Settled) { settled <- s.Verdict.Kind },
	}, func(_ context.Context, d *messaging.Delivery) error {
		begun <- d.ID
		<-finish
		return nil
	})
	for range total {
		h.publish(message("m"))
	}
	first := await(h, begun, "the first call of the handler")
	if err := c.Pause(h.topic, "g"); err != nil {
		h.Fatalf("Pause() = %v, want nil", err)
	}
	close(finish)
	for await(h, settled, "the end of the first handler") != messaging.Ack { // the others are given back before or after it
	}
	rest := h.group("g")
	for range total - 1 {
		a := rest.receive()
		if a.ID == first {
			h.Error("another subscriber received the message whose handler ran at the pause, want the others alone")
		}
		h.ack(a)
	}
	rest.stop()
	if len(begun) != 0 {
		h.Errorf("%d handlers were begun after the pause, want 0", len(begun))
	}
	if err := c.Resume(h.topic, "g"); err != nil {
		h.Fatalf("Resume() = %v, want nil", err)
	}
	last := message("last")
	h.publish(last)
	if got := await(h, begun, "the first call of the handler after Resume"); got != last.ID {
		h.Errorf("after Resume, message %s was handled, want %s", got, last.ID)
	}
	if err := stop(); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
	h.nothingLeft()
}

func consumeDrain(h *harness) {
	const total = 10
	begun, finish := make(chan string, total), make(chan struct{})
	stop := h.consume(messaging.ConsumerConfig{Concurrency: 1}, func(ctx context.Context, d *messaging.Delivery) error {
		begun <- d.ID
		select {
		case <-finish:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	seen := map[string]bool{}
	for range total {
		h.publish(message("m"))
	}
	first := await(h, begun, "the first call of the handler")
	ended := make(chan error, 1)
	h.running.Go(func() { ended <- stop() })
	select {
	case err := <-ended:
		h.Fatalf("Run() = %v while a handler runs", err)
	case <-time.After(100 * time.Millisecond): // enough to catch one that does not wait at all
	}
	close(finish)
	if err := await(h, ended, "the end of Run"); err != nil {
		h.Errorf("Run() = %v, want nil", err)
	}
	if len(begun) != 0 {
		h.Errorf("%d handlers were begun after the end of the context, want 0", len(begun))
	}
	sub := h.group("g")
	for range total - 1 {
		a := sub.receive()
		seen[a.ID] = true
		h.ack(a)
	}
	if len(seen) != total-1 || seen[first] {
		h.Errorf("the next subscriber received %d messages, the handled one among them: %t; want %d, false", len(seen), seen[first], total-1)
	}
}
