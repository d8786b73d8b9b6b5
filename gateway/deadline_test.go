package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/internal/memhttp"
	"github.com/parley-go/parley/retry"
)

// hung is a gateway whose upstream answers no attempt, and the X-Request-Timeout
// and Grpc-Timeout that each attempt had.
func hung(t *testing.T, u gateway.Upstream, r gateway.Route) (s *memhttp.Server, attempts func() []string) {
	var mu sync.Mutex
	var all []string
	s = bubble(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		all = append(all, r.Header.Get("X-Request-Timeout")+"/"+r.Header.Get("Grpc-Timeout"))
		mu.Unlock()
		<-r.Context().Done()
	}, u, r)
	return s, func() []string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func TestEachAttemptIsToldHowLongTheGatewayWaits(t *testing.T) {
	attempts := &retry.Policy{MaxAttempts: 3, Backoff: retry.Constant(time.Second), AttemptTimeout: 2 * time.Second}
	for name, c := range map[string]struct {
		retry *retry.Policy
		route gateway.Route
		lines []string
		want  []string
		took  time.Duration
	}{
		"the route's Timeout":          {nil, gateway.Route{}, nil, []string{"30000/"}, 30 * time.Second},
		"what the client asks for":     {nil, gateway.Route{}, []string{"X-Request-Timeout: 1500"}, []string{"1500/"}, 1500 * time.Millisecond},
		"no more than the route has":   {nil, gateway.Route{Timeout: time.Second}, []string{"X-Request-Timeout: 99999999"}, []string{"1000/"}, time.Second},
		"what remains, per attempt":    {attempts, gateway.Route{Timeout: 7 * time.Second}, nil, []string{"2000/", "2000/", "1000/"}, 7 * time.Second},
		"gRPC, per attempt":            {attempts, gateway.Route{}, []string{"Grpc-Timeout: 7S"}, []string{"2000/7000000u", "2000/4000000u", "1000/1000000u"}, 7 * time.Second},
		"gRPC beyond the route":        {nil, gateway.Route{Timeout: time.Second}, []string{"Grpc-Timeout: 2H"}, []string{"1000/7200000m"}, time.Second},
		"nonsense asks for nothing":    {nil, gateway.Route{Timeout: time.Second}, []string{"X-Request-Timeout: 1s", "Grpc-Timeout: 5"}, []string{"1000/"}, time.Second},
		"negatives ask for nothing":    {nil, gateway.Route{Timeout: time.Second}, []string{"X-Request-Timeout: -5", "Grpc-Timeout: -5S"}, []string{"1000/"}, time.Second},
		"zero asks for nothing":        {nil, gateway.Route{Timeout: time.Second}, []string{"X-Request-Timeout: 0", "Grpc-Timeout: 0S"}, []string{"1000/"}, time.Second},
		"two lines ask for nothing":    {nil, gateway.Route{Timeout: time.Second}, []string{"X-Request-Timeout: 5", "X-Request-Timeout: 5"}, []string{"1000/"}, time.Second},
		"nine digits ask for nothing":  {nil, gateway.Route{Timeout: time.Second}, []string{"X-Request-Timeout: 000000005", "Grpc-Timeout: 000000005S"}, []string{"1000/"}, time.Second},
		"a unit that gRPC has not":     {nil, gateway.Route{Timeout: time.Second}, []string{"Grpc-Timeout: 1s"}, []string{"1000/"}, time.Second},
		"cannot be nominated away":     {nil, gateway.Route{Timeout: time.Second}, []string{"Connection: X-Request-Timeout"}, []string{"1000/"}, time.Second},
		"hours beyond what Go can say": {nil, gateway.Route{Timeout: time.Second}, []string{"Grpc-Timeout: 99999999H"}, []string{fmt.Sprintf("1000/%dH", int64(1<<63-1)/int64(time.Hour))}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, attempts := hung(t, gateway.Upstream{Retry: c.retry}, c.route)
				conn := dialPipe(t, s)
				_ = conn.SetDeadline(time.Now().Add(time.Hour))
				start := time.Now()
				conn.send(t, append([]string{"GET / HTTP/1.1", "Host: svc"}, c.lines...)...)
				resp, body := conn.response(t)
				wantProblem(t, resp, body, http.StatusGatewayTimeout)
				if got := attempts(); !slices.Equal(got, c.want) {
					t.Errorf("attempts were told %q, want %q", got, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("the answer took %v, want %v", took, c.took)
				}
			})
		})
	}
}

