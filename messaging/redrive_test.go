package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

var theGroup = messaging.Subscription{Topic: "t", Group: "g"}

// bury has group g set aside messages with the given IDs.
func bury(t *testing.T, b messaging.Broker, ids ...string) {
	t.Helper()
	died := make(chan struct{}, len(ids))
	r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1, OnSettle: func(messaging.Settled) { died <- struct{}{} }},
		func(context.Context, *messaging.Delivery) error { return messaging.Permanent(errFailed) })
	for _, id := range ids {
		publish(t, b, messaging.Message{ID: id})
		<-died
	}
	if err := r.end(); err != nil {
		t.Fatalf("Run() = %v, want nil", err)
	}
}

func idsOf(msgs []messaging.Message) string {
	ids := make([]string, len(msgs))
	for i, m := range msgs {
		ids[i] = m.ID
	}
	return strings.Join(ids, " ")
}

// alive returns the IDs of the messages of group g, and handles them.
func alive(t *testing.T, b messaging.Broker) string {
	t.Helper()
	var ids []string
	r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(_ context.Context, d *messaging.Delivery) error {
		ids = append(ids, d.ID)
		return nil
	})
	synctest.Wait()
	if err := r.end(); err != nil {
		t.Fatalf("Run() = %v, want nil", err)
	}
	return strings.Join(ids, " ")
}

func redriven(t *testing.T, got messaging.Redriven, err error, want messaging.Redriven) {
	t.Helper()
	if got != want || err != nil {
		t.Errorf("Redrive() = %+v, %v, want %+v, nil", got, err, want)
	}
}

func TestRedriveMovesNoFasterThanItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1", "2", "3", "4", "5")
		began := time.Now()
		got, err := messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{Rate: 10, Quiet: time.Second})
		redriven(t, got, err, messaging.Redriven{Moved: 5, Complete: true})
		if took := time.Since(began); took != 1400*time.Millisecond {
			t.Errorf("it took %v, want 400ms for 5 at 10 a second and a second in which nothing came", took)
		}
		if got := alive(t, b); got != "1 2 3 4 5" {
			t.Errorf("the group has %s, want all in order", got)
		}
	})
}

func TestRedriveThatIsStoppedLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1", "2", "3", "4")
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(1500*time.Millisecond, func() { cancel(cause) })
		got, err := messaging.Redrive(ctx, b, theGroup, messaging.RedriveConfig{Rate: 1})
		if !errors.Is(err, cause) || got.Moved != 2 || got.Complete {
			t.Errorf("Redrive() = %+v, %v, want 2 moved and the cause of its context", got, err)
		}
		if want := "messaging: redrive g of t after 2 moved: enough"; err.Error() != want {
			t.Errorf("Error() = %q, want %q", err, want)
		}
		if dead := idsOf(b.DeadLetters("t", "g")); dead != "3 4" || alive(t, b) != "1 2" {
			t.Errorf("the dead letters are %s, want 3 4, and the messages the others", dead)
		}
	})
}

// A crashing Broker stores the message of each Retry of a dead letter, and dies
// before it has deleted the dead letter.
type crashing struct{ *memory.Broker }

func (b crashing) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	return b.Broker.Subscribe(ctx, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
		return deliver(lease, d, crash{set, func(ctx context.Context) error {
			if err := b.Publish(ctx, d.Topic, d.Message); err != nil {
				return err
			}
			_ = set.Settle(ctx, messaging.Verdict{Kind: messaging.Release})
			return errFailed
		}})
	})
}

type crash struct {
	messaging.Settler
	retry func(context.Context) error
}

func (c crash) Settle(ctx context.Context, v messaging.Verdict) error {
	if v.Kind == messaging.Retry {
		return c.retry(ctx)
	}
	return c.Settler.Settle(ctx, v)
}

func TestRedriveThatIsKilledLosesNothingAndAtWorstAMessageComesTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1", "2")
		if got, err := messaging.Redrive(t.Context(), crashing{b}, theGroup, messaging.RedriveConfig{}); !errors.Is(err, errFailed) || got.Moved != 0 {
			t.Errorf("Redrive() = %+v, %v, want nothing moved and the fault", got, err)
		}
		got, err := messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{})
		redriven(t, got, err, messaging.Redriven{Moved: 2, Complete: true})
		if got := alive(t, b); got != "1 1 2" {
			t.Errorf("the group has %s, want 1 twice and 2 once", got)
		}
	})
}

func TestRedriveWhoseContextHasEndedMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		got, err := messaging.Redrive(ctx, b, theGroup, messaging.RedriveConfig{})
		if !errors.Is(err, context.Canceled) || got != (messaging.Redriven{}) || len(b.DeadLetters("t", "g")) != 1 {
			t.Errorf("Redrive() = %+v, %v, want nothing done and the cause", got, err)
		}
	})
}

