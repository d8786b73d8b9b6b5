package gateway_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// cleartext serves h over HTTP/2 without TLS, and nothing else.
func cleartext(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.MaxHeaderBytes = 8 << 10 // as servers of gRPC grant, and say
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ErrorLog = quiet()
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// resetStreams sends requests over HTTP/2 whose bodies break off, that are
// cancelled at random moments, or whose answers are not read to their end.
func resetStreams(t *testing.T, url string, paths ...string) {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			for range 60 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(20))*time.Millisecond)
				var body io.Reader
				if breaks := rnd.IntN(4); breaks > 0 {
					r, pipe := io.Pipe()
					body = r
					all.Go(func() {
						for range 10 {
							if _, err := pipe.Write(make([]byte, 5000)); err != nil {
								return // the transport has closed it
							}
						}
						if breaks == 1 {
							_ = pipe.CloseWithError(io.ErrUnexpectedEOF)
						}
						_ = pipe.Close()
					})
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+paths[rnd.IntN(len(paths))], body)
				if err != nil {
					t.Error(err)
				}
				if resp, err := tr.RoundTrip(req); err == nil {
					_, _ = io.CopyN(io.Discard, resp.Body, rnd.Int64N(20000))
					_ = resp.Body.Close()
				}
				cancel()
			}
		})
	}
	all.Wait()
}

// Run with the race detector. The transport of an HTTP/2 upstream may go on to
// read a body when the handler has returned, and the server's writer is gone.
func TestNothingIsLeftOfStreamsThatAreReset(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("storm", func(t *testing.T) {
		at := cleartext(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/reset":
				panic(http.ErrAbortHandler)
			case "/half":
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case "/hang":
				<-r.Context().Done()
			case "/trailers":
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
				_, _ = io.WriteString(w, "x")
			case "/early":
				w.WriteHeader(http.StatusForbidden)
			case "/echo":
				_, _ = io.Copy(w, r.Body)
			}
		})
		gw := build(t, gateway.Upstream{Targets: []string{at}, HTTP2: true, Retry: quickRetry()},
			gateway.Route{Pattern: "/", Timeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond})
		s := serve(t, gw)
		s.Config.ErrorLog = quiet()
		resetStreams(t, s.URL, "/reset", "/half", "/hang", "/trailers", "/early", "/echo")
		eventually(t, "no request in flight", func() bool { return gw.Stats().Upstreams[0].InFlight == 0 })
	})
	eventually(t, "the goroutines of before", func() bool { return runtime.NumGoroutine() <= before })
}

func TestNoTargetIsBlamedForStreamsThatAClientResets(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" {
			_, _ = io.Copy(w, r.Body)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}
	for name, u := range map[string]gateway.Upstream{
		"HTTP/1.1": {Targets: []string{serve(t, http.HandlerFunc(echo)).URL}},
		"HTTP/2":   {Targets: []string{cleartext(t, echo)}, HTTP2: true},
	} {
		t.Run(name, func(t *testing.T) {
			gw := build(t, u, everything)
			s := serve(t, gw)
			s.Config.ErrorLog = quiet()
			resetStreams(t, s.URL, "/echo", "/early")
			eventually(t, "no request in flight", func() bool { return gw.Stats().Upstreams[0].InFlight == 0 })
			if at := gw.Stats().Upstreams[0].Targets[0]; at.Failures > 0 || at.Requests == 0 {
				t.Errorf("%d failures of %d requests, want none of some", at.Failures, at.Requests)
			}
		})
	}
}

// The storm above shows that it happens; here it does so each time.
func TestCancellationOfAnotherRequestIsNobodysFaultAndRetried(t *testing.T) {
	for _, stray := range []error{context.Canceled, fmt.Errorf("wrapped: %w", context.Canceled), retry.ErrLost} {
		calls := 0
		gw := build(t, gateway.Upstream{
			Targets: []string{"http://a", "http://b"}, Retry: quickRetry(), Breaker: trippy(), Eject: &gateway.Eject{Consecutive: 1},
			Wrap: func(http.RoundTripper) http.RoundTripper {
				return tripper(func(r *http.Request) (*http.Response, error) {
					if calls++; calls == 1 {
						return nil, stray
					}
					return status(http.StatusOK)(r)
				})
			},
		}, everything)
		if w := ask(gw, http.MethodGet, "svc", "/"); w.Code != http.StatusOK || calls != 2 {
			t.Errorf("status = %d after %d attempts, want 200 after 2", w.Code, calls)
		}
		for _, at := range gw.Stats().Upstreams[0].Targets {
			if at.Failures > 0 || at.Ejected > 0 || at.Breaker != breaker.Closed {
				t.Errorf("%+v, want no failure and no consequences", at)
			}
		}
	}
}

// HTTP/2 servers say how large a header they take, and the transport sends none
// that is larger.
func TestHeaderThatATargetDoesNotTakeIs431AndNotTheTargetsFault(t *testing.T) {
	at := cleartext(t, func(http.ResponseWriter, *http.Request) {})
	gw := build(t, gateway.Upstream{Targets: []string{at}, HTTP2: true, Retry: quickRetry(), Breaker: trippy(), Eject: &gateway.Eject{Consecutive: 1, MaxRate: 1}}, everything)
	s := serve(t, gw)
	get(t, s.URL) // from now on the limit is known
	for range 3 {
		resp, body := exchange(t, s, "GET / HTTP/1.1", "Host: svc", "X-Large: "+strings.Repeat("x", 20<<10))
		wantProblem(t, resp, body, http.StatusRequestHeaderFieldsTooLarge)
	}
	if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK {
		t.Errorf("another client gets %s %s, want 200", resp.Status, body)
	}
	if at := gw.Stats().Upstreams[0].Targets[0]; at.Failures > 0 {
		t.Errorf("%+v, want no failure", at)
	}
}

// P10: without the guard one request opened the breaker.
func TestUpgradeOfAnHTTP2TargetIsServedAsAPlainRequest(t *testing.T) {
	at := cleartext(t, func(http.ResponseWriter, *http.Request) {})
	gw := build(t, gateway.Upstream{Targets: []string{at}, HTTP2: true, Retry: quickRetry(), Breaker: trippy(), Eject: &gateway.Eject{Consecutive: 1, MaxRate: 1}}, everything)
	s := serve(t, gw)
	for range 3 {
		if resp, body := exchange(t, s, "GET / HTTP/1.1", "Host: svc", "Connection: Upgrade", "Upgrade: websocket"); resp.StatusCode != http.StatusOK {
			t.Errorf("response = %s %s, want a plain 200", resp.Status, body)
		}
	}
	if at := gw.Stats().Upstreams[0].Targets[0]; at.Failures > 0 {
		t.Errorf("%+v, want no failure", at)
	}
}

func TestTargetThatRepeatsTheLargestHeaderIsNotBlamed(t *testing.T) {
	backend := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
		w.Header().Set("Set-Cookie", strings.Repeat("x", 4<<10))
	}))
	gw := build(t, gateway.Upstream{Targets: []string{backend.URL}}, everything)
	resp, body := exchange(t, serve(t, gw), "OPTIONS / HTTP/1.1", "Host: svc", "Access-Control-Request-Headers: "+strings.Repeat("x", 63<<10))
	if resp.StatusCode != http.StatusOK {
		t.Errorf("response = %s %s, want 200", resp.Status, body)
	}
	if at := gw.Stats().Upstreams[0].Targets[0]; at.Failures > 0 {
		t.Errorf("%+v, want no failure", at)
	}
}
