package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// quickRetry is a policy that does not wait.
func quickRetry() *retry.Policy {
	return &retry.Policy{MaxAttempts: 3, Backoff: retry.Constant(0)}
}

func TestRequestsGoToTheTargetsInTurn(t *testing.T) {
	a, b, c := new(recorder), new(recorder), new(recorder)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{serve(t, a).URL, serve(t, b).URL, serve(t, c).URL}}, everything))
	for range 9 {
		get(t, s.URL)
	}
	for i, backend := range []*recorder{a, b, c} {
		if got := backend.count(); got != 3 {
			t.Errorf("target %d got %d requests, want 3", i, got)
		}
	}
}

func TestRetryGoesToTheNextTarget(t *testing.T) {
	good := new(recorder)
	s := serve(t, build(t, gateway.Upstream{
		Targets: []string{unreachable(t), unreachable(t), serve(t, good).URL}, Retry: quickRetry(),
	}, everything))
	for range 3 {
		if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK {
			t.Errorf("status = %d %s, want 200", resp.StatusCode, body)
		}
	}
	if got := good.count(); got != 3 {
		t.Errorf("the only living target got %d requests, want 3", got)
	}
}

// P30.
func TestBodyOfWhichNothingWasSentGoesWholeToTheNextTarget(t *testing.T) {
	good := new(recorder)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{unreachable(t), serve(t, good).URL}, Retry: quickRetry()}, everything))
	want := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	resp, err := http.Post(s.URL, "text/plain", strings.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status = %d, want 200", resp.StatusCode)
	}
	if _, got := good.last(t); got != want {
		t.Errorf("the second target got %d bytes, want all %d", len(got), len(want))
	}
}

// hangUp is an upstream that reads a request and its body and hangs up.
func hangUp(t *testing.T, count *atomic.Int64) string {
	return rawBackend(t, func(_ net.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			count.Add(1)
		}
	})
}

// P30, P31, P32.
func TestRequestIsSentAgainOnlyIfThatIsSafe(t *testing.T) {
	for name, c := range map[string]struct {
		method, key string
		body        int
		status      int
		again       bool
	}{
		"GET":                          {"GET", "", 0, 200, true},
		"PUT with a small body":        {"PUT", "", 60 << 10, 200, true},
		"PUT with a large body":        {"PUT", "", 70 << 10, 502, false},
		"POST":                         {"POST", "", 0, 502, false},
		"POST with a body":             {"POST", "", 10, 502, false},
		"POST with an Idempotency-Key": {"POST", "k", 10, 200, true},
		"POST with an Idempotency-Key and much body": {"POST", "k", 70 << 10, 502, false},
		"PATCH": {"PATCH", "", 10, 502, false},
	} {
		t.Run(name, func(t *testing.T) {
			var first atomic.Int64
			good := new(recorder)
			s := serve(t, build(t, gateway.Upstream{
				Targets: []string{hangUp(t, &first), serve(t, good).URL}, Retry: quickRetry(),
			}, everything))
			want := strings.Repeat("x", c.body)
			req, _ := http.NewRequest(c.method, s.URL, strings.NewReader(want))
			if c.key != "" {
				req.Header.Set("Idempotency-Key", c.key)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status || first.Load() != 1 || (good.count() == 1) != c.again {
				t.Fatalf("status = %d after %d requests to the first target and %d to the second, want %d and again = %v",
					resp.StatusCode, first.Load(), good.count(), c.status, c.again)
			}
			if c.again {
				if _, got := good.last(t); got != want {
					t.Errorf("the second target got %d bytes, want %d", len(got), len(want))
				}
			}
		})
	}
}

// P32.
func TestKeptConnectionThatTheUpstreamHasClosedCostsNoRequest(t *testing.T) {
	// A request on a fresh connection is answered; the second one on the same
	// connection meets the end of it.
	at := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		for i := range 2 {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if i == 0 {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
	})
	none, some := func() io.Reader { return nil }, func() io.Reader { return strings.NewReader("body") }
	for name, c := range map[string]struct {
		method, key string
		body        func() io.Reader
		want        int
	}{
		"GET":                          {"GET", "", none, 200},
		"GET with a body":              {"GET", "", some, 200},
		"POST":                         {"POST", "", some, 502},
		"POST with an Idempotency-Key": {"POST", "k", some, 200},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, build(t, gateway.Upstream{Targets: []string{at}}, everything))
			// By the same method, since others may have other connections.
			for i, want := range []int{http.StatusOK, c.want} {
				req, _ := http.NewRequest(c.method, s.URL, c.body())
				if c.key != "" {
					req.Header.Set("Idempotency-Key", c.key)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != want {
					t.Fatalf("status %d = %d, want %d", i, resp.StatusCode, want)
				}
			}
		})
	}
}