// The first two of one ID died one after the other, and so did the last.
func TestRedriveMovesAMessageThatDiedSeveralTimesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		for _, id := range []string{"twin", "twin", "left", "left", "single", "twin"} {
			bury(t, b, id)
			time.Sleep(time.Second)
		}
		looked := 0
		cfg := messaging.RedriveConfig{Filter: func(d *messaging.Delivery) bool {
			looked++
			return d.ID != "left"
		}}
		got, err := messaging.Redrive(t.Context(), b, theGroup, cfg)
		redriven(t, got, err, messaging.Redriven{Moved: 2, Kept: 4, Complete: true})
		if dead := idsOf(b.DeadLetters("t", "g")); dead != "twin left left twin" || looked != 4 {
			t.Errorf("the dead letters are %s after Filter was asked %d times, want twin left left twin in their order and 4", dead, looked)
		}
	})
}

func TestRedriveMovesNoMessageTwiceAndEndsWhenItHasGoneRoundOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1", "2", "3")
		time.Sleep(time.Second)
		var calls []string
		r := runOne(t, b, messaging.ConsumerConfig{Concurrency: 1}, func(_ context.Context, d *messaging.Delivery) error {
			calls = append(calls, d.ID)
			return messaging.Permanent(errFailed)
		})
		got, err := messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{Rate: 1})
		if err != nil || got.Moved != 3 || !got.Complete {
			t.Errorf("Redrive() = %+v, %v, want 3 moved and complete", got, err)
		}
		synctest.Wait() // until the last one was handled
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if s := strings.Join(calls, " "); s != "1 2 3" {
			t.Errorf("the handler was called for %s, want each once", s)
		}
		if dead := b.DeadLetters("t", "g"); len(dead) != 3 {
			t.Errorf("the group has %d dead letters, want the 3 that died again", len(dead))
		}
	})
}

func TestRedriveLeavesWhatDiesAfterItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1", "2")
		began := false
		cfg := messaging.RedriveConfig{Filter: func(d *messaging.Delivery) bool {
			if !began {
				began = true
				time.Sleep(time.Second)
				bury(t, b, "new")
			}
			return true
		}}
		got, err := messaging.Redrive(t.Context(), b, theGroup, cfg)
		redriven(t, got, err, messaging.Redriven{Moved: 2, Kept: 1, Complete: true})
		if dead := idsOf(b.DeadLetters("t", "g")); dead != "new" {
			t.Errorf("the dead letters are %s, want new", dead)
		}
	})
}

func TestRedriveEndsAtMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(t)
		bury(t, b, "1", "2", "3")
		began := time.Now()
		got, err := messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{Max: 2, Rate: 1000})
		redriven(t, got, err, messaging.Redriven{Moved: 2})
		if took := time.Since(began); took != time.Millisecond {
			t.Errorf("it took %v, want 1ms: after the last one it waits for nothing", took)
		}
		if dead := idsOf(b.DeadLetters("t", "g")); dead != "3" {
			t.Errorf("the dead letters are %s, want 3", dead)
		}
	})
}

func TestAFilterThatEndsItsGoroutineLeavesTheDeadLetter(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("oops") }, "runtime.Goexit": runtime.Goexit} {
		synctest.Test(t, func(t *testing.T) {
			b := newMemory(t)
			bury(t, b, "1")
			var passed any
			var running sync.WaitGroup
			running.Go(func() {
				defer func() { passed = recover() }()
				_, _ = messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{Filter: func(*messaging.Delivery) bool {
					end()
					return true
				}})
			})
			running.Wait()
			if name == "panic" && passed != "oops" {
				t.Errorf("%s: the caller saw %v, want its own panic", name, passed)
			}
			if dead, err := messaging.DeadLetters(t.Context(), b, theGroup, 1); err != nil || len(dead) != 1 {
				t.Errorf("%s: DeadLetters() = %d, %v, want the one", name, len(dead), err)
			}
		})
	}
}

// A deadBroker is a Broker whose Subscribe a test plays.
type deadBroker struct {
	messaging.Broker // nil: only Subscribe is called
	subscribe        func(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error
}

func (b deadBroker) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	return b.subscribe(ctx, s, deliver)
}

// A deadSettler notes what becomes of a dead letter, and fails as told.
type deadSettler struct {
	kinds []messaging.Kind
	errs  []error
}

