package messagingtest_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/messagingtest"
)

// variable tells a copy of this program which fault to run the suite with.
const variable = "MESSAGINGTEST_FAULT"

// A faulty Broker breaks one guarantee. Each field, if set, does what its name
// says in place of the Broker inside.
type faulty struct {
	*memory.Broker
	lease     time.Duration // of the Broker inside
	publish   func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error
	deliver   func(messaging.Deliver) messaging.Deliver
	settle    func(ctx context.Context, s messaging.Settler, v messaging.Verdict) error
	subscribe func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error
	promises  func(*messaging.Promises)
	close     func(ctx context.Context, b *memory.Broker) error
}

func (f faulty) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	if f.publish != nil {
		return f.publish(ctx, f.Broker, topic, msgs)
	}
	return f.Broker.Publish(ctx, topic, msgs...)
}

func (f faulty) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	if f.settle != nil {
		inner := deliver
		deliver = func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			return inner(lease, d, settler{s, f.settle})
		}
	}
	if f.deliver != nil {
		deliver = f.deliver(deliver)
	}
	if f.subscribe != nil {
		return f.subscribe(ctx, f.Broker, s, deliver)
	}
	return f.Broker.Subscribe(ctx, s, deliver)
}

func (f faulty) Promises() messaging.Promises {
	p := f.Broker.Promises()
	if f.promises != nil {
		f.promises(&p)
	}
	return p
}

func (f faulty) Close(ctx context.Context) error {
	if f.close != nil {
		return f.close(ctx, f.Broker)
	}
	return f.Broker.Close(ctx)
}

type settler struct {
	messaging.Settler
	settle func(context.Context, messaging.Settler, messaging.Verdict) error
}

func (s settler) Settle(ctx context.Context, v messaging.Verdict) error {
	return s.settle(ctx, s.Settler, v)
}

// deaf ignores Extend.
type deaf struct{ messaging.Settler }

func (deaf) Extend(context.Context, time.Duration) error { return nil }

// altered returns a fault that changes each delivery.
func altered(change func(*messaging.Delivery)) faulty {
	return faulty{deliver: func(next messaging.Deliver) messaging.Deliver {
		return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
			change(d)
			return next(lease, d, s)
		}
	}}
}

// judged returns a fault that changes each verdict.
func judged(change func(*messaging.Verdict)) faulty {
	return faulty{settle: func(ctx context.Context, s messaging.Settler, v messaging.Verdict) error {
		change(&v)
		return s.Settle(ctx, v)
	}}
}

// A fault, and the subtest that must notice it. One that hangs shows only in
// what does not come, which a subtest awaits for half a minute before it fails.
type fault struct {
	broker faulty
	caught string
	hangs  bool
}

