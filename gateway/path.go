package gateway

import (
	"net/http"
	"net/netip"
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
	maxHost         = 255 // RFC 1035 §3.1
)

// inspect checks what every request must satisfy before any route is looked for.
// It returns the path in canonical form, or what to answer.
func (e *edge) inspect(r *http.Request) (at location, no *failure) {
	if max(len(r.URL.Path), len(r.URL.RawPath))+len(r.URL.RawQuery) > maxTarget {
		return at, &failure{status: http.StatusRequestURITooLong, detail: "the path and query are too long; send less of them, or send it in the body"}
	}
	if !smallHeader(r.Header) {
		return at, new(tooLargeHeader())
	}
	if !validMethod(r.Method) {
		return at, &failure{status: http.StatusNotImplemented, detail: "the method is not one that this gateway forwards"}
	}
	// An HTTP/1.0 client may not know of the field; RFC 9110 §4.2.1 wants a host.
	if !validHost(r.Host) && (r.Host != "" || r.ProtoAtLeast(1, 1)) {
		return at, &failure{status: http.StatusBadRequest, detail: "the host is missing or malformed"}
	}
	at, ok := e.paths.canonical(r.URL)
	if !ok {
		return at, &failure{status: http.StatusBadRequest, detail: "the path is ambiguous or malformed; send it without dot segments, empty segments, parameters and encoded delimiters"}
	}
	if !validQuery(r.URL.RawQuery, e.rawQuery) {
		return at, &failure{status: http.StatusBadRequest, detail: "the query is malformed; separate parameters by & and encode all other delimiters"}
	}
	return at, nil
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

// location is a path that all readers agree on.
type location struct {
	escaped string // as it is sent
	decoded string
	key     string // as routes are compared with it: decoded, save for encoded slashes
}

// pathRules says what of a path is tolerated; the zero rules are the strictest.
type pathRules struct{ mergeSlashes, encodedSlash bool }

// canonical returns the one form of a path that everybody will agree on, or
// false where two readers of it might not. Refused are dot segments and empty
// segments (save a last one, which is a slash at the end), parameters, every
// encoded form of . / \ ; and of a control character, what looks encoded twice,
// whatever RFC 3986 §3.3 does not allow in a path, and text that is not UTF-8.
// What remains has its unreserved characters decoded and its escapes in capitals
// (RFC 3986 §6.2.2).
func (rules pathRules) canonical(u *url.URL) (location, bool) {
	escaped, path := u.RawPath, u.Path
	if escaped == "" {
		escaped = u.EscapedPath()
	}
	if rules.mergeSlashes {
		if decoded, err := url.PathUnescape(escaped); err != nil || decoded != path {
			return location{}, false
		}
		escaped = mergeSlashes(escaped)
	}
	plain, ok := unambiguous(escaped)
	if !ok {
		return location{}, false
	}
	if plain {
		return location{escaped, escaped, escaped}, rules.mergeSlashes || escaped == path
	}
	if escaped, ok = decodeUnreserved(escaped, rules.encodedSlash); !ok {
		return location{}, false
	}
	decoded, err := url.PathUnescape(escaped)
	if err != nil || !rules.mergeSlashes && decoded != path || !utf8.ValidString(decoded) || hasEscape(decoded) {
		return location{}, false
	}
	at := location{escaped, decoded, decoded}
	if rules.encodedSlash && strings.Contains(escaped, "%2F") {
		if hasDots(decoded) {
			return location{}, false
		}
		// No path has such text otherwise: it would be encoded twice.
		at.key, _ = url.PathUnescape(strings.ReplaceAll(escaped, "%2F", "%252F"))
	}
	return at, true
}

// unambiguous checks the parts of an escaped path that are not escaped, and
// reports whether that is all of it.
func unambiguous(escaped string) (plain, ok bool) {
	if escaped == "" || escaped[0] != '/' {
		return false, false
	}
	start, plain := 1, true
	for i := 1; i < len(escaped); i++ {
		switch c := escaped[i]; {
		case c == '/':
			if s := escaped[start:i]; s == "" || s == "." || s == ".." {
				return false, false
			}
			start = i + 1
		case c == '%':
			plain = false
		case !pathByte(c):
			return false, false
		}
	}
	s := escaped[start:]
	return plain, s != "." && s != ".."
}

// mergeSlashes makes one of slashes that follow each other.
func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b = append(b, path[i])
		}
	}
	return string(b)
}

// hasDots reports whether a path has a segment that leads elsewhere.
func hasDots(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
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
// something, save that of a slash where it may pass.
func decodeUnreserved(escaped string, slash bool) (string, bool) {
	var b strings.Builder
	b.Grow(len(escaped))
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' {
			b.WriteByte(escaped[i])
			continue
		}
		c, ok := unhex(escaped[i:])
		switch {
		case !ok, c < 0x20, c == 0x7f, c == '.', c == '/' && !slash, c == '\\', c == ';':
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

// validQuery refuses what two parsers of a query may read differently, or where
// that may pass, no more than what would break a line.
func validQuery(q string, raw bool) bool {
	for i := range len(q) {
		switch c := q[i]; {
		case c <= ' ', c == 0x7f:
			return false
		case raw:
		case c == '%':
			if _, ok := unhex(q[i:]); !ok {
				return false
			}
		case c == ';', c == '#', c >= 0x80:
			return false
		}
	}
	return true
}

// canonicalHost returns a valid host in small letters, without port, brackets and
// the dot at the end.
func canonicalHost(host string) string {
	name, _ := splitPort(host)
	return strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
}

// splitPort returns a host without its port, and the port.
func splitPort(host string) (name, port string) {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") {
		return host, ""
	}
	return host[:i], host[i:]
}

// validHost reports whether host is a name of labels or an address, with a port
// or without, so that no reader of X-Forwarded-Host takes it for anything else.
func validHost(host string) bool {
	name, port := splitPort(host)
	if len(name) > maxHost || len(port) > 6 {
		return false
	}
	for i := 1; i < len(port); i++ {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && addr.Is6() && addr.Zone() == "" && strings.HasSuffix(inner, "]")
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.' && label > 0:
			label = 0
		case alphanumeric(c), c == '-', c == '_':
			label++
		default:
			return false
		}
	}
	return name != "" && (label > 0 || len(name) > 1)
}
