package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/breaker/bulkhead"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/retry"
)

// TestMain is also the backend that tests kill: a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("PARLEY_TEST_BACKEND") != "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(l.Addr())
		go func() { // ends with the test that started it, whatever becomes of that
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "ok")
		}))
	}
	os.Exit(m.Run())
}

// process starts a backend in a process of its own.
func process(t *testing.T) (url string, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "PARLEY_TEST_BACKEND=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscan(stdout, &addr); err != nil {
		t.Fatal(err)
	}
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			stdin.Close()
		}
	}
	t.Cleanup(kill)
	return "http://" + addr, kill
}

// P32, P35.
func TestNoRequestIsLostWhenABackendIsKilled(t *testing.T) {
	a, kill := process(t)
	b, _ := process(t)
	gw := build(t, gateway.Upstream{Targets: []string{a, b}, Retry: quickRetry(), Eject: &gateway.Eject{Consecutive: 2}}, everything)
	s := serve(t, gw)
	for n := range 200 {
		if n == 100 {
			kill()
		}
		req, _ := http.NewRequest([]string{http.MethodGet, http.MethodPut}[n%2], s.URL, strings.NewReader("hello"))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || string(body) != "ok" {
			t.Fatalf("request %d: %s %q, want 200", n, resp.Status, body)
		}
	}
	dead := gw.Stats().Upstreams[0].Targets[0]
	if dead.Ejected == 0 || dead.Failures < 2 || dead.Failures > 4 {
		t.Errorf("the dead target has %+v, want it ejected after 2 failures", dead)
	}
}

// proxied puts a fault proxy before a backend.
func proxied(t *testing.T, h http.Handler) (*netfault.Proxy, string) {
	t.Helper()
	p, err := netfault.Listen(serve(t, h).Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, "http://" + p.Addr()
}

func TestResetConnectionsCostNoSafeRequest(t *testing.T) {
	p, at := proxied(t, new(recorder))
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}, Retry: quickRetry()}, everything))
	for range 20 {
		if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK {
			t.Fatalf("status = %d %s, want 200", resp.StatusCode, body)
		}
		p.Cut()
	}
}

// P29, P35.
func TestBlackHoleIs504ThenLeftAloneAndComesBack(t *testing.T) {
	p, at := proxied(t, new(recorder))
	good := new(recorder)
	gw := build(t, gateway.Upstream{
		Targets: []string{at, serve(t, good).URL}, Eject: &gateway.Eject{Consecutive: 1, For: 2 * time.Second, MaxFor: 2 * time.Second},
	}, gateway.Route{Pattern: "/", Timeout: 500 * time.Millisecond})
	s := serve(t, gw)
	get(t, s.URL)
	get(t, s.URL)
	p.Hold(netfault.Both)
	if resp, body := get(t, s.URL); resp.StatusCode != http.StatusGatewayTimeout {
		t.Fatalf("status = %d %s, want 504 from the black hole", resp.StatusCode, body)
	}
	for range 6 { // while it is ejected
		if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK {
			t.Errorf("status = %d %s, want 200 from the other target", resp.StatusCode, body)
		}
	}
	p.Heal()
	before := gw.Stats().Upstreams[0].Targets[0].Requests
	eventually(t, "the healed target gets requests", func() bool {
		get(t, s.URL)
		return gw.Stats().Upstreams[0].Targets[0].Requests > before
	})
}

// A target that is slow keeps its requests for longer, and gets fewer for that.
func TestSlowTargetGetsFewerRequestsByLoadAndByLatency(t *testing.T) {
	for name, p := range map[string]gateway.Picker{"least loaded": gateway.LeastLoaded{}, "peak EWMA": gateway.PeakEWMA{}} {
		t.Run(name, func(t *testing.T) {
			slow, at := proxied(t, new(recorder))
			quick := new(recorder)
			gw := build(t, gateway.Upstream{Targets: []string{at, serve(t, quick).URL}, Picker: p}, everything)
			s := serve(t, gw)
			slow.Delay(netfault.Up, 50*time.Millisecond)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for range 50 {
						resp, err := http.Get(s.URL)
						if err != nil {
							t.Error(err)
							return
						}
						resp.Body.Close()
					}
				})
			}
			all.Wait()
			if got := quick.count(); got < 120 {
				t.Errorf("the quick target got %d of 200 requests, want most", got)
			}
		})
	}
}

func TestHeaderTimeoutBoundsTheWaitForATargetThatHangs(t *testing.T) {
	s := serve(t, build(t, gateway.Upstream{Targets: []string{silent(t, nil)}, HeaderTimeout: 20 * time.Millisecond}, everything))
	start := time.Now()
	resp, body := get(t, s.URL)
	wantProblem(t, resp, body, http.StatusGatewayTimeout)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the answer took %v, want the HeaderTimeout and not the route's Timeout", took)
	}
}

