package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

func TestBuildNamesEveryFaultOnOneLine(t *testing.T) {
	var b gateway.Builder
	b.Upstream(nil)
	b.Upstream(&gateway.Upstream{})
	b.Upstream(&gateway.Upstream{
		Name: "bad", Targets: []string{"h:80", "ftp://h", "http://", "http://u:pw@h", "http://h?q", "http://h/#f", "http://h/a/../b", ":", "http://h:70000"},
		Retry: &retry.Policy{MaxAttempts: -1}, TLS: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10},
		DialTimeout: -1, IdleTimeout: -1, MaxIdle: -1, MaxConns: -1,
		Wrap: func(http.RoundTripper) http.RoundTripper { return nil },
	})
	b.Upstream(&gateway.Upstream{
		Name: "parts", Targets: []string{"http://h"}, Weights: []int{0, 101}, Resolver: gateway.DNS{}, Host: "a,b",
		Refresh: -1, SlowStart: -1, KeepAlive: -1, HeaderTimeout: -1, ContinueTimeout: -1,
		Hedge: &retry.Hedging{Delay: -1}, Picker: gateway.LeastLoaded{Choices: -1},
		Sticky: &gateway.Sticky{Keys: [][]byte{[]byte("short")}, Cookie: "a b", MaxAge: -1, Insecure: true, SameSite: http.SameSiteNoneMode},
		Health: &gateway.Health{Path: "healthz", Status: 100, Interval: -1, Timeout: -1, Fall: -1, Rise: -1},
		Eject:  &gateway.Eject{Consecutive: -1, For: -1, MaxFor: -2, MaxRate: 2},
	})
	b.Upstream(&gateway.Upstream{Name: "hash", Targets: []string{"http://h"}, Picker: gateway.Hash{MaxLoadRate: 0.5}, Sticky: &gateway.Sticky{}})
	b.Upstream(&gateway.Upstream{Name: "many", Targets: slices.Repeat([]string{"http://h"}, 1001), Weights: []int{1}})
	b.Upstream(&gateway.Upstream{Name: "picker", Targets: []string{"http://h"}, Picker: noPicker{}})
	b.Upstream(&gateway.Upstream{Name: "bad name", Targets: []string{"http://h"}})
	b.Upstream(&gateway.Upstream{Name: "fuse", Targets: []string{"http://h"}, Breaker: &breaker.Config{Consecutive: -1}})
	b.Upstream(&gateway.Upstream{Name: "dns", Resolver: &gateway.DNS{SRV: true, Port: 80, Scheme: "ftp"}, Picker: &gateway.Hash{}})
	b.Upstream(&gateway.Upstream{Name: "port", Resolver: gateway.DNS{Name: "h", Port: 65536}, Picker: &gateway.LeastLoaded{Choices: -2}})
	b.Upstream(&gateway.Upstream{Name: "nil", Resolver: (*gateway.DNS)(nil), Picker: (*gateway.Hash)(nil)})
	b.Upstream(&gateway.Upstream{Name: "nil, too", Targets: []string{"http://h"}, Picker: (*gateway.LeastLoaded)(nil)})
	b.Upstream(&gateway.Upstream{Name: "twice", Targets: []string{"http://h", "http://h/"}, Eject: &gateway.Eject{MaxRate: math.NaN()}})
	b.Upstream(&gateway.Upstream{Name: "good", Targets: []string{"http://h"}})
	b.Upstream(&gateway.Upstream{Name: "good", Targets: []string{"http://h"}})
	b.Route(gateway.Route{Pattern: "GET /x/{a}", Upstream: "good"})
	b.Route(gateway.Route{Pattern: "/x/{b}", Upstream: "nobody", Timeout: -1, MaxBody: -1, Rewrite: "/{a}"})
	b.Route(gateway.Route{Pattern: "GET /{c}/y", Upstream: "good", Use: []func(http.Handler) http.Handler{nil, func(http.Handler) http.Handler { return nil }}})
	b.Route(gateway.Route{Upstream: "bad"})
	_, err := b.Build()
	if err == nil {
		t.Fatal("Build() = nil, want an error")
	}
	text := err.Error()
	for _, want := range []string{
		"gateway: build: ", "Upstream 1 is nil", `Upstream "": Name is empty`, "Targets is empty",
		"Targets[0]: its scheme", "Targets[1]: its scheme", "Targets[2]: it has no host", "Targets[3]: it has more",
		"Targets[4]: it has more", "Targets[5]: it has more", "Targets[6]: its path is ambiguous", "Targets[7]: it is no URL",
		"Retry: retry: faulty policy: MaxAttempts -1 is negative", "version below 1.2", "InsecureSkipVerify trusts anybody",
		"DialTimeout -1ns is negative", "IdleTimeout -1ns is negative", "MaxIdle -1 is negative", "MaxConns -1 is negative", "Wrap returned nil",
		"Targets and Resolver contradict", "Weights has 2 elements, and Targets 1", "Weights[0] 0 is outside", "Weights[1] 101 is outside", `Host "a,b" is malformed`,
		"Refresh -1ns is negative", "SlowStart -1ns is negative", "KeepAlive -1ns is negative", "HeaderTimeout -1ns is negative", "ContinueTimeout -1ns is negative",
		"Hedge: retry: faulty policy: Delay -1ns is negative", "Choices -1 is negative",
		"Sticky.Keys[0] has 5 bytes", `Sticky.Cookie "a b"`, "Sticky.MaxAge -1ns is negative", "Sticky.Insecure and SameSiteNoneMode",
		`Health.Path "healthz"`, "Health.Status 100", "Health.Interval -1ns", "Health.Timeout -1ns", "Health.Fall -1", "Health.Rise -1",
		"Eject.Consecutive -1", "Eject.For -1ns", "Eject.MaxFor -2ns", "Eject.MaxRate 2",
		`Upstream "hash": Sticky.Keys is empty`, "By is nil", "MaxLoadRate 0.5 is below 1", "Targets has 1001 elements", `Upstream "picker": Picker returned nil`,
		"Targets[8]: its port is outside", `Upstream "dns": Picker: By is nil`, `Upstream "dns": Resolver: Name is empty`,
		"SRV and Port contradict", `of Scheme "ftp" and Path "" no target`, "Port 65536 is outside", "Choices -2 is negative",
		`Upstream "nil": Picker is nil`, `Upstream "nil": Resolver is nil`, `Upstream "nil, too": Picker is nil`,
		"Targets[1]: it stands twice", "Eject.MaxRate NaN",
		`Name "bad name" has`, `Upstream "fuse": Breaker: `, `Upstream "good": the name is taken`,
		`Route "/x/{b}": there is no Upstream "nobody"`, "Timeout -1ns is negative", "MaxBody -1 is negative", "Rewrite: the pattern has no such segment",
		`Route "GET /{c}/y": conflicts with "GET /x/{a}"`, "Use[0] is nil", "Use[1] returned nil",
		`Route "": Pattern: `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("Build() lacks %q", want)
		}
	}
	if strings.Contains(text, "\n") || strings.Contains(text, "pw") {
		t.Errorf("Build() has a line break or a password: %s", text)
	}
	if strings.Contains(text, `Route "": there is no Upstream`) {
		t.Errorf("Build() blames a route for its upstream's fault: %s", text)
	}
}

