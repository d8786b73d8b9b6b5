package kafka

import (
	"testing"
	"time"
)

// readsAs has s read a time, and compares it with what time.Parse makes of it, to the bit.
func readsAs(t *testing.T, s *second, value string) {
	t.Helper()
	want, err := time.Parse(time.RFC3339Nano, value)
	got, ok := s.read([]byte(value))
	if ok != (err == nil) || got.UnixNano() != want.UnixNano() || got.String() != want.String() {
		t.Errorf("read(%q) = %v, %v, want %v as time.Parse has it, and %v", value, got, ok, want, err)
	}
	if ok && want.Location() == time.UTC && got != want { // and so in what Equal does not look at
		t.Errorf("read(%q) = %#v, want %#v", value, got, want)
	}
}

func TestTimesAreReadAsTimeParseReadsThem(t *testing.T) {
	// Each is read after each of the others, of which most are of one second.
	values := []string{
		"", "Z", "yesterday", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00Z",
		"2026-11-30T01:10:13Z", "2026-11-30T01:10:13.5Z", "2026-11-30T01:10:13.123456789Z", "2026-11-30T01:10:13.000000001Z",
		"2026-11-30T01:10:13.1234567891Z", "2026-11-30T01:10:13.Z", "2026-11-30T01:10:13,5Z", "2026-11-30T01:10:13.5z", "2026-11-30T01:10:13.5xZ",
		"2026-11-30T01:10:13..5Z", "2026-11-30T01:10:13.5", "2026-11-30T01:10:13.-5Z", "2026-11-30T01:10:13+00:00", "2026-11-30T01:10:13.5+02:00",
		"2026-11-30T01:10:14Z", "2026-11-30T01:10:59.999999999Z", "2026-11-30T01:10:60Z", "2026-11-30T24:00:00Z", "2026-11-30t01:10:13Z",
		"2026-11-30T1:10:13.5Z", "2026-11-30T1:10:13.Z", "2026-11-30T1:10:13..5Z", "2026-11-30T1:10:13Z",
		"2024-02-29T00:00:00Z", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00.5Z", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.7Z",
	}
	var s second
	for _, before := range values {
		for _, value := range values {
			readsAs(t, &s, before)
			readsAs(t, &s, value)
		}
	}
}

func TestAnotherMomentOfASecondIsReadWithoutTimeParse(t *testing.T) {
	var s second
	first, ok := s.read([]byte("2026-11-30T01:10:13.25Z"))
	if !ok || s.at != first.Add(-250*time.Millisecond) {
		t.Fatalf("read() = %v, %v, and remembers %v, want the beginning of the second", first, ok, s.at)
	}
	s.at = s.at.Add(time.Hour) // by which it shows
	if got, ok := s.read([]byte("2026-11-30T01:10:13.75Z")); !ok || got != first.Add(time.Hour+500*time.Millisecond) {
		t.Errorf("read() of the same second = %v, %v, want what was remembered of it", got, ok)
	}
	if got, ok := s.read([]byte("2026-11-30T01:10:12Z")); !ok || got != first.Add(-1250*time.Millisecond) {
		t.Errorf("read() of another second = %v, %v, want that one", got, ok)
	}
}

func FuzzTimesAreReadAsTimeParseReadsThem(f *testing.F) {
	f.Add("2026-11-30T01:10:13.123456789Z", "2026-11-30T01:10:13.5Z")
	f.Add("2026-11-30T01:10:13Z", "2026-11-30T01:10:13.Z")
	f.Add("2026-11-30T1:10:13.5Z", "2026-11-30T1:10:13..5Z")
	f.Add("2026-11-30T01:10:13+02:00", "2026-11-30T01:10:13,5Z")
	f.Fuzz(func(t *testing.T, before, value string) {
		var s second
		readsAs(t, &s, before)
		readsAs(t, &s, value)
		readsAs(t, &s, value)
		if len(before) > toSecond { // another moment of the same second, whatever is one
			readsAs(t, &s, before[:toSecond]+value)
			readsAs(t, &s, before[:toSecond]+".5Z")
			readsAs(t, &s, before[:toSecond]+"."+value+"Z")
		}
	})
}