func (s *deadSettler) Settle(_ context.Context, v messaging.Verdict) error {
	s.kinds = append(s.kinds, v.Kind)
	if len(s.errs) == 0 {
		return nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return err
}

func (*deadSettler) Extend(context.Context, time.Duration) error { return nil }

func TestRedriveGoesOnWhenADeadLetterIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The first Settle is lost, and so is the lease at the second delivery.
		set := &deadSettler{errs: []error{messaging.ErrLost}}
		b := deadBroker{subscribe: func(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
			s.OnReady()
			gone, end := context.WithCancelCause(context.WithoutCancel(ctx))
			end(messaging.ErrLost)
			for _, lease := range []context.Context{context.WithoutCancel(ctx), gone, context.WithoutCancel(ctx)} {
				for deliver(lease, &messaging.Delivery{Message: messaging.Message{ID: "1"}}, set) != nil {
					if lease.Err() != nil {
						break
					}
				}
			}
			<-ctx.Done()
			return nil
		}}
		got, err := messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{})
		redriven(t, got, err, messaging.Redriven{Moved: 1, Complete: true})
		if !slices.Equal(set.kinds, []messaging.Kind{messaging.Retry, messaging.Retry}) {
			t.Errorf("the dead letter was settled with %v, want twice Retry", set.kinds)
		}
	})
}

func TestDeadLettersShowsOnceWhatTheBrokerHasTakenBackMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := deadBroker{subscribe: func(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
			s.OnReady()
			for _, ids := range []string{"12", "123"} { // the connection is lost between them
				lease, end := context.WithCancelCause(context.WithoutCancel(ctx))
				defer end(nil)
				for _, id := range ids {
					if err := deliver(lease, &messaging.Delivery{Message: messaging.Message{ID: string(id)}}, &deadSettler{}); err != nil {
						return err
					}
				}
				if ids == "12" {
					end(messaging.ErrLost)
				}
			}
			<-ctx.Done()
			return nil
		}}
		dead, err := messaging.DeadLetters(t.Context(), b, theGroup, 4)
		if err != nil || idsOf(dead) != "1 2 3" {
			t.Errorf("DeadLetters() = %s, %v, want 1 2 3, nil", idsOf(dead), err)
		}
	})
}

func TestRedriveReportsWhatKeepsItFromGoingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := func(set *deadSettler) func(context.Context, messaging.Subscription, messaging.Deliver) error {
			return func(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
				s.OnReady()
				_ = deliver(context.WithoutCancel(ctx), &messaging.Delivery{}, set)
				<-ctx.Done()
				return nil
			}
		}
		for name, c := range map[string]struct {
			subscribe func(context.Context, messaging.Subscription, messaging.Deliver) error
			is        error
			says      string
		}{
			"a subscription that is refused": {
				func(context.Context, messaging.Subscription, messaging.Deliver) error { return messaging.ErrDenied }, messaging.ErrDenied, "redrive g of t after 0 moved: ",
			},
			"one that ends in silence": {
				func(context.Context, messaging.Subscription, messaging.Deliver) error { return nil }, nil, "the broker does not say why",
			},
			"a move that fails": {one(&deadSettler{errs: []error{errFailed}}), errFailed, "failed"},
		} {
			got, err := messaging.Redrive(t.Context(), deadBroker{subscribe: c.subscribe}, theGroup, messaging.RedriveConfig{})
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || got != (messaging.Redriven{}) {
				t.Errorf("%s: Redrive() = %+v, %v, want %v that says %q", name, got, err, c.is, c.says)
			}
		}
		b := deadBroker{subscribe: func(context.Context, messaging.Subscription, messaging.Deliver) error { return messaging.ErrDenied }}
		if dead, err := messaging.DeadLetters(t.Context(), b, theGroup, 1); len(dead) != 0 || !errors.Is(err, messaging.ErrDenied) {
			t.Errorf("DeadLetters() = %d, %v, want ErrDenied", len(dead), err)
		}
	})
}

func TestQuietIsMeasuredWhileTheSubscriptionStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hooks []string
		set := &deadSettler{}
		b := deadBroker{subscribe: func(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
			time.Sleep(time.Minute) // until it is established
			s.OnReady()
			time.Sleep(time.Second)
			s.OnLost(errFailed)
			time.Sleep(time.Hour) // until the broker is back
			s.OnReady()
			time.Sleep(time.Second)
			_ = deliver(context.WithoutCancel(ctx), &messaging.Delivery{Message: messaging.Message{ID: "1"}}, set)
			<-ctx.Done()
			return nil
		}}
		s := theGroup
		s.OnReady = func() { hooks = append(hooks, "ready") }
		s.OnLost = func(err error) { hooks = append(hooks, fmt.Sprint("lost: ", err)) }
		began := time.Now()
		got, err := messaging.Redrive(t.Context(), b, s, messaging.RedriveConfig{})
		redriven(t, got, err, messaging.Redriven{Moved: 1, Complete: true})
		if took, want := time.Since(began), time.Hour+time.Minute+4*time.Second; took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
		if got := strings.Join(hooks, ", "); got != "ready, lost: failed, ready" {
			t.Errorf("the subscription's own hooks saw %s, want all", got)
		}
	})
}

