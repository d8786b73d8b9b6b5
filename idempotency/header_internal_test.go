package idempotency

import (
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	const uuid = "8e03978e-40d5-43e8-bc93-6894a57f9324"
	long := strings.Repeat("k", 255)
	for name, c := range map[string]struct {
		value           string
		lenient, strict string // the key; "" means refused
	}{
		"a bare UUID":                  {uuid, uuid, ""},
		"a quoted UUID":                {`"` + uuid + `"`, uuid, uuid},
		"white space around it":        {" \t" + `"k" `, "k", "k"},
		"a quote within a string":      {`"a\"b"`, `a"b`, `a"b`},
		"a backslash within a string":  {`"a\\b"`, `a\b`, `a\b`},
		"a space within a string":      {`"a b"`, "a b", "a b"},
		"a comma within a string":      {`"a,b"`, "a,b", "a,b"},
		"a semicolon in a bare key":    {"order;1", "order;1", ""},
		"base64":                       {"YWJj+/8=", "YWJj+/8=", ""},
		"255 characters":               {long, long, ""},
		"255 quoted characters":        {`"` + long + `"`, long, long},
		"256 characters":               {long + "k", "", ""},
		"256 quoted characters":        {`"` + long + `k"`, "", ""},
		"nothing":                      {"", "", ""},
		"only spaces":                  {"   ", "", ""},
		"an empty string":              {`""`, "", ""},
		"a lone quote":                 {`"`, "", ""},
		"an open string":               {`"k`, "", ""},
		"text after a string":          {`"k"x`, "", ""},
		"a parameter after a string":   {`"k";a=1`, "", ""},
		"two strings":                  {`"a", "b"`, "", ""},
		"a list of bare keys":          {"a, b", "", ""},
		"a list without space":         {"a,b", "", ""},
		"a space in a bare key":        {"a b", "", ""},
		"a quote in a bare key":        {`a"b`, "", ""},
		"an escape of another letter":  {`"a\b"`, "", ""},
		"an escape of the end":         {`"a\"`, "", ""},
		"a tab":                        {"a\tb", "", ""},
		"a tab within a string":        {"\"a\tb\"", "", ""},
		"NUL":                          {"a\x00b", "", ""},
		"DEL":                          {"a\x7fb", "", ""},
		"a character that isn't ASCII": {"schlüssel", "", ""},
		"one within a string":          {`"schlüssel"`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for strict, want := range map[bool]string{false: c.lenient, true: c.strict} {
				got, ok := parseKey(c.value, strict)
				if got != want || ok != (want != "") {
					t.Errorf("parseKey(%q, strict %t) = %q, %t, want %q, %t", c.value, strict, got, ok, want, want != "")
				}
			}
		})
	}
}

func FuzzParseKey(f *testing.F) {
	for _, v := range []string{"k", `"k"`, `"a\"b"`, `"a\\b"`, `"`, `""`, "a,b", `"k";a=1`, " k ", "\x00", "ü"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		lenient, ok := parseKey(v, false)
		strict, strictOK := parseKey(v, true)
		if strictOK && (!ok || lenient != strict) {
			t.Fatalf("parseKey(%q) = %q lenient and %q strict, want the same where strict takes it", v, lenient, strict)
		}
		if !ok {
			if lenient != "" {
				t.Fatalf("parseKey(%q) refused it and returned %q", v, lenient)
			}
			return
		}
		if !validKey(lenient) {
			t.Fatalf("parseKey(%q) = %q, which is not 1 to 255 characters of ASCII", v, lenient)
		}
		// What was read must be what a quoted key says, and what a bare one does.
		if again, ok := parseKey(quoteKey(lenient), true); !ok || again != lenient {
			t.Fatalf("parseKey(quoteKey(%q)) = %q, %t, want the same key", lenient, again, ok)
		}
		if isBare(lenient) {
			if again, ok := parseKey(lenient, false); !ok || again != lenient {
				t.Fatalf("parseKey(%q) = %q, %t, want the same key", lenient, again, ok)
			}
		}
	})
}
