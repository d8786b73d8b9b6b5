package gateway_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/gateway"
)

// answers is a Resolver that tests tell what to say.
type answers struct {
	mu    sync.Mutex
	say   func() ([]gateway.Target, error)
	asked []time.Duration
	start time.Time
}

func (a *answers) Resolve(context.Context) ([]gateway.Target, error) {
	a.mu.Lock()
	a.asked = append(a.asked, time.Since(a.start))
	say := a.say
	a.mu.Unlock()
	return say()
}

func (a *answers) set(say func() ([]gateway.Target, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.say = say
}

func targets(urls ...string) func() ([]gateway.Target, error) {
	return func() ([]gateway.Target, error) {
		var all []gateway.Target
		for _, u := range urls {
			all = append(all, gateway.Target{URL: u})
		}
		return all, nil
	}
}

// resolved is a gateway whose targets come from a.
func resolved(t *testing.T, a *answers, f *fleet, u gateway.Upstream) *gateway.Gateway {
	t.Helper()
	a.start = time.Now()
	u.Resolver, u.Wrap = a, f.wrap
	return build(t, u, everything)
}

func TestRequestsBeforeTheFirstResolutionGet503(t *testing.T) {
	gw := resolved(t, &answers{say: targets("http://a")}, newFleet(), gateway.Upstream{})
	w := ask(gw, http.MethodGet, "svc", "/")
	wantProblem(t, w.Result(), w.Body.String(), http.StatusServiceUnavailable)
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestResolverThatFailsLeavesTheLastTargets(t *testing.T) {
	for name, say := range map[string]func() ([]gateway.Target, error){
		"an error":          func() ([]gateway.Target, error) { return nil, errors.New("SERVFAIL \x1b[31m") },
		"an empty answer":   targets(),
		"a faulty URL":      targets("http://c", "orders:80"),
		"a negative weight": func() ([]gateway.Target, error) { return []gateway.Target{{URL: "http://c", Weight: -1}}, nil },
		"too large a weight": func() ([]gateway.Target, error) {
			return []gateway.Target{{URL: "http://c", Weight: 101}}, nil
		},
		"a panic": func() ([]gateway.Target, error) { panic("in Resolve") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, f := &answers{say: targets("http://a", "http://b")}, newFleet()
				gw := resolved(t, a, f, gateway.Upstream{})
				running(t, gw)
				a.set(say)
				time.Sleep(time.Hour)
				times(gw, 10)
				if got := f.take(); got["a"] != 5 || got["b"] != 5 {
					t.Errorf("requests = %v, want 5 each to the last good targets", got)
				}
				a.set(targets("http://c"))
				time.Sleep(35 * time.Second)
				times(gw, 10)
				if got := f.take(); got["c"] != 10 {
					t.Errorf("requests = %v, want all to the new target", got)
				}
			})
		})
	}
}

func TestResolverIsAskedEachRefreshAndSoonerAgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answers{say: targets("http://a")}
		gw := resolved(t, a, newFleet(), gateway.Upstream{Refresh: time.Minute})
		running(t, gw)
		time.Sleep(5*time.Minute + time.Second)
		check := func(want ...time.Duration) {
			t.Helper()
			a.mu.Lock()
			defer a.mu.Unlock()
			for n, w := range want {
				if got := a.asked[n+1] - a.asked[n]; got < w*9/10 || got > w*11/10 {
					t.Errorf("wait %d was %v, want %v give or take a tenth", n, got, w)
				}
			}
			a.asked = a.asked[len(a.asked)-1:]
		}
		check(time.Minute, time.Minute, time.Minute, time.Minute)
		a.set(func() ([]gateway.Target, error) { return nil, errors.New("SERVFAIL") })
		time.Sleep(6 * time.Minute)
		check(time.Minute, time.Second, 2*time.Second, 4*time.Second, 8*time.Second, 16*time.Second, 32*time.Second, time.Minute, time.Minute)
		a.set(targets("http://a"))
		time.Sleep(4 * time.Minute)
		check(time.Minute, time.Minute)
	})
}

func TestResolverThatHangsIsGivenUpAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		hang := gateway.ResolverFunc(func(ctx context.Context) ([]gateway.Target, error) {
			start := time.Now()
			<-ctx.Done()
			select {
			case took <- time.Since(start):
			default:
			}
			return nil, ctx.Err()
		})
		gw := build(t, gateway.Upstream{Resolver: hang}, everything)
		running(t, gw)
		if got := <-took; got != 10*time.Second {
			t.Errorf("Resolve had %v, want 10s", got)
		}
	})
}

func TestTargetsThatStayKeepWhatIsKnownAboutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := &answers{say: targets("http://a", "http://b")}, newFleet()
		f.set("a", refuse)
		gw := resolved(t, a, f, gateway.Upstream{
			Eject: &gateway.Eject{Consecutive: 1, For: time.Hour, MaxFor: time.Hour}, SlowStart: time.Minute,
			Health: &gateway.Health{Path: "/healthz"},
		})
		running(t, gw)
		times(gw, 2)
		a.set(func() ([]gateway.Target, error) {
			return []gateway.Target{{URL: "http://c"}, {URL: "http://a", Weight: 5}, {URL: "http://a"}, {URL: "http://b"}}, nil
		})
		time.Sleep(time.Minute)
		s := gw.Stats().Upstreams[0]
		if len(s.Targets) != 3 || s.Targets[0].URL != "http://a" || s.Targets[0].Ejected == 0 || s.Targets[0].Weight != 5 || s.Targets[0].Requests != 1 {
			t.Errorf("Stats() = %+v, want a ejected still, with its new weight, and named once", s)
		}
		if s.Targets[1].Warming || !s.Targets[2].Warming {
			t.Errorf("Stats() = %+v, want the new target alone to warm up", s)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.checks["c"]) == 0 {
			t.Error("the new target is not checked")
		}
	})
}

func TestTargetsAfterTheFirstThousandAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := make([]string, 1001)
		for n := range many {
			many[n] = fmt.Sprintf("http://t%d", n)
		}
		gw := resolved(t, &answers{say: targets(many...)}, newFleet(), gateway.Upstream{})
		running(t, gw)
		if got := len(gw.Stats().Upstreams[0].Targets); got != 1000 {
			t.Errorf("%d targets, want 1000", got)
		}
	})
}

