package gateway

import (
	"maps"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/parley-go/parley/internal/uuid"
)

const (
	requestIDHeader = "X-Request-Id"
	maxRequestID    = 64
)

// requestID returns the identifier that a trusted proxy gave the request, where
// that is safe to write into logs and headers, else a new one.
func requestID(h http.Header, proxied bool) string {
	values := h[requestIDHeader]
	if proxied && len(values) == 1 && safeID(values[0]) {
		return values[0]
	}
	return uuid.V7()
}

func safeID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// inbound returns the part of a client's header that may go further: a new map
// whose values are shared. It is made before any middleware of a route runs, so
// that a client cannot nominate away what that middleware sets.
func (e *edge) inbound(r *http.Request) http.Header {
	h := make(http.Header, len(r.Header)+inboundRoom)
	for name, values := range r.Header {
		if !dropped(name) && !e.identity.has(name) {
			h[name] = values
		}
	}
	removeNominated(h, r.Header["Connection"])
	if websocket(r) {
		h["Connection"] = []string{"Upgrade"}
		h["Upgrade"] = []string{"websocket"}
	}
	if hasToken(r.Header["Te"], "trailers") {
		h["Te"] = []string{"trailers"} // gRPC insists on it
	}
	return h
}

// outbound returns a copy of a header that Use has had: what concerns a connection
// is the gateway's alone to say.
func outbound(h http.Header) http.Header {
	out := maps.Clone(h)
	upgrade, te := h["Upgrade"], h["Te"]
	removeHopByHop(out)
	if len(upgrade) == 1 && upgrade[0] == "websocket" {
		out["Connection"] = []string{"Upgrade"}
		out["Upgrade"] = upgrade
	}
	if hasToken(te, "trailers") {
		out["Te"] = []string{"trailers"}
	}
	return out
}

// inboundRoom is for the fields that the gateway sets.
const inboundRoom = 6

// dropped reports whether a field of a request is for the gateway alone, or may
// be set by it alone. Its first letter tells for most that they are not.
func dropped(name string) bool {
	if !plainName(name) {
		return true
	}
	switch name[0] {
	case 'X':
		return droppedX(name)
	case 'C', 'F', 'H', 'K', 'P', 'S', 'T', 'U':
	default:
		return false
	}
	switch {
	case hopByHop(name), name == "Http2-Settings", name == "Forwarded":
		return true
	// What proxies that end TLS say of the client's certificate (RFC 9440 §2).
	case strings.HasPrefix(name, "Client-Cert"), strings.HasPrefix(name, "Ssl-"):
		return true
	}
	switch name {
	// HTTP/2 clients can send it beside :authority, by which routes go.
	case "Host",
		// What some servers take for the address of the client, ...
		"True-Client-Ip", "Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Fastly-Client-Ip",
		// ... or, in CGI programs, for the proxy to use (httpoxy).
		"Proxy":
		return true
	}
	return false
}

// droppedX is dropped for names that begin with X.
func droppedX(name string) bool {
	switch {
	case strings.HasPrefix(name, "X-Forwarded"), strings.HasPrefix(name, "X-Original"):
		return true
	// What proxies that end TLS say of the client's certificate.
	case strings.HasPrefix(name, "X-Client-Cert"), strings.HasPrefix(name, "X-Ssl-"), strings.HasPrefix(name, "X-Amzn-Mtls-"):
		return true
	// What Envoy takes for the word of another Envoy: addresses, paths, retries.
	case strings.HasPrefix(name, "X-Envoy-"):
		return true
	}
	switch name {
	// What some servers take for the address of the client, ...
	case "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Remote-Ip", "X-Remote-Addr", "X-Originating-Ip",
		"X-Azure-Clientip", "X-Azure-Socketip", "X-Appengine-User-Ip",
		// ... for its certificate, ...
		"X-Arr-Clientcert",
		// ... or for the host, path or method that counts, behind the router's back.
		"X-Host", "X-Http-Host-Override", "X-Rewrite-Url", "X-Http-Method-Override", "X-Http-Method", "X-Method-Override":
		return true
	}
	return false
}

// plainName reports whether a name is of letters, digits and hyphens. Servers of
// the CGI tradition make an underscore of a hyphen, some of them of every other
// character, too: they read X_Real_Ip, or even X.Real.Ip, as X-Real-Ip.
func plainName(name string) bool {
	for i := range len(name) {
		if c := name[i]; !alphanumeric(c) && c != '-' {
			return false
		}
	}
	return name != ""
}

// hopByHop names the fields of RFC 9110 §7.6.1, with those that older software
// treats alike.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// removeHopByHop takes from a response's header what is not for the client. An
// alternative service (RFC 7838) would lead the client past the gateway, and the
// request's identifier is the gateway's to tell.
func removeHopByHop(h http.Header) {
	removeNominated(h, h["Connection"])
	for name := range h {
		if hopByHop(name) || name == "Alt-Svc" || name == requestIDHeader {
			delete(h, name)
		}
	}
}

// removeFraming takes from trailers, besides, what would concern the framing of
// the response that is over (RFC 9110 §6.5.1).
func removeFraming(trailer http.Header) {
	removeHopByHop(trailer)
	delete(trailer, "Content-Length")
	delete(trailer, "Host")
}

// removeNominated removes the fields that the Connection field lists.
func removeNominated(h http.Header, connection []string) {
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			switch name = textproto.TrimString(name); name {
			case "keep-alive": // what browsers say, and to find the form of the name would allocate
				delete(h, "Keep-Alive")
			default:
				h.Del(name)
			}
		}
	}
}

// websocket reports whether the client asks for WebSocket and for nothing else
// (RFC 6455 §4.1). Every other protocol that a connection might be upgraded to
// is one that the gateway could not look into: cleartext HTTP/2 has been used to
// walk around access rules.
func websocket(r *http.Request) bool {
	u := r.Header["Upgrade"]
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor >= 1 && len(u) == 1 && strings.EqualFold(u[0], "websocket") &&
		r.ContentLength == 0 && hasToken(r.Header["Connection"], "upgrade")
}

func hasToken(values []string, token string) bool {
	for _, line := range values {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}
