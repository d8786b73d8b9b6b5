package messagingtest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/messagingtest"
)

// buried returns a fault in what subscriptions to dead letters do.
func buried(change func(b *memory.Broker, s messaging.Subscription, next messaging.Deliver) messaging.Deliver) faulty {
	return faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
		if s.DeadLetters {
			d = change(b, s, d)
		}
		return b.Subscribe(ctx, s, d)
	}}
}

// buriedVerdict returns a fault that settles dead letters in a way of its own.
func buriedVerdict(settle func(ctx context.Context, b *memory.Broker, d messaging.Delivery, s messaging.Settler, v messaging.Verdict) error) faulty {
	return buried(func(b *memory.Broker, _ messaging.Subscription, next messaging.Deliver) messaging.Deliver {
		return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			dead := *d
			return next(lease, d, settler{s, func(ctx context.Context, s messaging.Settler, v messaging.Verdict) error {
				return settle(ctx, b, dead, s, v)
			}})
		}
	})
}

// swapped returns a fault that takes one verdict on a dead letter for another.
func swapped(from, to messaging.Kind) faulty {
	return buriedVerdict(func(ctx context.Context, _ *memory.Broker, _ messaging.Delivery, s messaging.Settler, v messaging.Verdict) error {
		if v.Kind == from {
			v.Kind = to
		}
		return s.Settle(ctx, v)
	})
}

// buriedDelivery returns a fault that changes the delivery of each dead letter.
func buriedDelivery(change func(d *messaging.Delivery)) faulty {
	return buried(func(_ *memory.Broker, _ messaging.Subscription, next messaging.Deliver) messaging.Deliver {
		return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			change(d)
			return next(lease, d, s)
		}
	})
}

func deadFaults() map[string]fault {
	var mu sync.Mutex
	moved := map[string]bool{}
	triedBefore := buriedVerdict(func(ctx context.Context, _ *memory.Broker, d messaging.Delivery, s messaging.Settler, v messaging.Verdict) error {
		mu.Lock()
		moved[d.ID] = v.Kind == messaging.Retry
		mu.Unlock()
		return s.Settle(ctx, v)
	})
	triedBefore.deliver = func(next messaging.Deliver) messaging.Deliver {
		return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			mu.Lock()
			if moved[d.ID] {
				d.Attempt++
			}
			mu.Unlock()
			return next(lease, d, s)
		}
	}
	return map[string]fault{
		"does not know subscriptions to dead letters": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				s.DeadLetters = false
				return b.Subscribe(ctx, s, d)
			}}, "a subscription to dead letters receives them alone and the oldest first", false,
		},
		"shows only the dead letters of the beginning": {
			buried(func(_ *memory.Broker, _ messaging.Subscription, next messaging.Deliver) messaging.Deliver {
				began := time.Now()
				return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
					if at, err := time.Parse(time.RFC3339Nano, d.Headers[messaging.HeaderDeadTime]); err == nil && at.After(began) {
						return s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
					}
					return next(lease, d, s)
				}
			}), "a subscription to dead letters receives what dies while it runs", true,
		},
		"keeps dead letters that are acknowledged": {
			swapped(messaging.Ack, messaging.Release), "Ack deletes a dead letter and Release leaves it where it is", false,
		},
		"puts a dead letter that is released at the end": {
			swapped(messaging.Release, messaging.DeadLetter), "Ack deletes a dead letter and Release leaves it where it is", false,
		},
		"says anew when a dead letter has died": {
			buriedDelivery(func(d *messaging.Delivery) { d.Headers[messaging.HeaderDeadTime] = time.Now().Format(time.RFC3339Nano) }),
			"DeadLetter puts a dead letter unchanged at the end", false,
		},
		"counts the attempts before a death": {triedBefore, "Retry moves a dead letter back as one that was never tried", false},
		"moves a dead letter back into every group": {
			buriedVerdict(func(ctx context.Context, b *memory.Broker, d messaging.Delivery, s messaging.Settler, v messaging.Verdict) error {
				if v.Kind != messaging.Retry {
					return s.Settle(ctx, v)
				}
				if err := b.Publish(ctx, d.Topic, d.Message); err != nil {
					return err
				}
				return s.Settle(ctx, messaging.Verdict{Kind: messaging.Ack})
			}), "Retry moves a dead letter back as one that was never tried", false,
		},
		"deletes dead letters that are shown": {
			swapped(messaging.Release, messaging.Ack), "DeadLetters shows dead letters and leaves them there", false,
		},
		"leaves at the front what is to go to the end": {
			swapped(messaging.DeadLetter, messaging.Release), "Redrive moves what its filter takes and leaves the rest in order", false,
		},
		"deletes dead letters that are moved back": {swapped(messaging.Retry, messaging.Ack), "several Redrives at once lose nothing", true},
		"gives dead letters an ID and a time of its own": {
			buriedDelivery(func(d *messaging.Delivery) {
				d.ID = rand.Text()
				delete(d.Headers, messaging.HeaderDeadTime)
			}), "Redrive moves no message twice that dies again", false,
		},
		"is ready after its first delivery": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				ready := sync.OnceFunc(s.OnReady)
				s.OnReady = func() { time.AfterFunc(100*time.Millisecond, ready) }
				return b.Subscribe(ctx, s, func(lease context.Context, m *messaging.Delivery, set messaging.Settler) error {
					defer ready()
					return d(lease, m, set)
				})
			}}, "OnReady comes before the first delivery and OnLost only after it", false,
		},
		"takes the end of a subscription for an interruption": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				err := b.Subscribe(ctx, s, d)
				if s.OnLost != nil {
					s.OnLost(errors.New("the context has ended"))
				}
				return err
			}}, "OnReady comes before the first delivery and OnLost only after it", false,
		},
	}
}

