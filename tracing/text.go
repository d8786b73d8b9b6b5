package tracing

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	// maxText bounds each attribute that a stranger chooses.
	maxText = 1024
	// maxDescription bounds the text of an error on a span.
	maxDescription = 256
	redacted       = "REDACTED"
)

// signatureParams returns the query parameters that make a URL a credential:
// those that the conventions name, two that earlier versions of them named, the
// others of signed URLs at Google and AWS CloudFront, and that of RFC 6750 §2.3.
func signatureParams() []string {
	return []string{
		"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig", "X-Goog-Signature",
		"AWSAccessKeyId", "Signature",
		"X-Goog-Credential", "GoogleAccessId", "Policy", "Key-Pair-Id", "access_token",
	}
}

// text makes s fit for an attribute: at most limit bytes of valid UTF-8. One
// value that is not UTF-8 would cost a whole batch of spans at an OTLP exporter.
func text(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for i := 0; i < utf8.UTFMax && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]); i++ {
			s = s[:len(s)-1]
		}
	}
	if utf8.ValidString(s) { // which looks at eight bytes at a time
		return s
	}
	return strings.ToValidUTF8(s, "?")
}

// fullURL returns u for the attribute url.full: without its credentials, the
// values of the parameters in names, and the fragment, which is never sent.
func fullURL(u *url.URL, names []string) string {
	var b strings.Builder
	b.Grow(min(maxText, len(u.Scheme)+len("://")+len(u.Host)+len(u.Path)+len("?")+len(u.RawQuery)))
	b.WriteString(u.Scheme)
	b.WriteByte(':')
	if u.Opaque != "" {
		b.WriteString(opaque(u.Opaque, names))
	} else {
		b.WriteString("//")
		if u.User != nil {
			b.WriteString(redacted + ":" + redacted + "@")
		}
		b.WriteString(u.Host)
		b.WriteString(u.EscapedPath())
	}
	if u.RawQuery != "" {
		b.WriteByte('?')
		b.WriteString(redactQuery(u.RawQuery, names))
	}
	return text(b.String(), maxText)
}

// opaque returns the opaque part of a URL without its credentials: some callers
// put there what is sent as it is, authority and query included.
func opaque(s string, names []string) string {
	s, query, hasQuery := strings.Cut(s, "?")
	if authority, ok := strings.CutPrefix(s, "//"); ok {
		path := ""
		if i := strings.IndexByte(authority, '/'); i >= 0 {
			authority, path = authority[:i], authority[i:]
		}
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			s = "//" + redacted + ":" + redacted + authority[at:] + path
		}
	}
	if hasQuery {
		s += "?" + redactQuery(query, names)
	}
	return s
}

// redactQuery replaces the values of the parameters in names. It looks at the
// part of the query that will be kept.
func redactQuery(query string, names []string) string {
	// A parameter that the cut goes through has lost some of its value, or of
	// its name and all of its value; either way nothing of it may be judged.
	if len(query) > maxText {
		query = query[:maxText]
		query = query[:strings.LastIndexAny(query, "&;")+1]
	}
	var b strings.Builder
	for rest := query; ; {
		// ';' separated parameters once, and some servers still take it so.
		i := strings.IndexAny(rest, "&;")
		param := rest
		if i >= 0 {
			param = rest[:i]
		}
		if name, _, ok := strings.Cut(param, "="); ok && isSecret(name, names) {
			b.WriteString(name + "=" + redacted)
		} else {
			b.WriteString(param)
		}
		if i < 0 {
			return b.String()
		}
		b.WriteByte(rest[i])
		rest = rest[i+1:]
	}
}

// isSecret reports whether the parameter called name, as it stands in a query,
// is one of names. The conventions compare case-sensitively; services that do
// not are common, and a secret is worse to show than a harmless value to hide.
func isSecret(name string, names []string) bool {
	if strings.ContainsAny(name, "%+") {
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
	}
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}
