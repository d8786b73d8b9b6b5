package gateway

import (
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxHops bounds the proxies that the gateway sees through.
const maxHops = 32

// ClientIP returns the address of the client that sent r: of the peer, or where
// that is a trusted proxy, of the last one in X-Forwarded-For that is none. It is
// what the gateway tells the upstream first in X-Forwarded-For. IPv4 addresses
// are never in the form of IPv6 ones, and there is no zone.
//
// It works for requests that a gateway has passed to Use, Handler, SplitBy or
// Fallback, and knows the peer alone of others. The address is the zero one where
// the peer has none, as on a Unix socket. It is safe for concurrent use.
func ClientIP(r *http.Request) netip.Addr {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x.client
	}
	addr, _ := parseHop(r.RemoteAddr)
	return addr
}

// trusted holds the addresses whose word about a client is taken.
type trusted []netip.Prefix

func (t trusted) contains(a netip.Addr) bool {
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// trust reads a Builder's TrustedProxies, or says what is wrong.
func trust(prefixes []netip.Prefix) (t trusted, fault string) {
	for i, p := range prefixes {
		switch {
		case !p.IsValid():
			return nil, fmt.Sprintf("the prefix at %d is the zero one", i)
		case p.Addr().Is4In6() && p.Bits() >= 96: // as ClientIP never sees it
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		t = append(t, p)
	}
	return t, ""
}

// origin is where a request comes from, in the words that the upstream is told.
type origin struct {
	client  netip.Addr
	chain   string // of addresses: the client, then every proxy; empty where the peer has none
	host    string
	proto   string
	proxied bool // the peer is a trusted proxy
}

// origin finds out who sent a request, from its peer inwards: X-Forwarded-For is
// read from the right, where the nearest proxy wrote, and only as long as trusted
// ones did (RFC 7239 §8.1 warns of the rest). An entry that is no address ends
// the walk. What a trusted proxy says of host and scheme is taken over if it is
// one plain word.
func (t trusted) origin(r *http.Request) origin {
	o := origin{host: r.Host, proto: "http"}
	if r.TLS != nil {
		o.proto = "https"
	}
	peer, ok := parseHop(r.RemoteAddr)
	if !ok {
		return o
	}
	o.client, o.chain, o.proxied = peer, peer.String(), t.contains(peer)
	if !o.proxied {
		return o
	}
	hops := 0
	for entry := range fromRight(r.Header["X-Forwarded-For"]) {
		hop, ok := parseHop(entry)
		if hops++; !ok || hops > maxHops {
			break
		}
		o.client, o.chain = hop, hop.String()+", "+o.chain
		if !t.contains(hop) {
			break
		}
	}
	if v := r.Header["X-Forwarded-Host"]; len(v) == 1 && v[0] != "" && validHost(v[0]) {
		o.host = v[0]
	}
	if v := r.Header["X-Forwarded-Proto"]; len(v) == 1 && (v[0] == "http" || v[0] == "https") {
		o.proto = v[0]
	}
	return o
}

// fromRight yields the entries of a list that stands on several lines, the last
// one first.
func fromRight(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			for i := 0; i >= 0; {
				entry := line
				if i = strings.LastIndexByte(line, ','); i >= 0 {
					entry, line = line[i+1:], line[:i]
				}
				if !yield(strings.Trim(entry, " \t")) {
					return
				}
			}
		}
	}
}

// parseHop reads an address as it stands in RemoteAddr or X-Forwarded-For: with a
// port or without.
func parseHop(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		with, err := netip.ParseAddrPort(s)
		if err != nil {
			inner, bracketed := strings.CutPrefix(s, "[")
			inner, closed := strings.CutSuffix(inner, "]")
			if addr, err = netip.ParseAddr(inner); err != nil || !bracketed || !closed {
				return netip.Addr{}, false
			}
		} else {
			addr = with.Addr()
		}
	}
	return addr.Unmap().WithZone(""), true
}

// announce tells the upstream of the origin, in a header from which all that the
// client said of it has been removed.
func (o *origin) announce(h http.Header) {
	// One array for all values, none of which anybody can append to.
	values := [...]string{o.chain, o.host, o.proto}
	if o.chain != "" {
		h["X-Forwarded-For"] = values[0:1:1]
	}
	if o.host != "" {
		h["X-Forwarded-Host"] = values[1:2:2]
	}
	h["X-Forwarded-Proto"] = values[2:3:3]
}