// nameserver answers DNS queries over UDP from a table of records by type and
// name; what it does not have is NXDOMAIN.
func nameserver(t *testing.T, records map[string][][]byte) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(dnsAnswer(buf[:n], records), from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// dnsAnswer answers a query (RFC 1035 §4.1).
func dnsAnswer(query []byte, records map[string][][]byte) []byte {
	end, name := 12, ""
	for query[end] != 0 {
		name += string(query[end+1:end+1+int(query[end])]) + "."
		end += 1 + int(query[end])
	}
	end += 5
	kind := map[uint16]string{1: "A ", 28: "AAAA ", 33: "SRV "}[binary.BigEndian.Uint16(query[end-4:])]
	found, exists := records[kind+name]
	answer := append([]byte(nil), query[:end]...)
	answer[2], answer[3] = 0x84, 0x80
	clear(answer[6:12]) // no additional records
	if !exists && kind == "SRV " {
		answer[3] = 0x83 // no such name
	}
	binary.BigEndian.PutUint16(answer[6:], uint16(len(found)))
	for _, data := range found {
		answer = append(answer, 0xc0, 12)                        // the name of the question
		answer = append(answer, query[end-4:end]...)             // type and class
		answer = append(answer, 0, 0, 0, 60, 0, byte(len(data))) // time to live and length
		answer = append(answer, data...)
	}
	return answer
}

func srv(priority, weight, port uint16, target string) []byte {
	data := binary.BigEndian.AppendUint16(nil, priority)
	data = binary.BigEndian.AppendUint16(data, weight)
	data = binary.BigEndian.AppendUint16(data, port)
	for label := range strings.SplitSeq(strings.TrimSuffix(target, "."), ".") {
		if label != "" {
			data = append(append(data, byte(len(label))), label...)
		}
	}
	return append(data, 0)
}

func TestDNSResolvesAddressesAndServices(t *testing.T) {
	r := nameserver(t, map[string][][]byte{
		"A orders.internal.":           {{10, 0, 0, 4}, {10, 0, 0, 5}},
		"AAAA orders.internal.":        {net.ParseIP("2001:db8::1")},
		"SRV _http._tcp.svc.internal.": {srv(2, 9, 81, "backup.internal."), srv(1, 3000, 8080, "a.internal."), srv(1, 1000, 8081, "b.internal."), srv(1, 0, 8082, "c.internal.")},
		"SRV _small.svc.internal.":     {srv(1, 3, 80, "a.internal."), srv(1, 1, 80, "b.internal.")},
		"SRV _none.svc.internal.":      {srv(0, 0, 0, ".")},
	})
	for name, c := range map[string]struct {
		dns  gateway.DNS
		want []gateway.Target
	}{
		"addresses":        {gateway.DNS{Name: "orders.internal", Port: 8080}, []gateway.Target{{"http://10.0.0.4:8080", 1}, {"http://10.0.0.5:8080", 1}, {"http://[2001:db8::1]:8080", 1}}},
		"scheme and path":  {gateway.DNS{Name: "orders.internal.", Port: 443, Scheme: "https", Path: "/v1"}, []gateway.Target{{"https://10.0.0.4:443/v1", 1}, {"https://10.0.0.5:443/v1", 1}, {"https://[2001:db8::1]:443/v1", 1}}},
		"services":         {gateway.DNS{Name: "_http._tcp.svc.internal", SRV: true}, []gateway.Target{{"http://a.internal:8080", 100}, {"http://b.internal:8081", 33}, {"http://c.internal:8082", 1}}},
		"small weights":    {gateway.DNS{Name: "_small.svc.internal", SRV: true}, []gateway.Target{{"http://a.internal:80", 3}, {"http://b.internal:80", 1}}},
		"service not here": {gateway.DNS{Name: "_none.svc.internal", SRV: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.dns.Resolver = r
			got, err := c.dns.Resolve(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(got, func(a, b gateway.Target) int { return strings.Compare(a.URL, b.URL) })
			if !slices.Equal(got, c.want) {
				t.Errorf("Resolve() = %v, want %v", got, c.want)
			}
		})
	}
	for _, d := range []gateway.DNS{{Name: "nobody.internal", Resolver: r}, {Name: "_nobody.internal", SRV: true, Resolver: r}, {Name: "localhost.invalid"}} {
		if got, err := d.Resolve(t.Context()); err == nil {
			t.Errorf("Resolve(%s) = %v, nil, want an error", d.Name, got)
		}
	}
}

// Real addresses, a real server behind them.
func TestGatewayFollowsTheNamesOfDNS(t *testing.T) {
	backend := new(recorder)
	s := serve(t, backend)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	var number uint16
	_, _ = fmt.Sscan(port, &number)
	gw := build(t, gateway.Upstream{
		Host:     "orders.internal",
		Resolver: gateway.DNS{Name: "orders.internal", Port: int(number), Resolver: nameserver(t, map[string][][]byte{"A orders.internal.": {{127, 0, 0, 1}}})},
	}, everything)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- gw.Run(ctx) }()
	eventually(t, "the target", func() bool { return len(gw.Stats().Upstreams[0].Targets) == 1 })
	if w := ask(gw, http.MethodGet, "svc", "/"); w.Code != http.StatusOK {
		t.Errorf("status = %d %s, want 200", w.Code, w.Body)
	}
	if got, _ := backend.last(t); got.Host != "orders.internal" {
		t.Errorf("the target sees Host %q, want orders.internal", got.Host)
	}
	end()
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}