// noPicker is a Picker that picks nothing.
type noPicker struct{}

func (noPicker) Over([]*gateway.Instance) func(*http.Request) int { return nil }

func TestCopiesOfABuilderAreIndependent(t *testing.T) {
	to := func(path string) gateway.Route {
		return gateway.Route{Pattern: path, Redirect: gateway.Redirect{To: "/x"}}
	}
	var base gateway.Builder
	for _, path := range []string{"/a", "/b", "/c"} { // append leaves room for a fourth
		base.Route(to(path))
	}
	one, two := base, base
	one.Route(to("/one"))
	two.Route(to("/two"))
	for path, b := range map[string]*gateway.Builder{"/one": &one, "/two": &two} {
		if got := ask(mustBuild(t, b), http.MethodGet, "svc", path).Code; got != http.StatusTemporaryRedirect {
			t.Errorf("%s = %d, want 307", path, got)
		}
	}
}

func TestPatternsThatCanNeverMatchAreFaults(t *testing.T) {
	for _, p := range []string{
		"", "x", "GET", "get /", "G T /", "CONNECT /", "TRACE /", "/a//b", "/a/../b", "/./a", "/a;b", "/a%2fb", "/%2e", "/a b", "/%zz", "/é",
		"/{a}/{a}", "/{a...}/b", "/{$}/b", "/x{a}", "/{a}x", "/{a", "/{}", "/{...}", "/{1a}", "host:80/", "ho st/", "{h}/", "*/", "*./", "*.[::1]/", "*.a:80/", "a.*.b/", "**.a/", "a..b/", "/{a}}", "/{{a}",
	} {
		var b gateway.Builder
		b.Upstream(&gateway.Upstream{Name: "svc", Targets: []string{"http://h"}})
		b.Route(gateway.Route{Pattern: p, Upstream: "svc"})
		if _, err := b.Build(); err == nil {
			t.Errorf("Build() with pattern %q = nil, want an error", p)
		}
	}
	for _, rw := range []string{"x", "/{b}", "/{a...}", "/{a}/{a}", "/a//b", "/..", "GET /x", "host/x"} {
		var b gateway.Builder
		b.Upstream(&gateway.Upstream{Name: "svc", Targets: []string{"http://h"}})
		b.Route(gateway.Route{Pattern: "/{a}", Upstream: "svc", Rewrite: rw})
		if _, err := b.Build(); err == nil {
			t.Errorf("Build() with rewrite %q = nil, want an error", rw)
		}
	}
}

