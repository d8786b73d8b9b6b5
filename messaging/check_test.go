package messaging_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestCheckSaysOfEachMessageWhatIsWrongWithIt(t *testing.T) {
	good := messaging.NewMessage("T", []byte("12345"))
	with := func(change func(*messaging.Message)) messaging.Message {
		m := good.Clone()
		m.Headers = map[string]string{}
		change(&m)
		return m
	}
	for _, c := range []struct {
		name string
		m    messaging.Message
		is   messaging.Reason
		says string
	}{
		{"no ID", with(func(m *messaging.Message) { m.ID = "" }), messaging.ErrInvalid, "make messages with NewMessage"},
		{"a type that is not UTF-8", with(func(m *messaging.Message) { m.Type = "\xff" }), messaging.ErrInvalid, "Type is not UTF-8"},
		{"a key with NUL", with(func(m *messaging.Message) { m.Key = "a\x00" }), messaging.ErrInvalid, "Key contains NUL"},
		{"a time that has no RFC 3339 form", with(func(m *messaging.Message) { m.Time = time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -1)) }), messaging.ErrInvalid, "Time is in the year 10000"},
		{"a time before the year 0", with(func(m *messaging.Message) { m.Time = time.Date(0, 1, 1, 0, 0, -1, 0, time.UTC) }), messaging.ErrInvalid, "Time is in the year -1"},
		{"a header without name", with(func(m *messaging.Message) { m.Headers[""] = "v" }), messaging.ErrInvalid, `header name ""`},
		{"a header name with a space", with(func(m *messaging.Message) { m.Headers["a b"] = "v" }), messaging.ErrInvalid, `header name "a b"`},
		{"a long header name", with(func(m *messaging.Message) { m.Headers[strings.Repeat("ü", 100)] = "v" }), messaging.ErrInvalid, "1 to 128"},
		{"a binary header", with(func(m *messaging.Message) { m.Headers["bin"] = "\xff" }), messaging.ErrInvalid, "bin is not UTF-8: encode binary values"},
		{"headers that are too large", with(func(m *messaging.Message) { m.Headers["a"] = strings.Repeat("v", messaging.MaxHeaderBytes) }), messaging.ErrTooLarge, "the limit is 32768"},
		{"attributes that are too large", with(func(m *messaging.Message) { m.Subject = strings.Repeat("v", messaging.MaxHeaderBytes) }), messaging.ErrTooLarge, "the limit is 32768"},
		{"a payload that is too large", with(func(m *messaging.Message) { m.Payload = make([]byte, 6) }), messaging.ErrTooLarge, "6 bytes, the limit is 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := messaging.Check("t", 5, []messaging.Message{good, c.m})
			batch, ok := errors.AsType[*messaging.BatchError](err)
			if !ok || len(batch.Errs) != 2 || batch.Errs[0] != nil {
				t.Fatalf("Check() = %v, want a *BatchError for the second message alone", err)
			}
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Check() = %v, want %v that says %q", err, c.is, c.says)
			}
		})
	}
	first, last := good, good
	first.Time, last.Time = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	if err := messaging.Check("t", 5, []messaging.Message{good, {ID: "without Time"}, first, last}); err != nil {
		t.Errorf("Check() of valid messages = %v, want nil", err)
	}
}

func TestCheckRefusesHeadersThatBrokersOwn(t *testing.T) {
	for name, owned := range map[string]bool{
		"cloudEvents_subject": true, "cloudevents_own": true, "ce_id": true, "ce-id": true, "Ce-Id": true, "CC": true, "BCC": true, "cc": true,
		"x-death": true, "x-delivery-count": true, "x-acquired-count": true, "x-first-death-queue": true, "x-last-death-reason": true,
		"x-request-id": false, "x-deaths": false, "traceparent": false, "cent": false, "CCC": false, "certificate": false, "msg-attempt": false,
	} {
		m := messaging.NewMessage("T", nil)
		m.Headers = map[string]string{name: "v"}
		err := messaging.Check("t", 5, []messaging.Message{m})
		if errors.Is(err, messaging.ErrInvalid) != owned || (err == nil) == owned {
			t.Errorf("Check() with header %s = %v, want ErrInvalid: %t", name, err, owned)
		}
	}
}

func TestCheckRefusesEveryMessageForABadTopic(t *testing.T) {
	m := messaging.NewMessage("T", nil)
	err := messaging.Check("a b", 5, []messaging.Message{m, m})
	if got, want := err.Error(), "messaging: 2 of 2 messages not published, first: messaging: invalid: the topic name \"a b\""; !strings.HasPrefix(got, want) {
		t.Errorf("Check() = %q, want it to begin with %q", got, want)
	}
	if err := messaging.Check("", 5, nil); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Check() of no message = %v, want ErrInvalid for the topic", err)
	}
}

func TestCheckSubscriptionReportsAllFaultsAndFillsInPrefetch(t *testing.T) {
	_, err := messaging.CheckSubscription(messaging.Subscription{Topic: "a b", Prefetch: 65536})
	want := `messaging: invalid: subscription: the topic name "a b" must be 1 to 128 letters, digits, '-', '_' or '.', beginning with a letter or digit; ` +
		`the group name "" must be 1 to 128 letters, digits, '-', '_' or '.', beginning with a letter or digit; Prefetch 65536 is outside 0..65535`
	if !errors.Is(err, messaging.ErrInvalid) || err.Error() != want {
		t.Errorf("CheckSubscription() = %v, want %s", err, want)
	}
	s, err := messaging.CheckSubscription(messaging.Subscription{Topic: "t", Group: "g"})
	if err != nil || s.Prefetch != 64 {
		t.Errorf("CheckSubscription() = Prefetch %d, %v, want 64, nil", s.Prefetch, err)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "a.b-c_d", "-a", ".a", "ü", "a\x00", strings.Repeat("x", 128), strings.Repeat("x", 129)} {
		f.Add(s)
	}
	legal := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	f.Fuzz(func(t *testing.T, name string) {
		_, err := messaging.CheckSubscription(messaging.Subscription{Topic: name, Group: "g"})
		if want := legal.MatchString(name) && !strings.HasSuffix(name, "\n"); (err == nil) != want {
			t.Errorf("CheckSubscription(%q) = %v, want it valid: %t", name, err, want)
		}
	})
}
