package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// pattern is a parsed Route.Pattern, in the syntax of [http.ServeMux].
type pattern struct {
	method   string // empty matches every method; GET matches HEAD too
	host     string // in canonical form; *.name matches what ends in .name, and empty every host
	segments []segment
}

// segment is what stands between two slashes of a pattern.
type segment struct {
	kind kind
	text string // of a literal, unescaped; the name of a wildcard or rest, which may be empty
}

type kind int

const (
	literal  kind = iota
	wildcard      // {name}: one segment that is not empty
	rest          // {name...} or a slash at the end: one segment or more, of which the last may be empty
	end           // {$}: nothing but the slash before it
)

func parsePattern(s string) (pattern, error) {
	var p pattern
	host := s
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		p.method, host = s[:i], strings.TrimLeft(s[i:], " \t")
		if !validMethod(p.method) {
			return p, fmt.Errorf("method %q is not a token in capital letters, or one that is never forwarded", p.method)
		}
	}
	i := strings.IndexByte(host, '/')
	if i < 0 {
		return p, errors.New("a pattern is [METHOD ][HOST]/PATH, and the slash is missing")
	}
	host, path := host[:i], host[i:]
	if p.host = canonicalHost(host); host != "" && !validPatternHost(host) {
		return p, fmt.Errorf("host %q is not a name, a *. before one, or an address, without a port", host)
	}
	texts := strings.Split(path[1:], "/")
	for i, text := range texts {
		seg, err := parseSegment(text)
		last := i == len(texts)-1
		switch {
		case err != nil:
			return p, err
		case text == "" && !last:
			return p, errors.New("a path with an empty segment never matches, since such paths are refused")
		case (seg.kind == rest || seg.kind == end) && !last:
			return p, fmt.Errorf("%s stands only at the end", text)
		case seg.kind != literal && seg.text != "" && slices.ContainsFunc(p.segments, seg.sameName):
			return p, fmt.Errorf("the name %s stands twice", seg.text)
		}
		p.segments = append(p.segments, seg)
	}
	return p, nil
}

// validPatternHost accepts the hosts that a request can have, and in place of
// their first labels a *.
func validPatternHost(host string) bool {
	name, _ := strings.CutPrefix(host, "*.")
	_, port := splitPort(name)
	return port == "" && validHost(name) && (name == host || name[0] != '[')
}

func (s segment) sameName(other segment) bool {
	return other.kind != literal && other.text == s.text
}

func parseSegment(text string) (segment, error) {
	if text == "" {
		return segment{kind: rest}, nil
	}
	if !strings.ContainsAny(text, "{}") {
		// The rules for requests hold for patterns too: what they refuse can never
		// match.
		plain, err := url.PathUnescape(text)
		if _, ok := (pathRules{}).canonical(&url.URL{Path: "/" + plain, RawPath: "/" + text}); err != nil || !ok {
			return segment{}, fmt.Errorf("segment %q never matches, since such paths are refused", text)
		}
		return segment{kind: literal, text: plain}, nil
	}
	name, opened := strings.CutPrefix(text, "{")
	name, closed := strings.CutSuffix(name, "}")
	if !opened || !closed {
		return segment{}, fmt.Errorf("segment %q: a wildcard must fill a whole segment", text)
	}
	if name == "$" {
		return segment{kind: end}, nil
	}
	name, many := strings.CutSuffix(name, "...")
	if !identifier(name) {
		return segment{}, fmt.Errorf("segment %q: the name is not a Go identifier", text)
	}
	if many {
		return segment{kind: rest, text: name}, nil
	}
	return segment{kind: wildcard, text: name}, nil
}

func identifier(s string) bool {
	for i, c := range s {
		if c != '_' && !unicode.IsLetter(c) && (i == 0 || !unicode.IsDigit(c)) {
			return false
		}
	}
	return s != ""
}

// validMethod accepts the tokens of RFC 9110 §9.1 of sensible length, save those
// with small letters, which are almost always a mistake. CONNECT makes a tunnel
// of a connection that the pool would hand to others, and has no path; TRACE
// returns to the client what Use and the gateway have added.
func validMethod(m string) bool {
	if m == "" || len(m) > maxMethod || m == http.MethodConnect || m == http.MethodTrace {
		return false
	}
	for i := range len(m) {
		if c := m[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// meets reports whether some request matches both patterns, hosts apart.
func (p pattern) meets(q pattern) bool {
	if !coversMethod(p.method, q.method) && !coversMethod(q.method, p.method) {
		return false
	}
	for i, s := range p.segments {
		if i >= len(q.segments) {
			return false
		}
		o := q.segments[i]
		if s.kind == rest || o.kind == rest {
			return true
		}
		if !s.covers(o) && !o.covers(s) {
			return false
		}
	}
	return len(p.segments) == len(q.segments)
}

// covers reports whether p matches all that q matches, hosts apart.
func (p pattern) covers(q pattern) bool {
	if !coversMethod(p.method, q.method) {
		return false
	}
	for i, s := range p.segments {
		switch {
		case i >= len(q.segments):
			return false
		case s.kind == rest:
			return true
		case !s.covers(q.segments[i]):
			return false
		}
	}
	return len(p.segments) == len(q.segments)
}

// covers reports whether s, which is no rest, matches all that o matches.
func (s segment) covers(o segment) bool {
	switch s.kind {
	case wildcard:
		return o.kind == wildcard || o.kind == literal
	case literal:
		return o.kind == literal && o.text == s.text
	default:
		return s.kind == o.kind
	}
}

func coversMethod(p, q string) bool {
	return p == "" || p == q || p == "GET" && q == "HEAD"
}
