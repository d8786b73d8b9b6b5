package messaging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/messaging"
)

func TestNewMessageHasAnIDOfItsOwnAndTheTime(t *testing.T) {
	before := time.Now()
	a, b := messaging.NewMessage("T", []byte("p")), messaging.NewMessage("T", []byte("p"))
	if a.ID == "" || a.ID == b.ID {
		t.Errorf("IDs = %q, %q, want two that differ", a.ID, b.ID)
	}
	if a.Type != "T" || string(a.Payload) != "p" || a.Time.Before(before) || a.Time.After(time.Now()) {
		t.Errorf("NewMessage() = %+v, want the type, the payload and the time", a)
	}
}

func TestCloneSharesNoMemory(t *testing.T) {
	m := messaging.NewMessage("T", []byte("payload"))
	m.Headers = map[string]string{"a": "b"}
	c := m.Clone()
	if diff := cmp.Diff(m, c); diff != "" {
		t.Errorf("Clone() differs: %s", diff)
	}
	c.Payload[0], c.Headers["a"] = 'X', "X"
	if string(m.Payload) != "payload" || m.Headers["a"] != "b" {
		t.Errorf("a change of the clone made the message %s, %v", m.Payload, m.Headers)
	}
}

func TestBatchErrorNamesItsFailures(t *testing.T) {
	err := error(&messaging.BatchError{Errs: []error{nil, messaging.ErrRefused, nil, fmt.Errorf("later: %w", messaging.ErrClosed)}})
	if got, want := err.Error(), "messaging: 2 of 4 messages not published, first: messaging: refused by the broker"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, messaging.ErrRefused) || !errors.Is(err, messaging.ErrClosed) || errors.Is(err, messaging.ErrDenied) {
		t.Errorf("errors.Is finds ErrRefused %t, ErrClosed %t, ErrDenied %t; want true, true, false",
			errors.Is(err, messaging.ErrRefused), errors.Is(err, messaging.ErrClosed), errors.Is(err, messaging.ErrDenied))
	}
}

func TestMarksKeepTheErrorTheyMark(t *testing.T) {
	for name, mark := range map[string]func(error) error{
		"Permanent": messaging.Permanent,
		"After":     func(err error) error { return messaging.After(err, time.Second) },
	} {
		err := mark(errFailed)
		if !errors.Is(err, errFailed) || err.Error() != errFailed.Error() {
			t.Errorf("%s(err) = %v, want one that is err and says the same", name, err)
		}
		if err := mark(nil); err != nil {
			t.Errorf("%s(nil) = %v, want nil", name, err)
		}
	}
}

func TestDeadHeadersFitEveryBroker(t *testing.T) {
	d := &messaging.Delivery{Topic: "t", Group: "g", Attempt: 3}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	got := messaging.DeadHeaders(d, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent, Err: errFailed}, at)
	want := map[string]string{
		messaging.HeaderDeadReason: "permanent", messaging.HeaderDeadError: "failed", messaging.HeaderDeadAttempts: "3",
		messaging.HeaderDeadTopic: "t", messaging.HeaderDeadGroup: "g", messaging.HeaderDeadTime: "2026-01-02T02:04:05.000000006Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DeadHeaders() differs: %s", diff)
	}
	for _, text := range []string{strings.Repeat("ü", 2000), strings.Repeat("\x00", 2000), strings.Repeat("\xff", 2000), "a" + strings.Repeat("\xff\x00", 600)} {
		got := messaging.DeadHeaders(d, messaging.Verdict{Reason: text, Err: errors.New(text)}, at)
		for _, name := range []string{messaging.HeaderDeadReason, messaging.HeaderDeadError} {
			if v := got[name]; len(v) > 1<<10 || v == "" || !utf8.ValidString(v) || strings.Contains(v, "\x00") {
				t.Errorf("%s of %.10q… = %d bytes %.20q, want at most 1 KiB of UTF-8 without NUL", name, text, len(v), v)
			}
		}
	}
	if _, ok := messaging.DeadHeaders(d, messaging.Verdict{}, at)[messaging.HeaderDeadError]; ok {
		t.Error("a verdict without Err has the header of an error")
	}
}

func TestInboxIDDiffersWhereSourceOrIDDoes(t *testing.T) {
	seen := map[string]string{}
	for _, m := range [][2]string{
		{"", "1"}, {"/orders", "1"}, {"/users", "1"}, {"/orders", "2"}, {"a", ":b"}, {"a:", "b"}, {"ab", "c"}, {"a", "bc"}, {"1:a", "b"}, {"", "1:a:b"},
	} {
		d := &messaging.Delivery{Message: messaging.Message{Source: m[0], ID: m[1]}, Topic: "t", Group: "g"}
		id := d.InboxID()
		if other, ok := seen[id]; ok || id == "" {
			t.Errorf("InboxID() of %q = %q, that of %s too", m, id, other)
		}
		seen[id] = m[0] + " and " + m[1]
		d.Attempt, d.Redelivered, d.Topic, d.Group = 7, true, "u", "h"
		if again := d.InboxID(); again != id {
			t.Errorf("InboxID() of a later attempt = %q, want %q again", again, id)
		}
	}
}

func TestInboxIDIsEmptyWithoutAnID(t *testing.T) {
	d := &messaging.Delivery{Message: messaging.Message{Source: "/orders"}}
	if got := d.InboxID(); got != "" {
		t.Errorf("InboxID() = %q, want none: messages without an ID are not all the same", got)
	}
}
