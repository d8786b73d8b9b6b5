package tracing_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

var (
	legalParent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]$`)
	legalMember = regexp.MustCompile(`^[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$`)
)

func FuzzTraceparent(f *testing.F) {
	for _, seed := range []string{w3cParent + "-01", " " + w3cParent + "-ff\t", "cc" + w3cParent[2:] + "-01-x", "", "ff", w3cParent + "-0", strings.Repeat("-", 55)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		out := forwarded(http.Header{"Traceparent": {value}})
		got := out.Get("traceparent")
		if got == "" {
			return
		}
		trimmed := strings.Trim(value, " \t")
		if !legalParent.MatchString(got) || trimmed[2:52] != got[2:52] || got[3:35] == strings.Repeat("0", 32) || got[36:52] == strings.Repeat("0", 16) {
			t.Errorf("%q was sent on as %q, which is not legal or not the same trace", value, got)
		}
		if again := forwarded(out).Get("traceparent"); again != got {
			t.Errorf("%q was sent on as %q, want it unchanged", got, again)
		}
	})
}

func FuzzTracestate(f *testing.F) {
	for _, seed := range []string{"a=1", "a=1\nb=2", "a@=1,a=2", "a=1,a=2", ",,\n ,", "a= b ,c=\t", strings.Repeat("a=1,", 40), "a=" + strings.Repeat("v", 256) + ",b@=" + strings.Repeat("v", 256)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		out := forwarded(http.Header{"Traceparent": {w3cParent + "-01"}, "Tracestate": strings.Split(lines, "\n")})
		if out.Get("traceparent") == "" {
			t.Fatal("the tracestate took the traceparent with it")
		}
		states, ok := out["Tracestate"]
		if !ok {
			return
		}
		keys := map[string]bool{}
		members := strings.Split(states[0], ",")
		for _, m := range members {
			key, _, _ := strings.Cut(m, "=")
			if !legalMember.MatchString(m) || keys[key] {
				t.Errorf("%q was sent on with member %q, which is not legal or repeated", lines, m)
			}
			keys[key] = true
		}
		if len(states) != 1 || len(members) > 32 || len(states[0]) > 512 {
			t.Errorf("%d lines, %d members and %d bytes were sent on, want at most 1, 32 and 512", len(states), len(members), len(states[0]))
		}
		if again := forwarded(out).Get("tracestate"); again != states[0] {
			t.Errorf("%q was sent on as %q, want it unchanged", states[0], again)
		}
	})
}

func FuzzBaggage(f *testing.F) {
	for _, seed := range []string{"a=1", "a=1;p=2;q,b=%20", "a=1\na=2", ",,", strings.Repeat("a=1,", 70), "a=" + strings.Repeat("v", 9000), "a=%zz", "é=é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		out := forwarded(http.Header{"Baggage": strings.Split(lines, "\n")})
		bag := out.Get("baggage")
		if n := strings.Count(bag, ",") + 1; n > 64 || len(bag) > 8192 {
			t.Errorf("%d members and %d bytes were sent on, want at most 64 and 8192", n, len(bag))
		}
		if strings.ContainsFunc(bag, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("baggage = %q, which no header can carry", bag)
		}
		if again := forwarded(out).Get("baggage"); again != bag {
			t.Errorf("%q was sent on as %q, want it unchanged", bag, again)
		}
	})
}