func TestRedriveLooksAtNoMoreThanItsBound(t *testing.T) {
	set := &deadSettler{}
	b := deadBroker{subscribe: func(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
		s.OnReady()
		lease := context.WithoutCancel(ctx)
		for n := 0; ctx.Err() == nil; n++ {
			_ = deliver(lease, &messaging.Delivery{Message: messaging.Message{ID: strconv.Itoa(n)}}, set)
		}
		return nil
	}}
	got, err := messaging.Redrive(t.Context(), b, theGroup, messaging.RedriveConfig{Filter: func(*messaging.Delivery) bool { return false }})
	redriven(t, got, err, messaging.Redriven{Kept: 100_000})
}

func TestRedriveAndDeadLettersReportAllFaultsOnOneLine(t *testing.T) {
	_, err := messaging.Redrive(t.Context(), (*memory.Broker)(nil), messaging.Subscription{Topic: "t"}, messaging.RedriveConfig{Max: 100_001, Rate: -1, Quiet: -1})
	want := `messaging: invalid: Max 100001 is outside 1..100000; Rate -1 is outside 1..100000; Quiet -1ns is negative; the Broker is nil; ` +
		`subscription: the group name "" must be 1 to 128 letters, digits, '-', '_' or '.', beginning with a letter or digit`
	if !errors.Is(err, messaging.ErrInvalid) || err.Error() != want {
		t.Errorf("Redrive() = %v, want %s", err, want)
	}
	for _, n := range []int{0, -1, 1001} {
		_, err := messaging.DeadLetters(t.Context(), newMemory(t), theGroup, n)
		if want := fmt.Sprintf("messaging: invalid: %d dead letters are outside 1..1000", n); !errors.Is(err, messaging.ErrInvalid) || err.Error() != want {
			t.Errorf("DeadLetters() = %v, want %s", err, want)
		}
	}
	if _, err := messaging.Redrive(t.Context(), newMemory(t), messaging.Subscription{Topic: "a b", Group: "g"}, messaging.RedriveConfig{}); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Redrive() of an invalid topic = %v, want ErrInvalid", err)
	}
}

// A counting Broker counts its deliveries.
type counting struct {
	*memory.Broker
	deliveries map[string]int
}

func (b counting) Subscribe(ctx context.Context, s messaging.Subscription, deliver messaging.Deliver) error {
	return b.Broker.Subscribe(ctx, s, func(lease context.Context, d *messaging.Delivery, set messaging.Settler) error {
		b.deliveries[d.ID]++
		return deliver(lease, d, patient{set})
	})
}

// patient gives what a Settle leads to the time to happen.
type patient struct{ messaging.Settler }

func (p patient) Settle(ctx context.Context, v messaging.Verdict) error {
	defer synctest.Wait()
	return p.Settler.Settle(ctx, v)
}

func TestDeadLettersTakesEachInHandOnceAndLeavesItWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := counting{newMemory(t), map[string]int{}}
		bury(t, b.Broker, "1", "2", "3")
		for _, n := range []int{2, 3, 4} {
			began := time.Now()
			clear(b.deliveries)
			dead, err := messaging.DeadLetters(t.Context(), b, theGroup, n)
			if want := []string{"", "", "1 2", "1 2 3", "1 2 3"}[n]; err != nil || idsOf(dead) != want {
				t.Errorf("DeadLetters(%d) = %s, %v, want %s, nil", n, idsOf(dead), err, want)
			}
			if took, want := time.Since(began), map[bool]time.Duration{true: 2 * time.Second}[n > 3]; took != want {
				t.Errorf("DeadLetters(%d) took %v, want %v", n, took, want)
			}
			for id, times := range b.deliveries {
				if times != 1 {
					t.Errorf("DeadLetters(%d) took dead letter %s in hand %d times, want once", n, id, times)
				}
			}
		}
		if dead := idsOf(b.DeadLetters("t", "g")); dead != "1 2 3" {
			t.Errorf("the dead letters are %s, want 1 2 3 as before", dead)
		}
	})
}

func TestConsumerRefusesASubscriptionToDeadLetters(t *testing.T) {
	c, err := messaging.NewConsumer(newMemory(t), messaging.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	c.Handle(messaging.Subscription{Topic: "t", Group: "g", DeadLetters: true}, messaging.Skip)
	err = c.Run(t.Context())
	if !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "move them back with Redrive") {
		t.Errorf("Run() = %v, want ErrInvalid that names Redrive", err)
	}
}
