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
// Fallback, and for copies of them whose context comes from theirs; of others it
// knows the peer alone. The address is the zero one where
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

// origin is where a request comes from. What the upstream is told of it stands in
// arrays of one, which are the values of a header without further ado.
type origin struct {
	client  netip.Addr
	proxied bool      // the peer is a trusted proxy
	chain   [1]string // of addresses: the client, then every proxy; empty where the peer has none
	host    [1]string
	proto   [1]string
}

// origin finds out who sent a request, from its peer inwards: X-Forwarded-For is
// read from the right, where the nearest proxy wrote, and only as long as trusted
// ones did (RFC 7239 §8.1 warns of the rest). An entry that is no address ends
// the walk. What a trusted proxy says of host and scheme is taken over if it is
// one plain word.
func (t trusted) origin(r *http.Request) origin {
	o := origin{host: [1]string{r.Host}, proto: [1]string{"http"}}
	if r.TLS != nil {
		o.proto[0] = "https"
	}
	peer, ok := parseHop(r.RemoteAddr)
	if !ok {
		return o
	}
	o.client, o.chain[0], o.proxied = peer, spell(peer, r.RemoteAddr), t.contains(peer)
	if !o.proxied {
		return o
	}
	hops := 0
	for entry := range fromRight(r.Header["X-Forwarded-For"]) {
		hop, ok := parseHop(entry)
		if hops++; !ok || hops > maxHops {
			break
		}
		o.client, o.chain[0] = hop, hop.String()+", "+o.chain[0]
		if !t.contains(hop) {
			break
		}
	}
	if v := r.Header["X-Forwarded-Host"]; len(v) == 1 && v[0] != "" && validHost(v[0]) {
		o.host[0] = v[0]
	}
	if v := r.Header["X-Forwarded-Proto"]; len(v) == 1 && (v[0] == "http" || v[0] == "https") {
		o.proto[0] = v[0]
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

// spell returns the text of addr, which is mostly the beginning of where it was
// read.
func spell(addr netip.Addr, from string) string {
	var room [64]byte
	text := addr.AppendTo(room[:0])
	if strings.HasPrefix(from, string(text)) { // the compiler copies nothing
		return from[:len(text)]
	}
	return string(text)
}

// parseHop reads an address as it stands in RemoteAddr or X-Forwarded-For: with a
// port or without.
func parseHop(s string) (netip.Addr, bool) {
	var addr netip.Addr
	var err error
	switch inner, bracketed := strings.CutPrefix(s, "["); {
	case bracketed && strings.HasSuffix(inner, "]"):
		addr, err = netip.ParseAddr(inner[:len(inner)-1])
	case bracketed || strings.Count(s, ":") == 1:
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(s)
		addr = with.Addr()
	default:
		addr, err = netip.ParseAddr(s)
	}
	return addr.Unmap().WithZone(""), err == nil
}

// announce tells the upstream of the origin, in a header from which all that the
// client said of it has been removed.
func (o *origin) announce(h http.Header) {
	if o.chain[0] != "" {
		h["X-Forwarded-For"] = o.chain[:]
	}
	if o.host[0] != "" {
		h["X-Forwarded-Host"] = o.host[:]
	}
	h["X-Forwarded-Proto"] = o.proto[:]
}
