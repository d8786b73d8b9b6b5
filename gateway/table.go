package gateway

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// table finds the route of a request. The routes hang on one tree for each host,
// by the segments of their paths. Conflicts having been refused, of all routes
// that match a request one is the most specific, and the walk from literal to
// wildcard to rest meets it first.
type table struct {
	hosts map[string]*node // the routes without a host at ""
}

type node struct {
	literals map[string]*node // the next segment; {$} is the empty one
	wildcard *node
	here     leaf // routes whose pattern ends at this node
	rest     leaf // routes whose pattern goes on with {name...}
}

// leaf holds the routes of one path by method; "" is every method.
type leaf map[string]*route

func newTable(routes []*route) *table {
	t := &table{hosts: make(map[string]*node)}
	for _, rt := range routes {
		n := t.hosts[rt.pattern.host]
		if n == nil {
			n = new(node)
			t.hosts[rt.pattern.host] = n
		}
		n.add(rt.pattern.segments, rt)
	}
	return t
}

func (n *node) add(segments []segment, rt *route) {
	if len(segments) == 0 {
		n.here.add(&n.here, rt)
		return
	}
	var next *node
	switch s := segments[0]; s.kind {
	case rest:
		n.rest.add(&n.rest, rt)
		return
	case wildcard:
		if n.wildcard == nil {
			n.wildcard = new(node)
		}
		next = n.wildcard
	case literal, end:
		name := ""
		if s.kind == literal {
			name = s.text
		}
		if n.literals == nil {
			n.literals = make(map[string]*node)
		}
		if n.literals[name] == nil {
			n.literals[name] = new(node)
		}
		next = n.literals[name]
	}
	next.add(segments[1:], rt)
}

func (l leaf) add(at *leaf, rt *route) {
	if l == nil {
		l = make(leaf)
		*at = l
	}
	l[rt.pattern.method] = rt
}

func (l leaf) of(method string) *route {
	if rt := l[method]; rt != nil {
		return rt
	}
	if method == http.MethodHead {
		if rt := l[http.MethodGet]; rt != nil {
			return rt
		}
	}
	return l[""]
}

// match returns the most specific route for the request, nil if there is none.
// Host and path are in canonical form.
func (t *table) match(method, host, path string) *route {
	var found *route
	t.walk(host, path, func(l leaf) bool {
		found = l.of(method)
		return found == nil
	})
	return found
}

// allowed returns the methods for which there is a route, sorted.
func (t *table) allowed(host, path string) []string {
	methods := make(map[string]bool)
	t.walk(host, path, func(l leaf) bool {
		for m := range l {
			methods[m] = true
			if m == http.MethodGet {
				methods[http.MethodHead] = true
			}
		}
		return true
	})
	return slices.Sorted(maps.Keys(methods))
}

func (t *table) walk(host, path string, yield func(leaf) bool) {
	if host != "" {
		if n := t.hosts[host]; n != nil && !n.walk(path, yield) {
			return
		}
	}
	if n := t.hosts[""]; n != nil {
		n.walk(path, yield)
	}
}

// walk yields the leaves that match path, which is empty or begins with a slash,
// from the most specific on, until yield says no.
func (n *node) walk(path string, yield func(leaf) bool) bool {
	if path == "" {
		return n.here == nil || yield(n.here)
	}
	segment, after := path[1:], ""
	if i := strings.IndexByte(segment, '/'); i >= 0 {
		segment, after = segment[:i], segment[i:]
	}
	if next := n.literals[segment]; next != nil && !next.walk(after, yield) {
		return false
	}
	if n.wildcard != nil && segment != "" && !n.wildcard.walk(after, yield) {
		return false
	}
	return n.rest == nil || yield(n.rest)
}

// setValues gives the request the values of the pattern's wildcards. The path is
// one that the pattern matches.
func (p pattern) setValues(r *http.Request, path string) {
	for _, s := range p.segments {
		path = path[1:]
		if s.kind == rest {
			if s.text != "" {
				r.SetPathValue(s.text, path)
			}
			return
		}
		value, after := path, ""
		if i := strings.IndexByte(path, '/'); i >= 0 {
			value, after = path[:i], path[i:]
		}
		if s.kind == wildcard {
			r.SetPathValue(s.text, value)
		}
		path = after
	}
}
