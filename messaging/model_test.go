package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

// Whatever handlers, leases and those who pause do: no message is lost, no two of
// one key are handled at one time, none is tried more than MaxAttempts times by one
// delivery, and under OrderedRetries, where leases hold, the order of each key
// stays.
func TestConsumerBehavesAsItsModel(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testConsumerModel(t, seed) })
		})
	}
}

// forgetful is a Broker whose Extend fails for some deliveries, always, so that
// their leases end.
type forgetful struct {
	*memory.Broker
	forgets func() bool
}

func (f forgetful) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	return f.Broker.Subscribe(ctx, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
		if f.forgets() {
			set = unextended{set}
		}
		return deliver(lease, d, set)
	})
}

type unextended struct{ messaging.Settler }

func (unextended) Extend(context.Context, time.Duration) error { return errFailed }

// A keyModel is what must hold of one key.
type keyModel struct {
	busy    bool
	next    int          // all before it have ended
	ended   map[int]bool // from next on
	tainted bool         // a delivery was lost, and order with it
}

// A consumerModel follows a Consumer by what its handler and OnSettle see.
type consumerModel struct {
	t       *testing.T
	max     int  // attempts
	ordered bool // retries

	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu, as is what follows
	keys map[string]*keyModel
	done map[string]int // how often each message was handled, or dead-lettered
	lost int
}

func (m *consumerModel) dice(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n)
}

func (m *consumerModel) key(name string) *keyModel {
	k := m.keys[name]
	if k == nil {
		k = &keyModel{ended: map[int]bool{}}
		m.keys[name] = k
	}
	return k
}

// handle is the handler.
func (m *consumerModel) handle(_ context.Context, d *messaging.Delivery) error {
	n, _ := strconv.Atoi(string(d.Payload))
	key, wait, what := d.Key, time.Duration(m.dice(8000))*time.Millisecond, m.dice(12)
	m.mu.Lock()
	k := m.key(key)
	if key != "" {
		if k.busy {
			m.t.Errorf("key %s: message %d begins while another is handled", key, n)
		}
		if m.ordered && n > k.next && !k.tainted {
			m.t.Errorf("key %s: message %d begins where %d has not ended", key, n, k.next)
		}
		k.busy = true
	}
	if d.Attempt > m.max {
		m.t.Errorf("key %s: message %d is tried %d times", key, n, d.Attempt)
	}
	m.mu.Unlock()
	d.Key, d.Payload = "spoiled", nil // which no later attempt must see
	time.Sleep(wait)
	m.mu.Lock()
	k.busy = false
	m.mu.Unlock()
	switch what {
	case 0:
		panic("by chance")
	case 1:
		runtime.Goexit()
	case 2:
		return messaging.Permanent(errFailed)
	case 3:
		return rejection{time.Second}
	case 4, 5, 6:
		return errFailed
	}
	return nil
}

// restored gives OnSettle back what the handler spoils.
func restored(next messaging.Handler) messaging.Handler {
	return func(ctx context.Context, d *messaging.Delivery) error {
		as := *d
		defer func() { d.Key, d.Payload = as.Key, as.Payload }()
		return next(ctx, d)
	}
}

// settled is the OnSettle.
func (m *consumerModel) settled(s messaging.Settled) {
	n, _ := strconv.Atoi(string(s.Delivery.Payload))
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.key(s.Delivery.Key)
	switch {
	case s.Err != nil:
		if !errors.Is(s.Err, messaging.ErrLost) {
			m.t.Errorf("message %d was not settled: %v", n, s.Err)
		}
		m.lost++
		k.tainted = true
	case s.Verdict.Kind == messaging.Ack, s.Verdict.Kind == messaging.DeadLetter:
		m.done[s.Delivery.ID]++
		k.ended[n] = true
		for k.ended[k.next] {
			delete(k.ended, k.next)
			k.next++
		}
	}
}

func testConsumerModel(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := &consumerModel{t: t, max: 1 + rng.IntN(4), ordered: rng.IntN(4) > 0, rng: rand.New(rand.NewPCG(seed, 1)), keys: map[string]*keyModel{}, done: map[string]int{}}
	expiring := rng.IntN(2) == 0
	broker, err := memory.New(memory.Config{Lease: []time.Duration{0, 5 * time.Second}[rng.IntN(2)]})
	if err != nil {
		t.Fatal(err)
	}
	b := forgetful{broker, func() bool { return expiring && m.dice(10) == 0 }}
	cfg := messaging.ConsumerConfig{
		Concurrency: 1 + rng.IntN(6), MaxAttempts: m.max, OrderedRetries: m.ordered, DrainTimeout: time.Hour,
		Logger: slog.New(slog.DiscardHandler), OnSettle: m.settled,
	}
	prefetch := 1 + rng.IntN(40)
	start := func() *running {
		c, _ := messaging.NewConsumer(b, cfg)
		c.Handle(messaging.Subscription{Topic: "t", Group: "g", Prefetch: prefetch}, m.handle, restored)
		ctx, stop := context.WithCancel(context.Background())
		r := &running{t: t, c: c, stop: stop, ended: make(chan error, 1)}
		go func() { r.ended <- c.Run(ctx) }()
		<-c.Ready()
		return r
	}
	r := start()
	numbers, sent := map[string]int{}, map[string]bool{}
	for range 400 {
		switch rng.IntN(40) {
		case 0:
			_ = r.c.Pause("t", "g")
		case 1, 2:
			_ = r.c.Resume("t", "g")
		case 3:
			if err := r.end(); err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
			r = start()
		case 4, 5, 6, 7, 8:
			time.Sleep(time.Duration(rng.IntN(20)) * time.Second)
		default:
			key := []string{"", "a", "b", "c", "d"}[rng.IntN(5)]
			msg := keyed(key, numbers[key])
			numbers[key]++
			sent[msg.ID] = true
			publish(t, b, msg)
		}
	}
	_ = r.c.Resume("t", "g")
	time.Sleep(24 * time.Hour)
	if got := r.c.Stats()[0]; got.InFlight != 0 || got.Waiting != 0 || got.Held != 0 {
		t.Errorf("Stats() = %+v after a day, want all at rest", got)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if left := rest(t, broker); len(left) != 0 {
		t.Errorf("%d messages were left, want 0", len(left))
	}
	for id := range sent {
		if m.done[id] != 1 {
			t.Errorf("message %s ended %d times, want once", id, m.done[id])
		}
	}
	if m.lost > 0 && (!expiring || broker.Promises().Lease == 0) {
		t.Errorf("%d deliveries were lost though no lease could end", m.lost)
	}
}
