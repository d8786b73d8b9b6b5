package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// hostileUpstream misbehaves in a way that the path of the request names.
func hostileUpstream(c net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		say := func(s string) { _, _ = io.WriteString(c, s) }
		switch req.URL.Path {
		case "/close":
			return
		case "/reset":
			_ = c.(*net.TCPConn).SetLinger(0)
			return
		case "/garbage":
			say("\x16\x03\x01 garbage\r\n\r\n")
			return
		case "/half":
			say("HTTP/1.1 200 OK\r\nContent-Le")
			return
		case "/short":
			say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
			return
		case "/chunk":
			say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
			return
		case "/twice":
			say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
			return
		case "/switch":
			say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI")
		case "/204":
			say("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
			return
		case "/304":
			say("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello")
			return
		case "/hints":
			for range 50 {
				say("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nConnection: X-A\r\nX-A: 1\r\n\r\n")
			}
			say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		case "/early":
			say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.CopyN(io.Discard, r, 1000)
			return
		case "/hang":
			_, _ = io.Copy(io.Discard, r)
			return
		case "/header":
			say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 128<<10) + "\r\n\r\n")
			return
		case "/fields":
			say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + strings.Repeat("X-A: b\r\n", 5000) + "\r\nok")
		case "/status":
			say("HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\nok")
		case "/trailer":
			say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\nConnection: close\r\nTransfer-Encoding: x\r\n\r\n")
		case "/unasked":
			say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON")
		default:
			_, _ = io.Copy(io.Discard, req.Body)
			say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
}

var hostilePaths = []string{
	"/close", "/reset", "/garbage", "/half", "/short", "/chunk", "/twice", "/switch", "/204", "/304", "/hints",
	"/early", "/hang", "/header", "/fields", "/status", "/trailer", "/unasked", "/ok", "/ok", "/ok",
}

// hostileClient sends one request in a way that rnd chooses.
func hostileClient(c net.Conn, rnd *rand.Rand, path string) {
	say := func(s string) { _, _ = io.WriteString(c, s) }
	r := bufio.NewReader(c)
	read := func() {
		if resp, err := http.ReadResponse(r, nil); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
		}
	}
	switch rnd.IntN(9) {
	case 0: // resets in the middle of a body
		say("POST " + path + " HTTP/1.1\r\nHost: svc\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", rnd.IntN(50000)))
		_ = c.(*net.TCPConn).SetLinger(0)
	case 1: // closes half of the connection
		say("GET " + path + " HTTP/1.1\r\nHost: svc\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		read()
	case 2: // pipelines
		for range 5 {
			say("GET " + path + " HTTP/1.1\r\nHost: svc\r\n\r\n")
		}
		for range 5 {
			read()
		}
	case 3: // leaves at once
		say("GET " + path + " HTTP/1.1\r\nHost: svc\r\n\r\n")
	case 4: // breaks its chunks
		say("POST " + path + " HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
		read()
	case 5: // expects, and sends nothing
		say("POST " + path + " HTTP/1.1\r\nHost: svc\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		read()
	case 6: // reads half of the answer
		say("GET " + path + " HTTP/1.1\r\nHost: svc\r\nX-Request-Timeout: 20\r\n\r\n")
		_, _ = r.ReadByte()
	case 7: // asks for a tunnel and leaves
		say("GET " + path + " HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		read()
	default:
		say("PUT " + path + " HTTP/1.1\r\nHost: svc\r\nContent-Length: 5\r\n\r\nhello")
		read()
	}
}

func TestNothingIsLeftOfHostileClientsUpstreamsAndReloads(t *testing.T) {
	before, fds := runtime.NumGoroutine(), descriptors()
	t.Run("storm", func(t *testing.T) {
		at := []string{rawBackend(t, hostileUpstream), rawBackend(t, hostileUpstream), rawBackend(t, hostileUpstream)}
		plan := func() *gateway.Builder {
			var b gateway.Builder
			b.Logger(slog.New(slog.DiscardHandler))
			b.AccessLog(gateway.AccessLog{Logger: slog.New(slog.DiscardHandler)})
			b.Upstream(&gateway.Upstream{
				Name: "svc", Targets: at, Retry: quickRetry(), Breaker: &breaker.Config{}, Eject: &gateway.Eject{For: time.Millisecond},
				Hedge: &retry.Hedging{Delay: 2 * time.Millisecond}, Picker: gateway.PeakEWMA{}, Sticky: &gateway.Sticky{Keys: stickyKeys},
				Health: &gateway.Health{Path: "/ok", Interval: 5 * time.Millisecond, Fall: 1, Rise: 1},
			})
			b.Route(gateway.Route{Pattern: "/", Upstream: "svc", Timeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond})
			return &b
		}
		gw := mustBuild(t, plan())
		s := serve(t, gw)
		s.Config.ErrorLog = quiet()
		ctx, stop := context.WithCancel(t.Context())
		var all, load sync.WaitGroup
		all.Go(func() { _ = gw.Run(ctx) })
		all.Go(func() {
			for ctx.Err() == nil {
				mustReload(t, gw, plan())
				_ = gw.Stats()
				select {
				case <-time.After(10 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		for w := range 8 {
			load.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(w)))
				for range 60 {
					c, err := net.Dial("tcp", s.Listener.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					_ = c.SetDeadline(time.Now().Add(5 * time.Second))
					hostileClient(c, rnd, hostilePaths[rnd.IntN(len(hostilePaths))])
					_ = c.Close()
				}
			})
		}
		load.Wait()
		stop()
		all.Wait()
		if resp, body := get(t, s.URL+"/ok"); resp.StatusCode != http.StatusOK || body != "ok" {
			t.Errorf("after the storm: %s %q, want 200 ok", resp.Status, body)
		}
		http.DefaultClient.CloseIdleConnections()
		eventually(t, "no request in flight", func() bool { return gw.Stats().Upstreams[0].InFlight == 0 && gw.Stats().Tunnels == 0 })
		for _, i := range gw.Stats().Upstreams[0].Targets {
			if i.InFlight != 0 {
				t.Errorf("%s: %d in flight", i.URL, i.InFlight)
			}
		}
	})
	eventually(t, fmt.Sprintf("no more than %d goroutines and %d descriptors", before, fds), func() bool {
		return runtime.NumGoroutine() <= before && descriptors() <= fds
	})
}
