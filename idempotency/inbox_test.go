package idempotency_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/messaging"
)

type message struct{ ID, Body string }

func messageID(m *message) string { return m.ID }

func TestInboxAssignsToAMessagingHandler(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	var handled []string
	var h messaging.Handler = func(_ context.Context, d *messaging.Delivery) error {
		handled = append(handled, d.ID)
		return nil
	}
	h = idempotency.Inbox(g, "orders/billing", (*messaging.Delivery).InboxID, h)
	for _, id := range []string{"1", "2", "1"} {
		if err := h(t.Context(), &messaging.Delivery{Message: messaging.Message{ID: id}}); err != nil {
			t.Errorf("handler of message %s = %v, want nil", id, err)
		}
	}
	if diff := cmp.Diff([]string{"1", "2"}, handled); diff != "" {
		t.Errorf("handled (-want +got):\n%s", diff)
	}
}

func TestInboxKeepsMessagesOfAnotherTopicOrSourceApart(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	var handled []string
	for _, topic := range []string{"orders", "refunds"} {
		h := idempotency.Inbox(g, topic+"/billing", (*messaging.Delivery).InboxID, func(_ context.Context, d *messaging.Delivery) error {
			handled = append(handled, topic+d.Source)
			return nil
		})
		for _, source := range []string{"/shop", "/till", "/shop"} {
			if err := h(t.Context(), &messaging.Delivery{Message: messaging.Message{ID: "1", Source: source}}); err != nil {
				t.Errorf("message of %s from %s = %v, want nil", topic, source, err)
			}
		}
	}
	if diff := cmp.Diff([]string{"orders/shop", "orders/till", "refunds/shop", "refunds/till"}, handled); diff != "" {
		t.Errorf("handled (-want +got):\n%s", diff)
	}
}

func TestInboxMarksAMessageAsDoneOnlyAfterSuccess(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	failure := errors.New("no stock")
	results := []error{failure, failure, nil}
	runs := 0
	inbox := idempotency.Inbox(g, "billing", messageID, func(context.Context, *message) error {
		runs++
		return results[runs-1]
	})
	for i, want := range []error{failure, failure, nil, nil, nil} {
		if got := inbox(t.Context(), &message{ID: "1"}); !errors.Is(got, want) {
			t.Errorf("delivery %d = %v, want %v", i+1, got, want)
		}
	}
	if runs != 3 {
		t.Errorf("the handler ran %d times, want 3", runs)
	}
	want := []idempotency.Ending{"failed", "failed", "executed", "replayed", "replayed"}
	if diff := cmp.Diff(want, e.endings()); diff != "" {
		t.Errorf("endings (-want +got):\n%s", diff)
	}
}

func TestInboxOfEachConsumerIsItsOwn(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	runs := 0
	next := func(context.Context, *message) error {
		runs++
		return nil
	}
	for _, consumer := range []string{"billing", "shipping"} {
		if err := idempotency.Inbox(g, consumer, messageID, next)(t.Context(), &message{ID: "1"}); err != nil {
			t.Error(err)
		}
	}
	if runs != 2 {
		t.Errorf("the message was handled %d times, want once by each of 2 consumers", runs)
	}
}

func TestInboxReschedulesAMessageThatIsBeingHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, e := newGuard(t, nil, idempotency.Config{})
		var inbox func(context.Context, *message) error
		runs := 0
		inbox = idempotency.Inbox(g, "billing", messageID, func(ctx context.Context, m *message) error {
			runs++
			err := inbox(ctx, m) // the broker delivers it again meanwhile
			r, ok := errors.AsType[*idempotency.RejectedError](err)
			if !ok || !r.Rejected() || r.RetryAfter() != 30*time.Second || !errors.Is(err, idempotency.ErrBusy) {
				t.Errorf("second delivery = %v, want ErrBusy, rejected, for 30s", err)
			}
			return nil
		})
		if err := inbox(t.Context(), &message{ID: "1"}); err != nil || runs != 1 {
			t.Errorf("first delivery = %v after %d runs, want nil after 1", err, runs)
		}
		want := []idempotency.Ending{"busy", "executed"}
		if diff := cmp.Diff(want, e.endings()); diff != "" {
			t.Errorf("endings (-want +got):\n%s", diff)
		}
	})
}

func TestInboxReleasesAMessageWhoseHandlerPanics(t *testing.T) {
	g, _ := newGuard(t, nil, idempotency.Config{})
	boom := true
	inbox := idempotency.Inbox(g, "billing", messageID, func(context.Context, *message) error {
		if boom {
			panic("boom")
		}
		return nil
	})
	func() {
		defer func() { _ = recover() }()
		_ = inbox(t.Context(), &message{ID: "1"})
		t.Error("the panic did not go on")
	}()
	boom = false
	if err := inbox(t.Context(), &message{ID: "1"}); err != nil {
		t.Errorf("next delivery = %v, want nil", err)
	}
}

func TestInboxRefusesAMessageWithoutID(t *testing.T) {
	g, e := newGuard(t, nil, idempotency.Config{})
	inbox := idempotency.Inbox(g, "billing", messageID, func(context.Context, *message) error {
		t.Error("the handler ran")
		return nil
	})
	if err := inbox(t.Context(), &message{}); !errors.Is(err, idempotency.ErrKey) {
		t.Errorf("delivery = %v, want ErrKey", err)
	}
	if got := e.last(); got.Ending != idempotency.EndInvalid || got.Kind != "inbox" {
		t.Errorf("event = %+v, want invalid, inbox", got)
	}
}

func TestInboxReturnsAllFaultsOfItsArgumentsForEachMessage(t *testing.T) {
	err := idempotency.Inbox[*message](nil, "", nil, nil)(t.Context(), &message{ID: "1"})
	const want = "idempotency: Inbox: the Guard is nil; the consumer has no name; id is nil; next is nil"
	if err == nil || err.Error() != want {
		t.Errorf("delivery = %v, want %s", err, want)
	}
	r, ok := errors.AsType[interface {
		error
		Rejected() bool
	}](err)
	if !ok || !r.Rejected() {
		t.Errorf("delivery = %v, want it rejected, so that no consumer sets the message aside", err)
	}
}
