package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/parley-go/parley/gateway"
)

// tenth trusts the network 10/8, in two ways of writing it, and one IPv6 proxy.
var tenth = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9"), netip.MustParsePrefix("::ffff:10.128.0.0/105"), netip.MustParsePrefix("fd00::1/128")}

// seen is what an upstream that answers at once has seen.
type seen struct{ header http.Header }

func (s *seen) upstream() gateway.Upstream {
	return gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			s.header = r.Header
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}, nil
		})
	}}
}

// P4.
func TestClientIPIsTheLastHopThatIsNoTrustedProxy(t *testing.T) {
	for name, c := range map[string]struct {
		peer          string
		xff           []string
		client, chain string
	}{
		"untrusted peer":                       {"192.0.2.1:1", []string{"6.6.6.6"}, "192.0.2.1", "192.0.2.1"},
		"trusted peer without a list":          {"10.0.0.1:1", nil, "10.0.0.1", "10.0.0.1"},
		"trusted peers":                        {"10.0.0.1:1", []string{"6.6.6.6, 10.0.0.9"}, "6.6.6.6", "6.6.6.6, 10.0.0.9, 10.0.0.1"},
		"the half written as IPv6":             {"10.200.0.1:1", []string{"6.6.6.6"}, "6.6.6.6", "6.6.6.6, 10.200.0.1"},
		"a client's own invention":             {"10.0.0.1:1", []string{"1.1.1.1, 6.6.6.6, 10.0.0.9"}, "6.6.6.6", "6.6.6.6, 10.0.0.9, 10.0.0.1"},
		"several lines":                        {"10.0.0.1:1", []string{"1.1.1.1", "6.6.6.6,10.0.0.8", " 10.0.0.9\t"}, "6.6.6.6", "6.6.6.6, 10.0.0.8, 10.0.0.9, 10.0.0.1"},
		"all trusted":                          {"10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"},
		"an entry that is no address":          {"10.0.0.1:1", []string{"6.6.6.6, unknown, 10.0.0.9"}, "10.0.0.9", "10.0.0.9, 10.0.0.1"},
		"an empty entry":                       {"10.0.0.1:1", []string{"6.6.6.6,,10.0.0.9"}, "10.0.0.9", "10.0.0.9, 10.0.0.1"},
		"an empty line":                        {"10.0.0.1:1", []string{"6.6.6.6", ""}, "10.0.0.1", "10.0.0.1"},
		"entries with ports":                   {"10.0.0.1:1", []string{"[2001:db8::6]:443, 10.0.0.9:80"}, "2001:db8::6", "2001:db8::6, 10.0.0.9, 10.0.0.1"},
		"an entry in brackets":                 {"10.0.0.1:1", []string{"[2001:db8::6]"}, "2001:db8::6", "2001:db8::6, 10.0.0.1"},
		"half a bracket":                       {"10.0.0.1:1", []string{"[2001:db8::6"}, "10.0.0.1", "10.0.0.1"},
		"IPv4 in IPv6":                         {"[::ffff:10.0.0.1]:1", []string{"::ffff:6.6.6.6, ::ffff:10.0.0.9"}, "6.6.6.6", "6.6.6.6, 10.0.0.9, 10.0.0.1"},
		"a zone":                               {"[fd00::1%eth0]:1", []string{"fe80::1%eth0"}, "fe80::1", "fe80::1, fd00::1"},
		"another case and leading zeros":       {"[FD00:0::1]:1", []string{"2001:DB8::6"}, "2001:db8::6", "2001:db8::6, fd00::1"},
		"octets with leading zeros":            {"10.0.0.1:1", []string{"6.6.6.06"}, "10.0.0.1", "10.0.0.1"},
		"more hops than anybody has":           {"10.0.0.1:1", []string{"6.6.6.6, " + strings.Repeat("10.0.0.2, ", 31) + "10.0.0.3"}, "10.0.0.2", strings.Repeat("10.0.0.2, ", 31) + "10.0.0.3, 10.0.0.1"},
		"a peer without an address":            {"@", []string{"6.6.6.6"}, "invalid IP", ""},
		"a peer without a port":                {"192.0.2.1", nil, "192.0.2.1", "192.0.2.1"},
		"a list that contains a smuggled line": {"10.0.0.1:1", []string{"6.6.6.6\r\nX: 1"}, "10.0.0.1", "10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			var upstream seen
			var client netip.Addr
			look := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					client = gateway.ClientIP(r)
					next.ServeHTTP(w, r)
				})
			}
			gw := buildWith(t, gateway.Builder{TrustedProxies: tenth}, upstream.upstream(), gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{look}})
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.RemoteAddr = c.peer
			r.Header["X-Forwarded-For"] = c.xff
			gw.ServeHTTP(httptest.NewRecorder(), r)
			if client.String() != c.client {
				t.Errorf("ClientIP() = %s, want %s", client, c.client)
			}
			if got := strings.Join(upstream.header["X-Forwarded-For"], "|"); got != c.chain {
				t.Errorf("upstream sees X-Forwarded-For %q, want %q", got, c.chain)
			}
		})
	}
}

func TestClientIPOfARequestThatPassedNoGatewayIsItsPeer(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = "[::ffff:192.0.2.1]:5"
	r.Header.Set("X-Forwarded-For", "6.6.6.6")
	if got := gateway.ClientIP(r).String(); got != "192.0.2.1" {
		t.Errorf("ClientIP() = %s, want 192.0.2.1", got)
	}
	r.RemoteAddr = "@"
	if got := gateway.ClientIP(r); got.IsValid() {
		t.Errorf("ClientIP() = %s, want the zero address", got)
	}
}

