package gateway

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// What a request may look like. Larger ones are answered by 414 and 431.
const (
	maxMethod       = 32
	maxTarget       = 8 << 10 // path and query; RFC 9110 §4.1 asks for 8000 octets at least
	maxHeaderFields = 128
	maxHeaderBytes  = 64 << 10
)

// inspect checks what every request must satisfy before any route is looked for.
// It returns the path in canonical, still escaped form, or what to answer.
func inspect(r *http.Request) (path string, no *failure) {
	if max(len(r.URL.Path), len(r.URL.RawPath))+len(r.URL.RawQuery) > maxTarget {
		return "", &failure{status: http.StatusRequestURITooLong, detail: "the path and query are too long; send less of them, or send it in the body"}
	}
	if !smallHeader(r.Header) {
		return "", &failure{status: http.StatusRequestHeaderFieldsTooLarge, detail: "the header has too many or too large fields; send fewer"}
	}
	// CONNECT makes a tunnel of a connection that the pool would hand to others;
	// TRACE returns to the client what Use and the gateway have added.
	if !validMethod(r.Method) || r.Method == http.MethodTrace {
		return "", &failure{status: http.StatusNotImplemented, detail: "the method is not one that this gateway forwards"}
	}
	if r.Host != "" && !validHost(r.Host) {
		return "", &failure{status: http.StatusBadRequest, detail: "the host is malformed"}
	}
	path, ok := canonicalPath(r.URL)
	if !ok {
		return "", &failure{status: http.StatusBadRequest, detail: "the path is ambiguous or malformed; send it without dot segments, empty segments, parameters and encoded delimiters"}
	}
	if !strictQuery(r.URL.RawQuery) {
		return "", &failure{status: http.StatusBadRequest, detail: "the query is malformed; separate parameters by & and encode all other delimiters"}
	}
	return path, nil
}

func smallHeader(h http.Header) bool {
	fields, size := 0, 0
	for name, values := range h {
		fields += len(values)
		for _, v := range values {
			size += len(name) + len(v)
		}
	}
	return fields <= maxHeaderFields && size <= maxHeaderBytes
}

// canonicalPath returns the one escaped form of a path that everybody will agree
// on, or false where two readers of it might not. Refused are dot segments and
// empty segments (save a last one, which is a slash at the end), parameters,
// every encoded form of . / \ ; and of a control character, what looks encoded
// twice, whatever RFC 3986 §3.3 does not allow in a path, and text that is not
// UTF-8. What remains has its unreserved characters decoded and its escapes in
// capitals (RFC 3986 §6.2.2).
func canonicalPath(u *url.URL) (string, bool) {
	escaped := u.RawPath
	if escaped == "" {
		escaped = u.EscapedPath()
	}
	if escaped == "" || escaped[0] != '/' {
		return "", false
	}
	start, plain := 1, true
	for i := 1; i < len(escaped); i++ {
		switch c := escaped[i]; {
		case c == '/':
			if s := escaped[start:i]; s == "" || s == "." || s == ".." {
				return "", false
			}
			start = i + 1
		case c == '%':
			plain = false
		case !pathByte(c):
			return "", false
		}
	}
	if s := escaped[start:]; s == "." || s == ".." {
		return "", false
	}
	if plain {
		return escaped, escaped == u.Path
	}
	canonical, ok := decodeUnreserved(escaped)
	if !ok {
		return "", false
	}
	decoded, err := url.PathUnescape(canonical)
	return canonical, err == nil && decoded == u.Path && utf8.ValidString(decoded) && !hasEscape(decoded)
}

// hasEscape reports whether s could be decoded again.
func hasEscape(s string) bool {
	for i := range len(s) {
		if s[i] == '%' {
			if _, ok := unhex(s[i:]); ok {
				return true
			}
		}
	}
	return false
}

// decodeUnreserved decodes what needs no escape, and refuses escapes that hide
// something.
func decodeUnreserved(escaped string) (string, bool) {
	var b strings.Builder
	b.Grow(len(escaped))
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' {
			b.WriteByte(escaped[i])
			continue
		}
		c, ok := unhex(escaped[i:])
		switch {
		case !ok, c < 0x20, c == 0x7f, c == '.', c == '/', c == '\\', c == ';':
			return "", false
		case unreserved(c):
			b.WriteByte(c)
		default:
			b.WriteString(strings.ToUpper(escaped[i : i+3]))
		}
		i += 2
	}
	return b.String(), true
}

// unhex returns the byte that the escape at the beginning of s stands for.
func unhex(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, lo := hexDigit(s[1]), hexDigit(s[2])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// unreserved is RFC 3986 §2.3.
func unreserved(c byte) bool {
	return alphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~'
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// pathByte is pchar of RFC 3986 §3.3 without the percent sign and the semicolon,
// which some servers take for the beginning of parameters.
func pathByte(c byte) bool {
	return unreserved(c) || strings.IndexByte("!$&'()*+,=:@", c) >= 0
}

// strictQuery refuses what two parsers of a query may read differently.
func strictQuery(q string) bool {
	for i := range len(q) {
		switch c := q[i]; {
		case c == '%':
			if _, ok := unhex(q[i:]); !ok {
				return false
			}
		case c == ';', c == '#', c <= ' ', c >= 0x7f:
			return false
		}
	}
	return true
}

// canonicalHost returns host in small letters, without port, brackets and the
// dot at the end.
func canonicalHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	return strings.ToLower(host)
}

// validHost keeps out what a reader of X-Forwarded-Host might take for more than
// one host.
func validHost(host string) bool {
	for i := range len(host) {
		if c := host[i]; !unreserved(c) && c != ':' && c != '[' && c != ']' && c != '%' {
			return false
		}
	}
	return true
}
