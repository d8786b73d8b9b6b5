package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/gateway"
)

// planned is a Builder of upstreams, each behind a route of its name.
func planned(upstreams ...*gateway.Upstream) *gateway.Builder {
	var b gateway.Builder
	b.Logger(slog.New(slog.DiscardHandler))
	for _, u := range upstreams {
		b.Upstream(u)
		b.Route(gateway.Route{Pattern: "/" + u.Name + "/{rest...}", Upstream: u.Name})
	}
	return &b
}

func mustBuild(t *testing.T, b *gateway.Builder) *gateway.Gateway {
	t.Helper()
	gw, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gw.CloseIdleConnections)
	return gw
}

func mustReload(t *testing.T, gw *gateway.Gateway, b *gateway.Builder) {
	t.Helper()
	if err := gw.Reload(b); err != nil {
		t.Fatal(err)
	}
}

// P46.
func TestReloadWithAFaultChangesNothing(t *testing.T) {
	backend := serve(t, new(recorder))
	one := &gateway.Upstream{Name: "one", Targets: []string{backend.URL}}
	gw := mustBuild(t, planned(one))
	for name, b := range map[string]*gateway.Builder{
		"nil":     nil,
		"a fault": planned(&gateway.Upstream{Name: "two"}, &gateway.Upstream{Name: "three", Targets: []string{"x"}}),
	} {
		err := gw.Reload(b)
		if err == nil || !strings.HasPrefix(err.Error(), "gateway: reload: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: Reload() = %v, want an error of one line", name, err)
		}
	}
	if w := ask(gw, http.MethodGet, "svc", "/one/"); w.Code != http.StatusOK {
		t.Errorf("status = %d, want 200 as before", w.Code)
	}
}

// P46.
func TestReloadKeepsThePoolOfTheSameUpstreamAndReplacesAnyOther(t *testing.T) {
	f := newFleet()
	f.set("a", refuse)
	wraps := 0
	wrap := func(next http.RoundTripper) http.RoundTripper {
		wraps++
		return f.wrap(next)
	}
	kept := &gateway.Upstream{Name: "kept", Targets: []string{"http://a", "http://b"}, Wrap: wrap, Breaker: trippy()}
	other := &gateway.Upstream{Name: "other", Targets: []string{"http://a", "http://b"}, Wrap: f.wrap, Breaker: trippy()}
	gw := mustBuild(t, planned(kept, other))
	for range 2 {
		ask(gw, http.MethodGet, "svc", "/kept/")
		ask(gw, http.MethodGet, "svc", "/other/")
	}
	again := *other
	mustReload(t, gw, planned(kept, &again))
	s := gw.Stats()
	if got := s.Upstreams[0].Targets; got[0].Requests != 1 || got[0].Breaker == 0 || wraps != 1 {
		t.Errorf("the same upstream has %+v after %d calls of Wrap, want its breaker open still and one call", got, wraps)
	}
	if got := s.Upstreams[1].Targets; got[0].Requests != 0 || got[0].Breaker != 0 {
		t.Errorf("an equal upstream has %+v, want a new one", got)
	}
	mustReload(t, gw, planned(kept))
	if w := ask(gw, http.MethodGet, "svc", "/other/"); w.Code != http.StatusNotFound {
		t.Errorf("status of a route that is gone = %d, want 404", w.Code)
	}
}

// P46.
func TestRequestUnderWayEndsByTheOldPlanAndItsConnectionIsClosed(t *testing.T) {
	arrived, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var open atomic.Int64
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "begun ")
		_ = http.NewResponseController(w).Flush()
		arrived <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "ended")
	}))
	backend.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			open.Add(1)
		}
		if s == http.StateClosed && open.Add(-1) == 0 {
			close(closed)
		}
	}
	backend.Start()
	t.Cleanup(backend.Close)
	gw := mustBuild(t, planned(&gateway.Upstream{Name: "one", Targets: []string{backend.URL}, IdleTimeout: time.Hour}))
	s := serve(t, gw)
	done := make(chan string, 1)
	go func() {
		resp, err := http.Get(s.URL + "/one/")
		if err != nil {
			done <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		done <- fmt.Sprint(string(body), err)
	}()
	<-arrived
	mustReload(t, gw, planned())
	if resp, _ := get(t, s.URL+"/one/"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("status of a new request = %d, want 404", resp.StatusCode)
	}
	close(release)
	if got := <-done; got != "begun ended<nil>" {
		t.Errorf("the request under way got %q, want all of its answer", got)
	}
	<-closed // though it might stay idle for an hour
}