// P3, P7.
func TestHostAndSchemeOfATrustedProxyAreTakenOverWhereTheyArePlainWords(t *testing.T) {
	for name, c := range map[string]struct {
		peer             string
		host, proto      []string
		wantHost, wantXP string
	}{
		"trusted":         {"10.0.0.1:1", []string{"shop.example:8443"}, []string{"https"}, "shop.example:8443", "https"},
		"untrusted":       {"192.0.2.1:1", []string{"shop.example"}, []string{"https"}, "svc", "http"},
		"nothing said":    {"10.0.0.1:1", nil, nil, "svc", "http"},
		"lists":           {"10.0.0.1:1", []string{"a.example, b.example"}, []string{"https, http"}, "svc", "http"},
		"said twice":      {"10.0.0.1:1", []string{"a.example", "b.example"}, []string{"https", "http"}, "svc", "http"},
		"empty":           {"10.0.0.1:1", []string{""}, []string{""}, "svc", "http"},
		"other than that": {"10.0.0.1:1", []string{"a.example/x"}, []string{"gopher"}, "svc", "http"},
	} {
		t.Run(name, func(t *testing.T) {
			var upstream seen
			// The route is found by the request's own host whoever says what.
			gw := buildWith(t, gateway.Builder{TrustedProxies: tenth}, upstream.upstream(), gateway.Route{Pattern: "svc/"})
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.Host, r.RemoteAddr = "svc", c.peer
			r.Header["X-Forwarded-Host"], r.Header["X-Forwarded-Proto"] = c.host, c.proto
			r.Header["X-Forwarded-Port"], r.Header["X-Forwarded-Prefix"] = []string{"1"}, []string{"/evil"}
			w := httptest.NewRecorder()
			gw.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Fatalf("status = %d, want 200", w.Code)
			}
			h := upstream.header
			if h.Get("X-Forwarded-Host") != c.wantHost || h.Get("X-Forwarded-Proto") != c.wantXP {
				t.Errorf("upstream sees host %q, scheme %q, want %q, %q", h["X-Forwarded-Host"], h["X-Forwarded-Proto"], c.wantHost, c.wantXP)
			}
			if h["X-Forwarded-Port"] != nil || h["X-Forwarded-Prefix"] != nil {
				t.Errorf("upstream sees port %q, prefix %q, want neither", h["X-Forwarded-Port"], h["X-Forwarded-Prefix"])
			}
		})
	}
}

// P40.
func TestFieldsThatNameAUserAreForUseAloneToSet(t *testing.T) {
	forged := []string{
		"X-User", "X-User-Id", "x-user-roles", "X-Auth-User", "X-Auth-Token", "X-Authenticated-Userid", "X-Remote-User", "Remote-User",
		"X-Team", "X-Tenant-Id",
	}
	for name, c := range map[string]struct {
		names []string
		kept  []string
	}{
		"by default":       {nil, []string{"X-Team", "X-Tenant-Id"}},
		"of one's own":     {[]string{"x-team", "X-TENANT-*"}, []string{"X-User", "X-User-Id", "X-User-Roles", "X-Auth-User", "X-Auth-Token", "X-Authenticated-Userid", "X-Remote-User", "Remote-User"}},
		"none of them":     {[]string{}, []string{"X-User", "X-User-Id", "X-User-Roles", "X-Auth-User", "X-Auth-Token", "X-Authenticated-Userid", "X-Remote-User", "Remote-User", "X-Team", "X-Tenant-Id"}},
		"all that X names": {[]string{"X-*", "Remote-User"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var upstream seen
			auth := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for _, name := range forged {
						if v := r.Header.Get(name); v != "" && v != "kept" {
							t.Errorf("Use sees %s: %s, want it removed", name, v)
						}
					}
					r.Header.Set("X-User-Name", "alice")
					next.ServeHTTP(w, r)
				})
			}
			gw := buildWith(t, gateway.Builder{IdentityHeaders: c.names}, upstream.upstream(), gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{auth}})
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			for _, name := range forged {
				r.Header.Set(name, "forged")
			}
			for _, name := range c.kept {
				r.Header.Set(name, "kept")
			}
			gw.ServeHTTP(httptest.NewRecorder(), r)
			for _, name := range c.kept {
				if upstream.header.Get(name) != "kept" {
					t.Errorf("upstream does not see %s", name)
				}
			}
			if upstream.header.Get("X-User-Name") != "alice" {
				t.Error("upstream does not see what Use has set")
			}
		})
	}
}

// P6.
func TestCertificateOfAClientIsNothingThatAClientCanClaim(t *testing.T) {
	var upstream seen
	gw := buildWith(t, gateway.Builder{IdentityHeaders: []string{}, TrustedProxies: tenth}, upstream.upstream(), everything)
	names := []string{
		"X-Forwarded-Client-Cert", "X-Forwarded-Tls-Client-Cert", "X-Forwarded-Tls-Client-Cert-Info", "Client-Cert", "Client-Cert-Chain",
		"X-Client-Cert", "X-Ssl-Client-Cert", "X-Ssl-Client-Verify", "Ssl-Client-Cert",
	}
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = "10.0.0.1:1"
	for _, name := range names {
		r.Header.Set(name, "forged")
	}
	gw.ServeHTTP(httptest.NewRecorder(), r)
	for _, name := range names {
		if v := upstream.header.Get(name); v != "" {
			t.Errorf("upstream sees %s: %s, want it removed", name, v)
		}
	}
}
