package messaging_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestHealthTellsWhichSubscriptionIsNotEstablishedAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newScript(), newScript()
		a.ready = false
		var establish func()
		a.onSubscribe = func(ready func()) { establish = ready }
		c, _ := messaging.NewConsumer(either{"a": a, "b": b}, messaging.ConsumerConfig{})
		var lost []error
		c.Handle(messaging.Subscription{Topic: "a", Group: "g", OnLost: func(err error) { lost = append(lost, err) }}, ok)
		c.Handle(messaging.Subscription{Topic: "b", Group: "h"}, ok)
		health := func(want ...string) {
			t.Helper()
			err := c.Health()
			if err == nil {
				if len(want) > 0 {
					t.Errorf("Health() = nil, want %q in it", want)
				}
				return
			}
			if strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), ";") != max(0, len(want)-1) {
				t.Errorf("Health() = %v, want %d faults on one line", err, len(want))
			}
			for _, w := range want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("Health() = %v, want %q in it", err, w)
				}
			}
		}
		health("group g to topic a is not established: Run was not called", "group h to topic b")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		health("group g to topic a is not established: not established yet")
		establish()
		health()
		a.sub.OnLost(errFailed)
		b.sub.OnLost(nil)
		health("group g to topic a is not established: failed", "group h to topic b is not established: interrupted")
		if !errors.Is(c.Health(), errFailed) || len(lost) != 1 || !errors.Is(lost[0], errFailed) {
			t.Errorf("Health() = %v and the subscription's own OnLost was told %v, want both what the broker said", c.Health(), lost)
		}
		if got := c.Stats(); got[0].Established || got[1].Established {
			t.Errorf("Stats() = %+v, want neither established", got)
		}
		_ = c.Pause("b", "h")
		synctest.Wait()
		health("group g to topic a")
		a.sub.OnReady()
		health()
		_ = c.Resume("b", "h")
		synctest.Wait()
		health()
		if got := c.Stats(); !got[0].Established || !got[1].Established {
			t.Errorf("Stats() = %+v, want both established", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		health("topic a is not established: Run has ended", "topic b is not established: Run has ended")
	})
}

func TestHealthTellsWhyASubscriptionEndedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := runOne(t, b, messaging.ConsumerConfig{}, ok)
		b.fail <- messaging.ErrTopology
		<-r.ended
		if err := r.c.Health(); !errors.Is(err, messaging.ErrTopology) {
			t.Errorf("Health() = %v, want ErrTopology", err)
		}
	})
}

// What a broker does whose consumer timeout has run out: RabbitMQ closes the
// channel, and delivers again.
func TestConsumerRecoversAndHealthFlipsWhenTheBrokerTakesALateDeliveryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		calls := 0
		r := runOne(t, b, messaging.ConsumerConfig{}, func(ctx context.Context, _ *messaging.Delivery) error {
			if calls++; calls == 1 {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		lease, lose := context.WithCancelCause(t.Context())
		b.deliver(delivery("m", 1).under(lease))
		b.sub.OnLost(errFailed)
		lose(messaging.ErrLost)
		synctest.Wait()
		if err := r.c.Health(); !errors.Is(err, errFailed) {
			t.Errorf("Health() = %v while the channel is closed, want why", err)
		}
		b.sub.OnReady()
		again := delivery("m", 1)
		b.deliver(again)
		if err := r.c.Health(); err != nil || again.verdict(t).Kind != messaging.Ack || r.c.Stats()[0].Lost != 1 {
			t.Errorf("Health() = %v, %v, %+v; want nil, the message acknowledged, 1 lost", err, again.verdict(t).Kind, r.c.Stats()[0])
		}
		_ = r.end()
	})
}

func TestStatsCountWhatBecomesOfDeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript()
		r := run(t, b, messaging.ConsumerConfig{Concurrency: 1}, handled{"t", "g", func(_ context.Context, d *messaging.Delivery) error {
			switch d.ID {
			case "bad":
				return messaging.Permanent(errFailed)
			case "failing":
				return errFailed
			case "slow":
				time.Sleep(20 * time.Second)
			}
			return nil
		}})
		lease, lose := context.WithCancelCause(t.Context())
		for _, id := range []string{"fine", "fine", "fine", "failing", "failing", "bad"} {
			b.deliver(delivery(id, 1))
		}
		refused := delivery("refused", 1)
		refused.err = messaging.ErrRefused
		b.deliver(refused)
		b.deliver(delivery("slow", 1).under(lease))
		b.deliver(keyedDelivery("k", "waits"))
		b.deliver(delivery("waits", 1))
		want := messaging.Stats{
			Topic: "t", Group: "g", Established: true, InFlight: 1, Waiting: 2,
			Handled: 3, Retried: 2, DeadLettered: 1, Lost: 1,
		}
		if got := r.c.Stats(); len(got) != 1 || got[0] != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
		lose(messaging.ErrLost)
		if err := r.end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		want.Established, want.InFlight, want.Waiting, want.Released, want.Lost = false, 0, 0, 2, 2
		if got := r.c.Stats()[0]; got != want {
			t.Errorf("Stats() after Run = %+v, want %+v", got, want)
		}
	})
}
