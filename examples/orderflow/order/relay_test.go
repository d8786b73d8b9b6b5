package order

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

// flaky takes what accept says and refuses the rest, as a broker does whose
// queue is full.
type flaky struct {
	accept func(call, i int) bool
	calls  int
	got    []string
}

func (f *flaky) Publish(_ context.Context, _ string, msgs ...messaging.Message) error {
	f.calls++
	errs := make([]error, len(msgs))
	failed := false
	for i, m := range msgs {
		if f.accept(f.calls, i) {
			f.got = append(f.got, m.ID)
			continue
		}
		errs[i], failed = messaging.ErrRefused, true
	}
	if failed {
		return &messaging.BatchError{Errs: errs}
	}
	return nil
}

func add(s *Service, ids ...string) {
	var t tx
	for _, id := range ids {
		t.rows = append(t.rows, row{"orders", messaging.Message{ID: id}})
	}
	s.store.commit(&t)
}

func TestAnEventLeavesTheOutboxOnlyWhenTheBrokerHasConfirmedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Logger: slog.New(slog.DiscardHandler)})
		add(s, "1", "2", "3")
		pub := &flaky{accept: func(call, i int) bool { return call > 1 || i == 1 }}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Relay(ctx, pub) }()

		synctest.Wait()
		if _, waiting := s.Report(); waiting != 2 {
			t.Errorf("%d events wait after a partial failure, want 2", waiting)
		}
		time.Sleep(2 * time.Second)
		add(s, "4")
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Errorf("Relay() = %v, want nil", err)
		}
		if want := []string{"2", "1", "3", "4"}; !slices.Equal(pub.got, want) {
			t.Errorf("published %v, want %v: each once, none lost", pub.got, want)
		}
		if _, waiting := s.Report(); waiting != 0 {
			t.Errorf("%d events wait, want none", waiting)
		}
	})
}

func TestARelayThatIsToldToEndPublishesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Logger: slog.New(slog.DiscardHandler)})
		add(s, "1", "2")
		ctx, stop := context.WithCancel(t.Context())
		stop()
		pub := &flaky{accept: func(call, _ int) bool { return call > 3 }}
		if err := s.Relay(ctx, pub); err != nil || len(pub.got) != 2 {
			t.Errorf("Relay() = %v after publishing %v, want nil after both", err, pub.got)
		}
	})
}

func TestARelayThatCannotPublishInTimeSaysHowManyEventsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Logger: slog.New(slog.DiscardHandler)})
		add(s, "1", "2")
		ctx, stop := context.WithCancel(t.Context())
		stop()
		err := s.Relay(ctx, &flaky{accept: func(int, int) bool { return false }})
		if err == nil || !strings.Contains(err.Error(), "2 events") {
			t.Errorf("Relay() = %v, want an error about 2 events", err)
		}
	})
}

func TestAnErrorThatNamesNoMessageKeepsThemAll(t *testing.T) {
	msgs := []messaging.Message{{ID: "1"}, {ID: "2"}}
	if got := confirmed(msgs, errors.New("down")); len(got) != 0 {
		t.Errorf("confirmed() = %v, want none", got)
	}
}

func TestOrdersAreRefusedBeforeAnythingIsDoneWhenTheOutboxIsFull(t *testing.T) {
	s := New(Config{Logger: slog.New(slog.DiscardHandler)})
	if _, err := s.store.nextID(); err != nil {
		t.Fatalf("nextID() = %v, want a number", err)
	}
	add(s, make([]string, maxOutbox)...)
	if _, err := s.store.nextID(); err == nil {
		t.Error("nextID() with a full outbox gave a number, want an error")
	}
}