// P26: a target that never says 100 Continue gets the body after ContinueTimeout.
func TestBodyIsKeptBackForContinueTimeoutAndThenSent(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{ContinueTimeout: 10 * time.Millisecond})
	c := dial(t, s)
	c.send(t, "POST / HTTP/1.1", "Host: svc", "Expect: 100-continue", "Content-Length: 5")
	if resp, _ := c.response(t); resp.StatusCode != http.StatusContinue {
		t.Fatalf("status = %d, want 100", resp.StatusCode)
	}
	_, _ = io.WriteString(c, "hello")
	if resp, _ := c.response(t); resp.StatusCode != http.StatusOK {
		t.Errorf("status = %d, want 200", resp.StatusCode)
	}
	if _, body := backend.last(t); body != "hello" {
		t.Errorf("the target got %q, want hello", body)
	}
}

// P33.
func TestRetriesOfAnUpstreamInAnOutageAreBudgeted(t *testing.T) {
	bad := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }}
	budget, err := retry.NewBudget(retry.BudgetConfig{RetryRate: 0.2, MinPerSecond: 1, Burst: 5})
	if err != nil {
		t.Fatal(err)
	}
	s := front(t, bad, gateway.Upstream{Retry: &retry.Policy{MaxAttempts: 3, Backoff: retry.Constant(0), Budget: budget}})
	start := time.Now()
	for range 200 {
		if resp, _ := get(t, s.URL); resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("status = %d, want the upstream's 503", resp.StatusCode)
		}
	}
	allowed := 200 + 200/5 + 5 + int(time.Since(start)/time.Second) + 2
	if got := bad.count(); got > allowed || got <= 200 {
		t.Errorf("the upstream got %d requests for 200, want some retries, and no more than %d in all", got, allowed)
	}
}

// P33.
func TestRetryWaitsAsLongAsRetryAfterAsksWithinTheRoutesTimeout(t *testing.T) {
	bad := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
	}}
	s := front(t, bad, gateway.Upstream{Retry: &retry.Policy{}}, gateway.Route{Pattern: "/", Timeout: 5 * time.Second})
	start := time.Now()
	if resp, _ := get(t, s.URL); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "60" {
		t.Errorf("response = %s %v, want the upstream's 503 as it is", resp.Status, resp.Header)
	}
	if got := bad.count(); got != 1 || time.Since(start) > 4*time.Second {
		t.Errorf("%d attempts in %v, want one: the wait cannot pay", got, time.Since(start))
	}
}

// held is a backend whose requests wait to be let go.
func held(t *testing.T) (url string, arrived <-chan struct{}, release func()) {
	in, out := make(chan struct{}, 100), make(chan struct{})
	s := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		in <- struct{}{}
		<-out
	}))
	return s.URL, in, func() { close(out) }
}

// Concurrency is bounded by composition: a bulkhead in Wrap for an upstream, one
// in Use for a route.
func TestBulkheadBoundsAnUpstreamOrARoute(t *testing.T) {
	limit := func() *bulkhead.Bulkhead {
		b, err := bulkhead.New(bulkhead.Config{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		u gateway.Upstream
		r gateway.Route
	}{
		"upstream": {gateway.Upstream{Wrap: limit().Transport, Breaker: trippy(), Eject: &gateway.Eject{Consecutive: 1, MaxRate: 1}}, gateway.Route{Pattern: "/"}},
		"route":    {gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{limit().Middleware}}},
	} {
		t.Run(name, func(t *testing.T) {
			at, arrived, release := held(t)
			c.u.Targets = []string{at}
			gw := build(t, c.u, c.r)
			s := serve(t, gw)
			first := make(chan int, 1)
			go func() {
				resp, err := http.Get(s.URL)
				if err != nil {
					first <- 0
					return
				}
				resp.Body.Close()
				first <- resp.StatusCode
			}()
			<-arrived
			resp, body := get(t, s.URL)
			wantProblem(t, resp, body, http.StatusServiceUnavailable)
			if resp.Header.Get("Retry-After") != "1" {
				t.Errorf("Retry-After = %q, want 1", resp.Header.Get("Retry-After"))
			}
			release()
			if got := <-first; got != http.StatusOK {
				t.Errorf("status of the first = %d, want 200", got)
			}
			if s := gw.Stats().Upstreams[0].Targets[0]; s.Failures != 0 || s.Ejected != 0 || s.Breaker != breaker.Closed {
				t.Errorf("Stats() = %+v, want no blame for what was never asked", s)
			}
		})
	}
}

func TestMaxConnsBoundsTheConnectionsAndTheWaitEndsByTimeout(t *testing.T) {
	at, arrived, release := held(t)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{at}, MaxConns: 1}, gateway.Route{Pattern: "/", Timeout: 100 * time.Millisecond}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, http.NoBody)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-arrived
	resp, body := get(t, s.URL)
	release()
	wantProblem(t, resp, body, http.StatusGatewayTimeout)
}
