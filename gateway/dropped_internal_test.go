package gateway

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// forbidden says over again, in one sentence and as they come over the wire, which
// fields dropped is to drop.
var forbidden = regexp.MustCompile(`(?is)^(` +
	// of a connection
	`connection|proxy-connection|keep-alive|proxy-authenticate|proxy-authorization|te|trailer|transfer-encoding|upgrade|http2-settings|` +
	// addresses
	`forwarded|x-forwarded.*|x-original.*|x-real-ip|true-client-ip|x-client-ip|x-cluster-client-ip|x-remote-ip|x-remote-addr|` +
	`x-originating-ip|cf-connecting-ip|cf-connecting-ipv6|fastly-client-ip|x-azure-clientip|x-azure-socketip|x-appengine-user-ip|` +
	// certificates
	`client-cert.*|x-client-cert.*|x-ssl-.*|ssl-.*|x-amzn-mtls-.*|x-arr-clientcert|` +
	// hosts, paths and methods
	`x-envoy-.*|host|x-host|x-http-host-override|x-rewrite-url|x-http-method-override|x-http-method|x-method-override|proxy|` +
	// names that others read as one of these
	`|.*([^a-z0-9-]|[^\x00-\x7f]).*)$`) // some of the latter fold to the former

// forbiddenNames are those, and examples of those that begin alike.
var forbiddenNames = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding",
	"Upgrade", "HTTP2-Settings", "Forwarded", "X-Real-IP", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Tls-Client-Cert", "X-Forwardedness",
	"X-Original-URL", "X-Original-Host", "X-Originals", "Client-Cert", "Client-Cert-Chain", "Client-Certificate", "X-Client-Cert",
	"X-Client-Certificate", "X-SSL-Client-Cert", "X-SSL-", "SSL-Client-S-DN", "SSL-", "X-Amzn-Mtls-Clientcert", "X-Amzn-Mtls-",
	"X-Envoy-Original-Path", "X-Envoy-", "Host", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "X-Remote-IP", "X-Remote-Addr",
	"X-Originating-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "Fastly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP",
	"X-Appengine-User-IP", "X-ARR-ClientCert", "X-Host", "X-HTTP-Host-Override", "X-Rewrite-URL", "X-HTTP-Method-Override",
	"X-HTTP-Method", "X-Method-Override", "Proxy", "X_Real_IP", "User.Agent", "_", "Accept~",
}

// harmlessNames are what clients send, and what is one letter off of the above.
var harmlessNames = []string{
	"User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Cookie", "Authorization", "Cache-Control", "Pragma", "Referer", "Origin",
	"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Content-Location", "Content-Range", "Content-Digest",
	"Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Ch-Ua", "Sec-Ch-Ua-Platform", "Sec-Gpc", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol",
	"Priority", "Prefer", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range",
	"Traceparent", "Tracestate", "Baggage", "Upgrade-Insecure-Requests", "Via", "From", "Save-Data", "Idempotency-Key", "Last-Event-ID",
	"X-Requested-With", "X-API-Key", "X-Trace", "X-CSRF-Token", "X-Amzn-Trace-Id", "X-B3-TraceId", "X-Client-Version", "X-Forward",
	"X-Origin", "X-Envoy", "X-SSL", "SSL", "X-Amzn-Mtls", "X-HostName", "X-Real-IPs", "X-Method", "X-User-Id", "Hosts", "Proxies", "Proxy-Status",
	"Forwarding", "Forwarded-For", "Tenant", "Ten", "Trailers", "Keep", "Client", "Client-Id", "Client-Ce", "CF-Ray", "Fastly-Debug", "True-Client",
	"Connections", "Upgrades", "HTTP2", "T", "X", "C", "U",
}

func TestTheFieldsThatAreDroppedAreThoseOfTheRule(t *testing.T) {
	check := func(name string) {
		t.Helper()
		name = http.CanonicalHeaderKey(name) // as servers do
		if got, want := dropped(name), forbidden.MatchString(name); got != want {
			t.Errorf("dropped(%q) = %v, want %v", name, got, want)
		}
	}
	for _, name := range forbiddenNames {
		if !dropped(http.CanonicalHeaderKey(name)) {
			t.Errorf("%s is not dropped", name)
		}
	}
	for _, name := range harmlessNames {
		if dropped(http.CanonicalHeaderKey(name)) {
			t.Errorf("%s is dropped", name)
		}
	}
	// Whatever is one byte off of any of them.
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_. \x00\xff"
	for _, name := range slices.Concat([]string{""}, forbiddenNames, harmlessNames) {
		for at := range len(name) + 1 {
			head, tail := name[:at], name[at:]
			for i := range len(letters) {
				check(head + letters[i:i+1] + tail)
				if tail != "" {
					check(head + letters[i:i+1] + tail[1:])
				}
			}
			check(head)
			check(tail)
		}
	}
}

// Spelt as they may be, and those besides that the server of HTTP/1 would hold back.
func TestTheUpstreamSeesNoFieldThatIsDroppedAndAllOthers(t *testing.T) {
	var seen http.Header
	var b Builder
	b.IdentityHeaders = []string{} // or X-User-Id would be one of them
	b.Upstream(&Upstream{Name: "svc", Targets: []string{"http://127.0.0.1:1"}, Wrap: func(http.RoundTripper) http.RoundTripper {
		return sender(func(r *http.Request) (*http.Response, error) {
			seen = r.Header
			return &http.Response{StatusCode: http.StatusNoContent, Request: r}, nil
		})
	}})
	b.Route(Route{Pattern: "/", Upstream: "svc"})
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(spell func(string) string, names ...string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		for _, name := range names {
			r.Header.Add(spell(name), "of the client")
		}
		seen = nil
		w := httptest.NewRecorder()
		if gw.ServeHTTP(w, r); seen == nil {
			t.Fatalf("the upstream got no request: %s", w.Body)
		}
		for name, values := range seen {
			if forbidden.MatchString(name) && slices.Contains(values, "of the client") {
				t.Errorf("the upstream sees %s of the client", name)
			}
		}
	}
	for _, spell := range []func(string) string{strings.ToLower, strings.ToUpper, http.CanonicalHeaderKey} {
		ask(spell, forbiddenNames...)
		for _, name := range forbiddenNames {
			ask(spell, name)
		}
		ask(spell, harmlessNames...)
		for _, name := range harmlessNames {
			if got := seen.Values(name); !slices.Equal(got, []string{"of the client"}) {
				t.Errorf("the upstream sees %s: %q, want what the client has sent", name, got)
			}
		}
	}
}

type sender func(*http.Request) (*http.Response, error)

func (f sender) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func FuzzDroppedGoesByTheRule(f *testing.F) {
	for _, name := range slices.Concat([]string{""}, forbiddenNames, harmlessNames) {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		name = http.CanonicalHeaderKey(name)
		if got, want := dropped(name), forbidden.MatchString(name); got != want {
			t.Errorf("dropped(%q) = %v, want %v", name, got, want)
		}
	})
}
