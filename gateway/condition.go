package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// anyValue is the value of a condition that every value satisfies.
const anyValue = "*"

// condition asks for one field of the header or one parameter of the query.
type condition struct {
	query bool
	name  string
	value string // anyValue for every value
}

// conditions reads the part of a Route that is beside its pattern.
func (e *edge) conditions(r *Route) (all []condition, faults []string) {
	for name, value := range r.Header {
		key := http.CanonicalHeaderKey(name)
		switch {
		case !plainName(name):
			faults = append(faults, fmt.Sprintf("Header: %q is not the name of a field", name))
		case dropped(key) || e.identity.has(key) || key == "Host" || key == requestIDHeader:
			faults = append(faults, fmt.Sprintf("Header: %s is not the client's to set, and never matches", key))
		case value != strings.Trim(value, " \t"):
			faults = append(faults, fmt.Sprintf("Header: the value of %s begins or ends in a space, and never matches", key))
		case slices.ContainsFunc(all, func(c condition) bool { return c.name == key }):
			faults = append(faults, fmt.Sprintf("Header: %s stands twice", key))
		}
		all = append(all, condition{name: key, value: value})
	}
	for name, value := range r.Query {
		all = append(all, condition{query: true, name: name, value: value})
	}
	if len(r.Query) > 0 && e.rawQuery {
		faults = append(faults, "Query: with RawQuery the upstream may read other parameters than the gateway does")
	}
	return all, faults
}

// given is what a request has of that which conditions ask for.
type given struct {
	header http.Header
	query  map[string]string
}

func (c condition) holds(g given) bool {
	if c.query {
		v, ok := g.query[c.name]
		return ok && (c.value == anyValue || c.value == v)
	}
	v := g.header[c.name]
	return len(v) == 1 && (c.value == anyValue || c.value == v[0])
}

func allHold(all []condition, g given) bool {
	for _, c := range all {
		if !c.holds(g) {
			return false
		}
	}
	return true
}

// implies reports whether all requests that satisfy a satisfy b.
func implies(a, b []condition) bool {
	for _, want := range b {
		if !slices.ContainsFunc(a, func(c condition) bool {
			return c.query == want.query && c.name == want.name && (c.value == want.value || want.value == anyValue)
		}) {
			return false
		}
	}
	return true
}

// exclude reports whether no request satisfies both.
func exclude(a, b []condition) bool {
	return slices.ContainsFunc(a, func(c condition) bool {
		return slices.ContainsFunc(b, func(o condition) bool {
			return c.query == o.query && c.name == o.name && c.value != o.value && c.value != anyValue && o.value != anyValue
		})
	})
}

// weight orders the conditions of one pattern so that who implies others comes
// before them: it has more of them, or as many with fewer that any value holds.
func weight(all []condition) int {
	n := 0
	for _, c := range all {
		n += 2
		if c.value == anyValue {
			n--
		}
	}
	return n
}

// reads collects what the conditions of all routes ask for.
type reads struct {
	fields []string
	params []string
}

func (rd *reads) add(all []condition) {
	for _, c := range all {
		to := &rd.fields
		if c.query {
			to = &rd.params
		}
		if !slices.Contains(*to, c.name) {
			*to = append(*to, c.name)
		}
	}
}

// of reads the request. It returns false where something that a condition asks
// for stands twice: the gateway might decide by one, and the upstream by the other.
func (rd *reads) of(header http.Header, rawQuery string) (g given, ok bool) {
	g.header = header
	for _, name := range rd.fields {
		if len(header[name]) > 1 {
			return g, false
		}
	}
	if len(rd.params) == 0 {
		return g, true
	}
	g.query = make(map[string]string, len(rd.params))
	for pair := range strings.SplitSeq(rawQuery, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err != nil || err2 != nil || !slices.Contains(rd.params, name) {
			continue // validQuery has refused what cannot be read
		}
		if _, twice := g.query[name]; twice {
			return g, false
		}
		g.query[name] = value
	}
	return g, true
}

// conflicts reports whether some request matches both routes while neither is
// more specific. Of equal patterns, conditions that imply the other's are.
func (rt *route) conflicts(other *route) bool {
	p, q := rt.pattern, other.pattern
	if p.host != q.host || !p.meets(q) || exclude(rt.conditions, other.conditions) {
		return false
	}
	above, below := p.covers(q), q.covers(p)
	if above && below {
		return implies(rt.conditions, other.conditions) == implies(other.conditions, rt.conditions)
	}
	return above == below
}