func TestZeroBuilderMakesAGatewayWithoutRoutes(t *testing.T) {
	var b gateway.Builder
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	w := ask(gw, http.MethodGet, "svc", "/")
	wantProblem(t, w.Result(), w.Body.String(), http.StatusNotFound)
}

func TestBuildDialsNothingAndStartsNoGoroutine(t *testing.T) {
	dialled := make(chan struct{}, 1)
	at := rawBackend(t, func(net.Conn, *bufio.Reader) { dialled <- struct{}{} })
	before := runtime.NumGoroutine()
	build(t, gateway.Upstream{Targets: []string{at}}, everything)
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines after Build, want %d", after, before)
	}
	select {
	case <-dialled:
		t.Error("Build dialled the upstream")
	default:
	}
}

// P34.
func TestServerHasTheLimitsThatAHandlerCannotSet(t *testing.T) {
	s := build(t, gateway.Upstream{Targets: []string{"http://h"}}, everything).Server("127.0.0.1:8080")
	if s.Addr != "127.0.0.1:8080" || s.ReadHeaderTimeout != 5*time.Second || s.IdleTimeout != 2*time.Minute || s.MaxHeaderBytes != 64<<10 {
		t.Errorf("Server() = %s, %v, %v, %d, want the documented limits", s.Addr, s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes)
	}
	if s.WriteTimeout != 0 || s.ReadTimeout != 0 {
		t.Errorf("WriteTimeout %v and ReadTimeout %v would cut streams", s.WriteTimeout, s.ReadTimeout)
	}
}

func TestTLSUpstreamIsVerifiedAndSpokenToFrom12On(t *testing.T) {
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	}))
	backend.EnableHTTP2 = true
	backend.Config.ErrorLog = quiet()
	backend.StartTLS()
	t.Cleanup(backend.Close)
	roots := x509.NewCertPool()
	roots.AddCert(backend.Certificate())
	verified := false
	verify := func(tls.ConnectionState) error { verified = true; return nil }
	for name, c := range map[string]struct {
		config *tls.Config
		want   int
	}{
		"unknown authority": {nil, 502},
		"known authority":   {&tls.Config{RootCAs: roots}, 200},
		"own verification":  {&tls.Config{InsecureSkipVerify: true, VerifyConnection: verify}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, build(t, gateway.Upstream{Targets: []string{backend.URL}, TLS: c.config}, everything))
			resp, body := get(t, s.URL)
			if resp.StatusCode != c.want || c.want == 200 && body != "HTTP/2.0" {
				t.Errorf("response = %s %s, want %d over HTTP/2.0", resp.Status, body, c.want)
			}
			if c.config != nil && c.config.MinVersion != 0 {
				t.Errorf("the caller's config has MinVersion %#x now, want it untouched", c.config.MinVersion)
			}
		})
	}
	if !verified {
		t.Error("VerifyConnection was not called")
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = quiet()
	old.StartTLS()
	t.Cleanup(old.Close)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{old.URL}, TLS: &tls.Config{RootCAs: roots}}, everything))
	resp, body := get(t, s.URL)
	wantProblem(t, resp, body, http.StatusBadGateway)
}

func TestProxyOfTheEnvironmentIsNotAsked(t *testing.T) {
	proxy := new(recorder)
	t.Setenv("HTTP_PROXY", serve(t, proxy).URL)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{"http://upstream.invalid"}}, everything))
	resp, body := get(t, s.URL)
	wantProblem(t, resp, body, http.StatusBadGateway)
	if proxy.count() != 0 {
		t.Error("the proxy of the environment got the request")
	}
}

func TestNothingIsLeftOfRequestsButIdleConnections(t *testing.T) {
	// The bodies of both directions are large enough to be under way for a while.
	large := bytes.Repeat([]byte("x"), 1<<20)
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(large)
	}))
	defer good.Close()
	gw := build(t, gateway.Upstream{
		Targets: []string{good.URL, unreachable(t), echo(t), silent(t, nil)}, Retry: quickRetry(), Breaker: &breaker.Config{},
	}, gateway.Route{Pattern: "/", Timeout: 50 * time.Millisecond})
	s := httptest.NewServer(gw)
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{}}
	before := runtime.NumGoroutine()
	for i := range 40 {
		if i%4 == 3 {
			c := dial(t, s)
			c.send(t, handshake...)
			_, _ = c.r.ReadByte()
			c.Close()
			continue
		}
		resp, err := client.Post(s.URL, "text/plain", bytes.NewReader(large))
		if err == nil {
			if i%2 == 0 {
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			resp.Body.Close()
		}
	}
	client.CloseIdleConnections()
	eventually(t, "goroutines back to where they were", func() bool {
		gw.CloseIdleConnections()
		good.CloseClientConnections()
		return runtime.NumGoroutine() <= before
	})
}
