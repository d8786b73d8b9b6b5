package tracing

import (
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// appendAddress appends host and port of hostport; a port that is missing is
// port, or left out if that is 0.
func appendAddress(attrs []attribute.KeyValue, address, portKey attribute.Key, hostport string, port int) []attribute.KeyValue {
	host, digits := splitHostPort(hostport)
	if host == "" {
		return attrs
	}
	attrs = append(attrs, address.String(text(host, maxText)))
	if port = portOf(digits, port); port > 0 {
		attrs = append(attrs, portKey.Int(port))
	}
	return attrs
}

// portOf returns the port that digits name, or else port.
func portOf(digits string, port int) int {
	if digits != "" { // an error costs an allocation
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return int(n)
		}
	}
	return port
}

// splitHostPort is like [net.SplitHostPort] for addresses whose port may be
// missing, where that one allocates an error.
func splitHostPort(hostport string) (host, port string) {
	colon, bracket := strings.LastIndexByte(hostport, ':'), strings.LastIndexByte(hostport, ']')
	// Without brackets, several colons are an IPv6 address.
	if colon > bracket && (bracket >= 0 || strings.IndexByte(hostport, ':') == colon) {
		hostport, port = hostport[:colon], hostport[colon+1:]
	}
	if bracket < 0 && strings.IndexByte(hostport, '[') < 0 {
		return hostport, port
	}
	return strings.Trim(hostport, "[]"), port
}

// protocolVersion returns network.protocol.version: "1.1", and "2" without a
// minor number, as the protocols call themselves.
func protocolVersion(major, minor int) string {
	switch {
	case major == 1 && minor == 1:
		return "1.1"
	case major == 1:
		return "1.0"
	}
	return strconv.Itoa(major)
}

// defaultPort returns the port of a URL that names none: server.port is required
// on client spans.
func defaultPort(u *url.URL) int {
	switch strings.ToLower(u.Scheme) {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}
