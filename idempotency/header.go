package idempotency

import "strings"

// header is the field that carries the key; replayedHeader marks an answer that
// was recorded earlier.
const (
	header         = "Idempotency-Key"
	replayedHeader = "Idempotency-Replayed"
)

// maxKey bounds a key, in characters: what the large payment services take.
const maxKey = 255

// parseKey reads the value of the header: a String of RFC 8941 §3.3.3, which is
// what draft-ietf-httpapi-idempotency-key-header-07 asks for, or, unless strict,
// the bare characters that most clients send. `"k"` and `k` are the same key.
//
// A bare key is 1 to 255 visible ASCII characters without quote and comma. The
// comma would hide that a proxy joined two lines.
func parseKey(v string, strict bool) (key string, ok bool) {
	v = strings.Trim(v, " \t")
	if strings.HasPrefix(v, `"`) {
		key, ok = parseString(v)
	} else {
		key, ok = v, !strict && isBare(v)
	}
	if !ok || key == "" || len(key) > maxKey {
		return "", false
	}
	return key, true
}

func isBare(v string) bool {
	for i := range len(v) {
		if c := v[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' {
			return false
		}
	}
	return true
}

// parseString reads a String and nothing after it: the draft's grammar has no
// parameters.
func parseString(v string) (string, bool) {
	if len(v) < 2 || v[0] != '"' || v[len(v)-1] != '"' {
		return "", false
	}
	v = v[1 : len(v)-1]
	escaped := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c < ' ' || c >= 0x7f || c == '"':
			return "", false
		case c == '\\':
			if i++; i == len(v) || v[i] != '"' && v[i] != '\\' {
				return "", false
			}
			escaped = true
		}
	}
	if !escaped {
		return v, true
	}
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] == '\\' {
			i++
		}
		b.WriteByte(v[i])
	}
	return b.String(), true
}

// quoteKey writes key as a String.
func quoteKey(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

// validKey reports whether a String can carry key.
func validKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return false
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] >= 0x7f {
			return false
		}
	}
	return true
}
