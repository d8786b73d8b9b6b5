package gateway

import (
	"fmt"
	"net/http"
	"strings"
)

// edge is what a gateway decides for all of its routes alike: whom it believes,
// and which requests it takes for ambiguous.
type edge struct {
	trusted  trusted
	identity identity
	paths    pathRules
	rawQuery bool
}

// edge checks the part of a Builder that concerns all routes.
func (b *Builder) edge() (e edge, faults []string) {
	e.paths = pathRules{mergeSlashes: b.MergeSlashes, encodedSlash: b.AllowEncodedSlash}
	e.rawQuery = b.RawQuery
	var bad string
	if e.trusted, bad = trust(b.TrustedProxies); bad != "" {
		faults = append(faults, "TrustedProxies: "+bad)
	}
	names := b.IdentityHeaders
	if names == nil {
		names = defaultIdentity()
	}
	if e.identity, bad = newIdentity(names); bad != "" {
		faults = append(faults, "IdentityHeaders: "+bad)
	}
	return e, faults
}

// identity knows the fields that say who a client is.
type identity struct {
	names    []string
	prefixes []string
}

func defaultIdentity() []string {
	return []string{"X-User", "X-User-*", "X-Auth-*", "X-Authenticated-*", "X-Remote-User", "Remote-User"}
}

// newIdentity reads a Builder's IdentityHeaders, or says what is wrong.
func newIdentity(patterns []string) (id identity, fault string) {
	for _, p := range patterns {
		name, prefix := strings.CutSuffix(p, "*")
		if !plainName(name) {
			return id, fmt.Sprintf("%q is neither the name of a field nor the beginning of one and a *", p)
		}
		if prefix {
			id.prefixes = append(id.prefixes, http.CanonicalHeaderKey(name))
		} else {
			id.names = append(id.names, http.CanonicalHeaderKey(name))
		}
	}
	return id, ""
}

func (id *identity) has(name string) bool {
	for _, n := range id.names {
		if n == name {
			return true
		}
	}
	for _, p := range id.prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