// P33.
func TestDiscardedAnswerLeavesNothingInTheNextOne(t *testing.T) {
	bad := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Bad", "1")
		w.Header().Set("Set-Cookie", "bad=1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "bad")
	}}
	good := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "good") }}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{serve(t, bad).URL, serve(t, good).URL}, Retry: quickRetry()}, everything))
	resp, body := get(t, s.URL)
	if resp.StatusCode != http.StatusOK || body != "good" || resp.Header.Get("X-Bad") != "" || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("response = %s %v %q, want the good one alone", resp.Status, resp.Header, body)
	}
	if bad.count() != 1 {
		t.Errorf("the bad target got %d requests, want 1", bad.count())
	}
}

func TestAnswerOfTheUpstreamIsPassedOnWhenRetriesEnd(t *testing.T) {
	bad := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "sorry")
	}}
	s := front(t, bad, gateway.Upstream{Retry: quickRetry()}, gateway.Route{Pattern: "/", Fallback: http.NotFoundHandler()})
	if resp, body := get(t, s.URL); resp.StatusCode != http.StatusServiceUnavailable || body != "sorry" {
		t.Errorf("response = %s %q, want the upstream's 503", resp.Status, body)
	}
	if got := bad.count(); got != 3 {
		t.Errorf("%d attempts, want 3", got)
	}
}

func TestUnreachableUpstreamIs502(t *testing.T) {
	s := serve(t, build(t, gateway.Upstream{Targets: []string{unreachable(t)}}, everything))
	resp, body := get(t, s.URL)
	wantProblem(t, resp, body, http.StatusBadGateway)
}

// silent is an upstream that reads a request and says nothing.
func silent(t *testing.T, ended chan<- error) string {
	return rawBackend(t, func(_ net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		var err error
		for err == nil { // of what follows, such as a body
			_, err = r.ReadByte()
		}
		if ended != nil {
			ended <- err
		}
	})
}

func TestBodyOverMaxBodyIs413(t *testing.T) {
	backend := new(recorder)
	s := front(t, backend, gateway.Upstream{}, gateway.Route{Pattern: "/", MaxBody: 10})
	for name, lines := range map[string][]string{
		"of known length": {"Content-Length: 11", "", "hello, wor", ""},
		"in chunks":       {"Transfer-Encoding: chunked", "", "b", "hello world", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := exchange(t, s, append([]string{"POST / HTTP/1.1", "Host: svc"}, lines...)...)
			wantProblem(t, resp, body, http.StatusRequestEntityTooLarge)
		})
	}
	if resp, body := exchange(t, s, "POST / HTTP/1.1", "Host: svc", "Content-Length: 10", "", "0123456789"); resp.StatusCode != http.StatusOK {
		t.Errorf("10 bytes = %d %s, want 200", resp.StatusCode, body)
	}
}

// P21.
func TestBodyWithBrokenFramingIs400(t *testing.T) {
	s := front(t, new(recorder), gateway.Upstream{})
	resp, body := exchange(t, s, "POST / HTTP/1.1", "Host: svc", "Transfer-Encoding: chunked", "", "zz", "hello")
	wantProblem(t, resp, body, http.StatusBadRequest)
}