// A stranger who is in a hurry must not close a target for everybody.
func TestDeadlineOfTheClientIsNotTheTargetsFault(t *testing.T) {
	for _, line := range []string{"X-Request-Timeout: 5", "Grpc-Timeout: 5m"} {
		synctest.Test(t, func(t *testing.T) {
			s, attempts := hung(t, gateway.Upstream{Breaker: trippy()}, gateway.Route{})
			for range 5 {
				c := dialPipe(t, s)
				c.send(t, "GET / HTTP/1.1", "Host: svc", line)
				resp, body := c.response(t)
				wantProblem(t, resp, body, http.StatusGatewayTimeout)
			}
			if n := len(attempts()); n != 5 {
				t.Errorf("%s: %d attempts reached the target, want 5", line, n)
			}
		})
	}
}

// A stranger in a hurry must not be able to close targets that keep to what they
// are told.
func TestTargetThatAnswers504ToAClientInAHurryIsNotBlamed(t *testing.T) {
	for _, c := range []struct {
		timeout string
		want    uint64
	}{{"100", 0}, {"", 1}, {"30000", 1}} {
		f := newFleet()
		f.set("a", status(http.StatusGatewayTimeout))
		gw := build(t, gateway.Upstream{Targets: []string{"http://a"}, Wrap: f.wrap, Breaker: trippy(), Eject: &gateway.Eject{Consecutive: 1, MaxRate: 1}}, everything)
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header.Set("X-Request-Timeout", c.timeout)
		w := httptest.NewRecorder()
		gw.ServeHTTP(w, r)
		if w.Code != http.StatusGatewayTimeout {
			t.Errorf("status = %d, want the target's 504", w.Code)
		}
		at := gw.Stats().Upstreams[0].Targets[0]
		blamed := at.Failures == 1 && at.Ejected > 0 && at.Breaker == breaker.Open
		spared := at.Failures == 0 && at.Ejected == 0 && at.Breaker == breaker.Closed
		if c.want == 1 && !blamed || c.want == 0 && !spared {
			t.Errorf("X-Request-Timeout %q: %+v, want %d failures with their consequences", c.timeout, at, c.want)
		}
	}
}

// Once the headers have come there is no deadline any more, and nobody is told of
// one that has passed.
func TestContextOfAStreamHasNoDeadline(t *testing.T) {
	var before, after bool
	u := gateway.Upstream{Targets: []string{"http://in.memory"}, Wrap: func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			_, before = r.Context().Deadline()
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: readCloser(func([]byte) (int, error) {
				_, after = r.Context().Deadline()
				return 0, http.ErrBodyNotAllowed
			})}, nil
		})
	}}
	ask(build(t, u, everything), http.MethodGet, "svc", "/")
	if !before || after {
		t.Errorf("a deadline before the headers: %v, after them: %v, want true and false", before, after)
	}
}

// readCloser is a body that is read by calling it.
type readCloser func([]byte) (int, error)

func (f readCloser) Read(p []byte) (int, error) { return f(p) }
func (f readCloser) Close() error               { return nil }

// late is a picker that has picked only when the request has ended.
type late struct{ gateway.Picker }

func (l late) Over(instances []*gateway.Instance) func(*http.Request) int {
	pick := l.Picker.Over(instances)
	return func(r *http.Request) int {
		<-r.Context().Done()
		return pick(r)
	}
}

// gRPC counts in nanoseconds: a stranger who grants one could take the targets from all
// others, since such a request ends before anything is sent.
func TestAClientWhoseTimeIsOverAtOnceIsNotTheTargetsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		gw := build(t, gateway.Upstream{
			Targets: twoTargets, Wrap: f.wrap, Picker: late{gateway.RoundRobin{}},
			Breaker: &breaker.Config{Consecutive: 1}, Eject: &gateway.Eject{Consecutive: 1},
		}, everything)
		for range 4 {
			r := httptest.NewRequest(http.MethodGet, "http://svc/", nil)
			r.Header.Set("Grpc-Timeout", "1n")
			w := httptest.NewRecorder()
			if gw.ServeHTTP(w, r); w.Code != http.StatusGatewayTimeout {
				t.Errorf("status = %d %s, want 504", w.Code, w.Body)
			}
		}
		for _, s := range gw.Stats().Upstreams[0].Targets {
			if s.Failures != 0 || s.Ejected != 0 || s.Latency != 0 {
				t.Errorf("%+v, want no blame", s)
			}
		}
	})
}
