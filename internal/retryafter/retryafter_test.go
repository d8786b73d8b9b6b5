package retryafter_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/retryafter"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 500_000_000, time.UTC)

func header(v string) http.Header {
	return http.Header{"Retry-After": {v}}
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		want  time.Duration
		ok    bool
	}{
		"seconds":                       {"120", 2 * time.Minute, true},
		"zero":                          {"0", 0, true},
		"spaces around":                 {" \t120 ", 2 * time.Minute, true},
		"IMF-fixdate":                   {"Tue, 24 Nov 2026 12:01:00 GMT", 59500 * time.Millisecond, true},
		"RFC 850 date":                  {"Tuesday, 24-Nov-26 12:01:00 GMT", 59500 * time.Millisecond, true},
		"asctime date":                  {"Tue Nov 24 12:01:00 2026", 59500 * time.Millisecond, true},
		"date less than a second ahead": {"Tue, 24 Nov 2026 12:00:01 GMT", 500 * time.Millisecond, true},
		"date in the past is now":       {"Tue, 24 Nov 2020 12:00:00 GMT", 0, true},
		"date beyond duration":          {"Fri, 31 Dec 9999 23:59:59 GMT", retryafter.Max, true},
		"largest that fits":             {"9223372036", 9223372036 * time.Second, true},
		"overflow of a duration":        {"9223372037", retryafter.Max, true},
		"overflow of 64 bits":           {"99999999999999999999999999", retryafter.Max, true},
		"leading zeroes":                {"0000000000000000000000000005", 5 * time.Second, true},
		"negative":                      {"-1", 0, false},
		"plus sign":                     {"+1", 0, false},
		"fraction":                      {"1.5", 0, false},
		"unit":                          {"5s", 0, false},
		"empty":                         {"", 0, false},
		"only spaces":                   {"  ", 0, false},
		"words":                         {"soon", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := retryafter.Parse(header(c.value), now)
			if got != c.want || ok != c.ok {
				t.Errorf("Parse(%q) = %v, %v, want %v, %v", c.value, got, ok, c.want, c.ok)
			}
		})
	}
}

func TestParseWithoutTheHeaderAsksForNothing(t *testing.T) {
	if got, ok := retryafter.Parse(http.Header{}, now); got != 0 || ok {
		t.Errorf("Parse() = %v, %v, want 0, false", got, ok)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range []string{"120", " 1", "-1", "99999999999999999999", "Tue, 24 Nov 2026 12:01:00 GMT", "Tue Nov 24 12:01:00 2026"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		d, ok := retryafter.Parse(header(v), now)
		if d < 0 || (!ok && d != 0) {
			t.Fatalf("Parse(%q) = %v, %v: a wait is never negative, and 0 where none is asked", v, d, ok)
		}
		if digits := strings.Trim(v, "0123456789"); v != "" && digits == "" && !ok {
			t.Fatalf("Parse(%q) refused a number of seconds", v)
		}
	})
}