// P29.
func TestClientThatLeavesIs499AndTheUpstreamIsCancelled(t *testing.T) {
	ended := make(chan error, 1)
	arrived := make(chan struct{})
	at := rawBackend(t, func(_ net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		close(arrived)
		_, err := r.ReadByte()
		ended <- err
	})
	gw, lines := logged(t, at, gateway.Route{Pattern: "/", Fallback: http.NotFoundHandler()})
	c := dial(t, serve(t, gw))
	c.send(t, "GET / HTTP/1.1", "Host: svc")
	<-arrived
	c.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("upstream reads %v, want its connection closed", err)
	}
	if line := lines.wait(t, 1)[0]; line["status"] != 499.0 || line["fallback"] != nil {
		t.Errorf("log line %v, want status 499 and no fallback", line)
	}
}

func TestClientThatLeavesWithinItsBodyIs499(t *testing.T) {
	arrived := make(chan struct{})
	backend := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	gw, lines := logged(t, backend.URL, everything)
	c := dial(t, serve(t, gw))
	c.send(t, "POST / HTTP/1.1", "Host: svc", "Content-Length: 10", "", "half")
	<-arrived
	c.Close()
	if line := lines.wait(t, 1)[0]; line["status"] != 499.0 {
		t.Errorf("log line %v, want status 499", line)
	}
}

// trippy is a breaker that opens at the first failure.
func trippy() *breaker.Config {
	return &breaker.Config{Consecutive: 1}
}

func TestOpenBreakersAre503WithRetryAfter(t *testing.T) {
	s := serve(t, build(t, gateway.Upstream{Targets: []string{unreachable(t), unreachable(t)}, Breaker: trippy()}, everything))
	for range 2 {
		if resp, _ := get(t, s.URL); resp.StatusCode != http.StatusBadGateway {
			t.Fatalf("status = %d, want 502 while the breakers are closed", resp.StatusCode)
		}
	}
	resp, body := get(t, s.URL)
	wantProblem(t, resp, body, http.StatusServiceUnavailable)
	var seconds int
	if _, err := fmt.Sscan(resp.Header.Get("Retry-After"), &seconds); err != nil || seconds < 1 {
		t.Errorf("Retry-After = %q, want seconds", resp.Header.Get("Retry-After"))
	}
}

func TestTargetWhoseBreakerIsOpenIsPassedOver(t *testing.T) {
	good := new(recorder)
	s := serve(t, build(t, gateway.Upstream{Targets: []string{unreachable(t), serve(t, good).URL}, Breaker: trippy()}, everything))
	if resp, _ := get(t, s.URL); resp.StatusCode != http.StatusBadGateway {
		t.Fatalf("status = %d, want 502 from the first target", resp.StatusCode)
	}
	for i := range 6 {
		want := strings.Repeat("x", i<<16)
		resp, err := http.Post(s.URL, "text/plain", strings.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("status = %d, want 200 from the second target", resp.StatusCode)
		}
		if _, got := good.last(t); got != want {
			t.Errorf("the second target got %d bytes, want %d", len(got), len(want))
		}
	}
}

// P29.
func TestClientsFailureDoesNotOpenTheBreaker(t *testing.T) {
	arrived := make(chan struct{}, 1)
	backend := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	good := new(recorder)
	mux := http.NewServeMux()
	mux.Handle("/slow", backend.Config.Handler)
	mux.Handle("/", good)
	lines := new(lineBuffer)
	s := serve(t, withLog(t, lines, gateway.Upstream{Targets: []string{serve(t, mux).URL}, Breaker: trippy()}, gateway.Route{Pattern: "/", MaxBody: 10}))
	leave := dial(t, s)
	leave.send(t, "GET /slow HTTP/1.1", "Host: svc")
	<-arrived
	leave.Close()
	cut := dial(t, s)
	cut.send(t, "POST /slow HTTP/1.1", "Host: svc", "Content-Length: 10", "", "half")
	<-arrived
	cut.Close()
	exchange(t, s, "POST /slow HTTP/1.1", "Host: svc", "Transfer-Encoding: chunked", "", "b", "hello world", "0")
	<-arrived
	lines.wait(t, 3)
	if resp, body := get(t, s.URL+"/"); resp.StatusCode != http.StatusOK {
		t.Errorf("status = %d %s, want 200 through a closed breaker", resp.StatusCode, body)
	}
}