// P46.
func TestFiftyReloadsUnderLoadFailNoRequest(t *testing.T) {
	backends := []string{serve(t, new(recorder)).URL, serve(t, new(recorder)).URL}
	kept := &gateway.Upstream{Name: "kept", Targets: backends}
	next := func() *gateway.Builder {
		return planned(kept, &gateway.Upstream{Name: "new", Targets: backends, Health: &gateway.Health{Path: "/", Interval: time.Millisecond}, Picker: gateway.LeastLoaded{}})
	}
	gw := mustBuild(t, next())
	s := serve(t, gw)
	goroutines, files := runtime.NumGoroutine(), descriptors()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = gw.Run(ctx) })
	var served, failed atomic.Int64
	for n := range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Post(s.URL+[]string{"/kept/", "/new/"}[n%2], "text/plain", strings.NewReader("hello"))
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				served.Add(1)
				if resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
			}
		})
	}
	for range 50 {
		at := served.Load()
		mustReload(t, gw, next())
		eventually(t, "requests between two reloads", func() bool { return served.Load() > at+8 || failed.Load() > 0 })
	}
	stop()
	all.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed, want none", failed.Load(), served.Load())
	}
	client.CloseIdleConnections()
	gw.CloseIdleConnections() // of the last pools alone
	eventually(t, "the connections and checkers of 50 pools are gone", func() bool {
		return runtime.NumGoroutine() <= goroutines && descriptors() <= files
	})
}

// P46.
func TestRunFollowsReloadsAndLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		checked := func(name string) *gateway.Upstream {
			return &gateway.Upstream{Name: name, Targets: []string{"http://" + name}, Wrap: f.wrap, Health: &gateway.Health{Path: "/healthz"}}
		}
		one, two := checked("one"), checked("two")
		gw := mustBuild(t, planned(one))
		running(t, gw)
		checks := func() map[string]int {
			f.mu.Lock()
			f.checks = make(map[string][]time.Duration)
			f.mu.Unlock()
			time.Sleep(time.Minute)
			f.mu.Lock()
			defer f.mu.Unlock()
			return map[string]int{"one": len(f.checks["one"]), "two": len(f.checks["two"])}
		}
		if got := checks(); got["one"] < 5 || got["two"] != 0 {
			t.Errorf("checks = %v, want those of the first alone", got)
		}
		mustReload(t, gw, planned(one, two))
		if got := checks(); got["one"] < 5 || got["two"] < 5 {
			t.Errorf("checks = %v, want those of both", got)
		}
		mustReload(t, gw, planned(two))
		synctest.Wait()
		if got := checks(); got["one"] != 0 || got["two"] < 5 {
			t.Errorf("checks = %v, want those of the second alone", got)
		}
		// The same upstream, which has become a new pool meanwhile.
		mustReload(t, gw, planned(one, two))
		if got := checks(); got["one"] < 5 || got["one"] > 7 {
			t.Errorf("checks = %v, want one a time of the first again", got)
		}
		if err := gw.Run(t.Context()); err == nil {
			t.Error("a second Run = nil, want an error while the first goes on")
		}
	}) // which fails where a goroutine is left
}

// openTunnels opens n tunnels through the server.
func openTunnels(t *testing.T, s *httptest.Server, n int) []*rawConn {
	t.Helper()
	conns := make([]*rawConn, n)
	for i := range conns {
		conns[i] = dial(t, s)
		conns[i].send(t, handshake...)
		if resp, _ := conns[i].response(t); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status = %d, want 101", resp.StatusCode)
		}
	}
	return conns
}

// P14, P46.
func TestTunnelOutlivesAReload(t *testing.T) {
	one := &gateway.Upstream{Name: "one", Targets: []string{echo(t)}}
	var b gateway.Builder
	b.Upstream(one)
	b.Route(gateway.Route{Pattern: "/", Upstream: "one"})
	gw := mustBuild(t, &b)
	c := openTunnels(t, serve(t, gw), 1)[0]
	mustReload(t, gw, planned())
	wantEcho(t, c, "still there")
	if got := gw.Stats().Tunnels; got != 1 {
		t.Errorf("Stats().Tunnels = %d, want 1", got)
	}
}

