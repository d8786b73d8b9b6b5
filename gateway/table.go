package gateway

import (
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// table finds the route of a request. The routes hang on one tree for each host,
// by the segments of their paths. Conflicts having been refused, of all routes
// that match a request one is the most specific, and the walk from literal to
// wildcard to rest meets it first. A nil table has no routes.
type table struct {
	hosts map[string]*node // the routes without a host at ""
	below map[string]*node // those of *.name at .name
	reads reads
}

type node struct {
	literals map[string]*node // the next segment; {$} is the empty one
	wildcard *node
	here     leaf // routes whose pattern ends at this node
	rest     leaf // routes whose pattern goes on with {name...}
}

// leaf holds the routes of one path by method; "" is every method. Of those that
// share a method, who implies others by its conditions comes before them.
type leaf map[string][]*route

func newTable(routes []*route) *table {
	t := &table{hosts: make(map[string]*node), below: make(map[string]*node)}
	for _, rt := range routes {
		host, suffix := strings.CutPrefix(rt.pattern.host, "*")
		trees := t.hosts
		if suffix {
			trees = t.below
		}
		n := trees[host]
		if n == nil {
			n = new(node)
			trees[host] = n
		}
		n.add(rt.pattern.segments, rt)
		t.reads.add(rt.conditions)
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
	m := rt.pattern.method
	l[m] = append(l[m], rt)
	slices.SortStableFunc(l[m], func(a, b *route) int { return weight(b.conditions) - weight(a.conditions) })
}

func (l leaf) of(method string, g given) *route {
	if rt := first(l[method], g); rt != nil {
		return rt
	}
	if method == http.MethodHead {
		if rt := first(l[http.MethodGet], g); rt != nil {
			return rt
		}
	}
	return first(l[""], g)
}

func first(routes []*route, g given) *route {
	for _, rt := range routes {
		if allHold(rt.conditions, g) {
			return rt
		}
	}
	return nil
}

// find returns the route of a request, or what to answer where there is none.
// Host and path are in canonical form.
func (t *table) find(method, host, path string, header http.Header, query string) (*route, *failure) {
	var g given
	if t != nil {
		var ok bool
		if g, ok = t.reads.of(header, query); !ok {
			return nil, &failure{status: http.StatusBadRequest, detail: "a field or parameter by which requests are told apart stands twice; send it once"}
		}
	}
	if rt := t.match(method, host, path, g); rt != nil {
		return rt, nil
	}
	if allowed := t.allowed(host, path, g); len(allowed) > 0 {
		return nil, &failure{status: http.StatusMethodNotAllowed, detail: "the path has other methods; see Allow", allow: strings.Join(allowed, ", ")}
	}
	return nil, &failure{status: http.StatusNotFound, detail: "no route leads there; check host and path"}
}

// match returns the most specific route for the request, nil if there is none.
func (t *table) match(method, host, path string, g given) *route {
	for n := range t.of(host) {
		var found *route
		n.walk(path, func(l leaf) bool {
			found = l.of(method, g)
			return found == nil
		})
		if found != nil {
			return found
		}
	}
	return nil
}

// allowed returns the methods for which there is a route, sorted.
func (t *table) allowed(host, path string, g given) []string {
	methods := make(map[string]bool)
	for n := range t.of(host) {
		n.walk(path, func(l leaf) bool {
			for m, routes := range l {
				if first(routes, g) == nil {
					continue
				}
				methods[m] = true
				if m == http.MethodGet {
					methods[http.MethodHead] = true
				}
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(methods))
}

// of yields the trees of a host: its own, those of the names it is below, the
// longest first, and that of every host.
func (t *table) of(host string) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		if t == nil {
			return
		}
		if n := t.hosts[host]; n != nil && host != "" && !yield(n) {
			return
		}
		if len(t.below) > 0 {
			for i := range len(host) {
				if host[i] != '.' {
					continue
				}
				if n := t.below[host[i:]]; n != nil && !yield(n) {
					return
				}
			}
		}
		if n := t.hosts[""]; n != nil {
			yield(n)
		}
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
// the key of one that the pattern matches.
func (p pattern) setValues(r *http.Request, path string) {
	for name, value := range p.values(path) {
		r.SetPathValue(name, strings.ReplaceAll(value, "%2F", "/"))
	}
}

// values yields what the pattern's wildcards stand for in a path that it matches.
func (p pattern) values(path string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for _, s := range p.segments {
			if path == "" {
				return // the path has been changed, and matches no longer
			}
			path = path[1:]
			if s.kind == rest {
				if s.text != "" {
					yield(s.text, path)
				}
				return
			}
			value, after := path, ""
			if i := strings.IndexByte(path, '/'); i >= 0 {
				value, after = path[:i], path[i:]
			}
			if s.kind == wildcard && !yield(s.text, value) {
				return
			}
			path = after
		}
	}
}