func TestFallbackAnswersWhereTheGatewayWouldHave(t *testing.T) {
	fallback := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "fallback for %s %s, body %q %v", r.Pattern, r.PathValue("id"), body, err)
	})
	route := gateway.Route{Pattern: "/x/{id}", Fallback: fallback, Timeout: 50 * time.Millisecond}
	const want = `fallback for /x/{id} 7, body "" <nil>`
	for name, u := range map[string]gateway.Upstream{
		"unreachable": {Targets: []string{unreachable(t)}},
		"exhausted":   {Targets: []string{unreachable(t)}, Retry: quickRetry()},
		"too slow":    {Targets: []string{silent(t, nil)}},
		"none known":  {Resolver: gateway.DNS{Name: "svc.invalid", Port: 80}},
		"open":        {Targets: []string{unreachable(t)}, Breaker: trippy()},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, build(t, u, route))
			for range 2 {
				resp, err := http.Post(s.URL+"/x/7", "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK || string(body) != want {
					t.Errorf("response = %s %q, want 200 %q", resp.Status, body, want)
				}
			}
		})
	}
	t.Run("not for a fault of the client", func(t *testing.T) {
		s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "/", MaxBody: 1, Fallback: fallback})
		resp, body := exchange(t, s, "POST / HTTP/1.1", "Host: svc", "Content-Length: 2", "", "hi")
		wantProblem(t, resp, body, http.StatusRequestEntityTooLarge)
	})
}

func TestWrapSeesEachAttemptWithItsTarget(t *testing.T) {
	dead, good := unreachable(t), serve(t, new(recorder))
	var seen []string
	wrap := func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			seen = append(seen, r.URL.String()+" "+r.Pattern)
			resp, err := next.RoundTrip(r)
			if err == nil {
				resp.Request = nil // as an answer from a cache might be
			}
			return resp, err
		})
	}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{dead, good.URL}, Retry: quickRetry(), Wrap: wrap}, gateway.Route{Pattern: "GET /x"}))
	if resp, body := get(t, s.URL+"/x?q"); resp.StatusCode != http.StatusOK {
		t.Fatalf("status = %d %s, want 200", resp.StatusCode, body)
	}
	want := []string{dead + "/x?q GET /x", good.URL + "/x?q GET /x"}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("Wrap saw %q, want %q", seen, want)
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRejectionByWrapIs503(t *testing.T) {
	full := func(http.RoundTripper) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) { return nil, rejection{} })
	}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{unreachable(t)}, Wrap: full, Breaker: trippy()}, everything))
	for range 3 {
		resp, body := get(t, s.URL)
		wantProblem(t, resp, body, http.StatusServiceUnavailable)
		if got := resp.Header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After = %q, want 1 where nobody knows", got)
		}
	}
}

type rejection struct{}

func (rejection) Error() string  { return "bulkhead \x1b[31m: full" }
func (rejection) Rejected() bool { return true }

func TestMiddlewareThatReplacesTheContextLosesNoAnswer(t *testing.T) {
	foreign := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.Background()))
		})
	}
	s := front(t, new(recorder), gateway.Upstream{}, gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{foreign}})
	resp, err := http.Post(s.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status = %d, want 200", resp.StatusCode)
	}
}

func TestDeadlineOfMiddlewareIs504(t *testing.T) {
	short := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
	s := serve(t, build(t, gateway.Upstream{Targets: []string{silent(t, nil)}, Retry: quickRetry()},
		gateway.Route{Pattern: "/", Use: []func(http.Handler) http.Handler{short}}))
	resp, body := get(t, s.URL)
	wantProblem(t, resp, body, http.StatusGatewayTimeout)
}