const testLease = 300 * time.Millisecond

// leased returns a Broker that promises testLease, and takes a delivery back after
// lasts, unless it is extended, if extend says so.
func leased(lasts time.Duration, extend bool) faulty {
	return faulty{
		promises: func(p *messaging.Promises) { p.Lease = testLease },
		subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, deliver messaging.Deliver) error {
			return b.Subscribe(ctx, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
				own, end := context.WithCancelCause(lease)
				l := &leaseholder{Settler: set, end: end, extend: extend}
				l.timer = time.AfterFunc(lasts, l.expire)
				return deliver(own, d, l)
			})
		},
	}
}

// A leaseholder is a delivery whose lease expires.
type leaseholder struct {
	messaging.Settler
	end    func(error)
	timer  *time.Timer
	extend bool

	mu            sync.Mutex
	settled, lost bool // guarded by mu
}

func (l *leaseholder) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled {
		return
	}
	l.lost = true
	l.end(messaging.ErrLost)
	_ = l.Settler.Settle(context.Background(), messaging.Verdict{Kind: messaging.Release})
}

func (l *leaseholder) Settle(ctx context.Context, v messaging.Verdict) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return messaging.ErrLost
	}
	l.settled = true
	return l.Settler.Settle(ctx, v)
}

func (l *leaseholder) Extend(_ context.Context, d time.Duration) error {
	if l.extend {
		l.timer.Reset(d)
	}
	return nil
}

func leaseFaults() map[string]fault {
	const expires, extended = "a delivery that is neither settled nor extended within Lease comes again", "a delivery that is extended does not come again"
	return map[string]fault{
		"never takes a delivery back":        {faulty{promises: func(p *messaging.Promises) { p.Lease = testLease }}, expires, true},
		"takes deliveries back too early":    {leased(testLease/10, true), expires, false},
		"takes back a delivery in silence":   {silent(), expires, false},
		"does not heed that one is extended": {leased(testLease, false), extended, false},
	}
}

// silent is a Broker that gives a delivery to someone else, and leaves the lease.
func silent() faulty {
	f := leased(testLease, true)
	inner := f.subscribe
	f.subscribe = func(ctx context.Context, b *memory.Broker, s messaging.Subscription, deliver messaging.Deliver) error {
		return inner(ctx, b, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
			live, end := context.WithCancelCause(context.WithoutCancel(lease))
			context.AfterFunc(lease, func() { end(errors.New("expired")) })
			return deliver(live, d, set)
		})
	}
	return f
}

// noFault names a Broker with leases and without a fault.
const noFault = "has leases"

func TestSuitePassesABrokerThatHasLeases(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.run", "^TestSuite$/^a_delivery_that_is_", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), variable+"="+noFault)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS: TestSuite/a_delivery_that_is_") < 2 {
		t.Errorf("the suite ended with %v, want both tests of leases to pass\n%s", err, out)
	}
}

func TestBenchMeasuresEveryWayToPublish(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "-test.run", "^$", "-test.bench", "BenchmarkBench", "-test.benchtime", "250x").CombinedOutput()
	if err != nil {
		t.Fatalf("the benchmarks ended with %v\n%s", err, out)
	}
	for _, name := range []string{"publish_one_by_one", "publish_in_batches", "publish_from_16_goroutines", "publish_to_ack"} {
		i := strings.Index(string(out), "BenchmarkBench/"+name)
		if i < 0 || !strings.Contains(strings.SplitN(string(out[i:]), "\n", 2)[0], "msg/s") {
			t.Errorf("no msg/s of %s in\n%s", name, out)
		}
	}
}

func BenchmarkBench(b *testing.B) {
	messagingtest.Bench(b, func(b *testing.B) messaging.Broker {
		b.Helper()
		broker, err := memory.New(memory.Config{})
		if err != nil {
			b.Fatal(err)
		}
		return broker
	})
}