// P14.
func TestCloseWaitsForTunnelsThatEndByThemselves(t *testing.T) {
	gw := build(t, gateway.Upstream{Targets: []string{echo(t)}}, everything)
	s := serve(t, gw)
	c := openTunnels(t, s, 1)[0]
	closed := make(chan error)
	go func() { closed <- gw.Close(t.Context()) }()
	// The refusal of a new one shows that Close has begun.
	eventually(t, "no new tunnel", func() bool {
		resp, body := exchange(t, s, handshake...)
		if resp.StatusCode == http.StatusServiceUnavailable {
			wantProblem(t, resp, body, http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	if resp, _ := get(t, s.URL); resp.StatusCode != http.StatusOK {
		t.Errorf("status of a plain request = %d, want 200", resp.StatusCode)
	}
	wantEcho(t, c, "still there")
	c.Close()
	if err := <-closed; err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

// P14.
func TestCloseCutsTunnelsOffWhenItsContextEnds(t *testing.T) {
	gone := make(chan struct{}, 3)
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
		gone <- struct{}{}
	})
	gw := build(t, gateway.Upstream{Targets: []string{at}}, everything)
	conns := openTunnels(t, serve(t, gw), 3)
	ctx, end := context.WithCancelCause(t.Context())
	why := errors.New("no time left")
	end(why)
	if err := gw.Close(ctx); !errors.Is(err, why) {
		t.Errorf("Close() = %v, want the cause of its context", err)
	}
	for _, c := range conns {
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("the client reads on, want its connection closed")
		}
		<-gone
	}
	if got := gw.Stats(); got.Tunnels != 0 || got.Upstreams[0].InFlight != 0 {
		t.Errorf("Stats() = %+v, want nothing left", got)
	}
	if err := gw.Close(ctx); err != nil {
		t.Errorf("Close() again = %v, want nil: there is nothing to cut off", err)
	}
}

// descriptors counts the open files of the process, -1 where nobody knows.
func descriptors() int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(all)
}

// P14.
func TestNothingIsLeftOfAThousandTunnels(t *testing.T) {
	gw := build(t, gateway.Upstream{Targets: []string{echo(t)}}, everything)
	s := serve(t, gw)
	goroutines, files := runtime.NumGoroutine(), descriptors()
	for range 10 {
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for range 10 {
					c, err := net.Dial("tcp", s.Listener.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.WriteString(c, strings.Join(handshake, "\r\n")+"\r\n\r\nhello\n")
					r := bufio.NewReader(c)
					if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
						t.Errorf("no tunnel: %v %v", resp, err)
					} else if line, _ := r.ReadString('\n'); line != "hello\n" {
						t.Errorf("tunnel = %q, want hello back", line)
					}
					c.Close()
				}
			})
		}
		all.Wait()
	}
	if err := gw.Close(t.Context()); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	eventually(t, fmt.Sprintf("%d goroutines and %d files as before", goroutines, files), func() bool {
		return runtime.NumGoroutine() <= goroutines && descriptors() <= files
	})
	if got := gw.Stats().Upstreams[0].Targets[0].Requests; got != 1000 {
		t.Errorf("%d tunnels, want 1000", got)
	}
}

func TestZeroGatewayCanBeReloadedAndRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gw gateway.Gateway
		running(t, &gw)
		f := newFleet()
		mustReload(t, &gw, planned(&gateway.Upstream{Name: "one", Targets: []string{"http://one"}, Wrap: f.wrap, Health: &gateway.Health{Path: "/healthz"}}))
		time.Sleep(time.Minute)
		if w := ask(&gw, http.MethodGet, "svc", "/one/"); w.Code != http.StatusOK {
			t.Errorf("status = %d, want 200", w.Code)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.checks["one"]) < 5 {
			t.Errorf("checks at %v, want one each ten seconds", f.checks["one"])
		}
	})
}

func TestCloseReturnsAlsoWhereAHandlerDoesNot(t *testing.T) {
	hijacked, end := make(chan struct{}), make(chan struct{})
	var b gateway.Builder
	b.Route(gateway.Route{Pattern: "/", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		close(hijacked)
		<-end // does not look at its connection
	})})
	gw := mustBuild(t, &b)
	s := serve(t, gw)
	defer close(end)
	dial(t, s).send(t, "GET / HTTP/1.1", "Host: svc")
	<-hijacked
	over := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	if err := gw.Close(ctx); !errors.Is(err, over) {
		t.Errorf("Close() = %v, want %v", err, over)
	}
}

// A check that is cancelled just when its answer comes may take down the connection
// of the next request with it.
func TestReloadCancelsNoCheckThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		wrap := func(http.RoundTripper) http.RoundTripper {
			return tripper(func(r *http.Request) (*http.Response, error) {
				select {
				case <-r.Context().Done():
				case <-time.After(time.Minute):
				}
				ended <- r.Context().Err()
				return status(http.StatusOK)(r)
			})
		}
		gw := mustBuild(t, planned(&gateway.Upstream{
			Name: "old", Targets: []string{"http://a"}, Wrap: wrap, Health: &gateway.Health{Path: "/", Interval: time.Second, Timeout: time.Hour},
		}))
		running(t, gw)
		time.Sleep(10 * time.Second) // by now a check is under way
		mustReload(t, gw, planned())
		if err := <-ended; err != nil {
			t.Errorf("the check's context ended by %v, want it to go on", err)
		}
	})
}