func faults() map[string]fault {
	all := map[string]fault{
		"loses a header": {
			altered(func(d *messaging.Delivery) { delete(d.Headers, "empty") }), "a message arrives as it was published", false,
		},
		"loses the fraction of a second": {
			altered(func(d *messaging.Delivery) { d.Time = d.Time.Truncate(time.Second) }), "a message arrives as it was published", false,
		},
		"passes reserved headers on": {
			faulty{publish: func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error {
				for _, m := range msgs {
					delete(m.Headers, messaging.HeaderDeadReason) // from the caller's map
				}
				return b.Publish(ctx, topic, msgs...)
			}}, "headers that begin with msg- are dropped", false,
		},
		"refuses a whole batch": {
			faulty{publish: func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error {
				if err := messaging.Check(topic, b.Promises().MaxPayload, msgs); err != nil {
					return err
				}
				return b.Publish(ctx, topic, msgs...)
			}}, "Publish refuses what is invalid and takes the rest of the call", true,
		},
		"loses what nobody receives": {
			faulty{publish: func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error {
				if err := b.Publish(ctx, topic, msgs...); !errors.Is(err, messaging.ErrUnroutable) {
					return err
				}
				return nil
			}}, "Publish to a topic that no group subscribes to is refused", false,
		},
		"ignores an ended context": {
			faulty{publish: func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error {
				return b.Publish(context.WithoutCancel(ctx), topic, msgs...)
			}}, "Publish reports the cause of a context that has ended", false,
		},
		"publishes a call backwards": {
			faulty{publish: func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error {
				msgs = slices.Clone(msgs)
				slices.Reverse(msgs)
				return b.Publish(ctx, topic, msgs...)
			}}, "messages with one key arrive in the order of publishing", false,
		},
		"keeps the publisher's memory": {
			faulty{publish: func(ctx context.Context, b *memory.Broker, topic string, msgs []messaging.Message) error {
				late := slices.Clone(msgs)
				go func() {
					time.Sleep(10 * time.Millisecond)
					_ = b.Publish(ctx, topic, late...)
				}()
				return nil
			}}, "a publisher may change a message once Publish has returned", false,
		},
		"retries at once": {
			judged(func(v *messaging.Verdict) { v.After = 0 }), "Retry comes again after its delay with Attempt one higher while others pass", false,
		},
		"counts a rejection": {
			judged(func(v *messaging.Verdict) { v.KeepAttempt = false }), "a Retry with KeepAttempt leaves Attempt as it is", false,
		},
		"counts a release": {
			judged(func(v *messaging.Verdict) {
				if v.Kind == messaging.Release {
					v.Kind = messaging.Retry
				}
			}), "Release comes again with Attempt as it was", false,
		},
		"retries dead letters": {
			judged(func(v *messaging.Verdict) {
				if v.Kind == messaging.DeadLetter {
					v.Kind = messaging.Retry
				}
			}), "DeadLetter ends a message for its group", true,
		},
		"gives no reason": {
			judged(func(v *messaging.Verdict) { v.Reason = "" }), "a dead letter is the message byte for byte with the reason", false,
		},
		"forgets to acknowledge": {
			judged(func(v *messaging.Verdict) {
				if v.Kind == messaging.Ack {
					v.Kind = messaging.Release
				}
			}), "Ack ends a message", true,
		},
		"hands out more than Prefetch": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				if s.Prefetch > 0 && s.Prefetch < 1000 {
					s.Prefetch++
				}
				return b.Subscribe(ctx, s, d)
			}}, "no more than Prefetch deliveries are unsettled", false,
		},
		"takes any subscription": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				if err := b.Subscribe(ctx, s, d); !errors.Is(err, messaging.ErrInvalid) {
					return err
				}
				return nil
			}}, "Subscribe refuses an invalid subscription", false,
		},
		"does not wait for handlers": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				done := make(chan error, 1)
				go func() { done <- b.Subscribe(ctx, s, d) }()
				select {
				case err := <-done:
					return err
				case <-ctx.Done():
					return nil
				}
			}}, "Subscribe returns when what it accepted is settled and leaves the rest", false,
		},
		"acknowledges what it takes back": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				var taken []messaging.Settler
				complete := false
				return b.Subscribe(ctx, s, func(lease context.Context, m *messaging.Delivery, set messaging.Settler) error {
					defer func() {
						if complete {
							return
						}
						for _, s := range taken {
							_ = s.Settle(lease, messaging.Verdict{Kind: messaging.Ack})
						}
					}()
					complete = false
					taken = append(taken, set)
					err := d(lease, m, set)
					complete = true
					return err
				})
			}}, "a deliver that ends its goroutine loses nothing that it has accepted", true,
		},
		"settles in silence what was lost": {
			faulty{settle: func(ctx context.Context, s messaging.Settler, v messaging.Verdict) error {
				if err := s.Settle(ctx, v); !errors.Is(err, messaging.ErrLost) {
					return err
				}
				return nil
			}}, "Close ends Subscribe and later calls with ErrClosed and leases with ErrLost", false,
		},
		"ends leases with the subscription": {
			faulty{subscribe: func(ctx context.Context, b *memory.Broker, s messaging.Subscription, d messaging.Deliver) error {
				return b.Subscribe(ctx, s, func(_ context.Context, m *messaging.Delivery, set messaging.Settler) error { return d(ctx, m, set) })
			}}, "Subscribe returns when what it accepted is settled and leaves the rest", false,
		},
		"shares headers between attempts": {
			faulty{deliver: func(next messaging.Deliver) messaging.Deliver {
				shared := map[string]map[string]string{}
				return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
					if h, ok := shared[d.ID]; ok {
						d.Headers = h
					}
					shared[d.ID] = d.Headers
					return next(lease, d, s)
				}
			}}, "a receiver's changes reach no other group and no later attempt", false,
		},
		"hands out twice what a Consumer extends": {
			faulty{lease: time.Second, deliver: func(next messaging.Deliver) messaging.Deliver {
				return func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
					return next(lease, d, deaf{s})
				}
			}}, "a Consumer invokes a handler once that takes longer than the lease", false,
		},
		"fails to close twice": {
			faulty{close: func(ctx context.Context, b *memory.Broker) error {
				err := b.Publish(ctx, "t", messaging.NewMessage("m", nil))
				if errors.Is(err, messaging.ErrClosed) {
					return messaging.ErrClosed
				}
				return b.Close(ctx)
			}}, "Close of a Broker that was not used succeeds, also twice", false,
		},
		"promises durability without a disk": {
			faulty{promises: func(p *messaging.Promises) { p.Durable = true }}, "what is published outlives the Broker", true,
		},
	}
	maps.Copy(all, deadFaults())
	maps.Copy(all, leaseFaults())
	return all
}

// TestSuite runs the suite with the fault that the environment names, or with
// none.
func TestSuite(t *testing.T) {
	broker := faulty{}
	switch name := os.Getenv(variable); name {
	case "":
	case noFault:
		broker = leased(testLease, true)
	default:
		broker = faults()[name].broker
	}
	messagingtest.Run(t, func(t *testing.T) messaging.Broker {
		t.Helper()
		b, err := memory.New(memory.Config{Lease: broker.lease})
		if err != nil {
			t.Fatal(err)
		}
		open := broker
		open.Broker = b
		return open
	})
}

func TestSuiteCatchesABrokerThat(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all := faults()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			subtest := strings.ReplaceAll(all[name].caught, " ", "_")
			limit, want := "1m", "--- FAIL: TestSuite/"+subtest
			if all[name].hangs {
				limit, want = "2s", "panic: test timed out after 2s"
			}
			cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestSuite$/^"+subtest+"$", "-test.timeout", limit)
			cmd.Env = append(os.Environ(), variable+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("the suite ended with %v, want %q to fail\n%s", err, all[name].caught, out)
			}
		})
	}
}
