package retry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

// spy is a response or request body that counts how it is used.
type spy struct {
	io.Reader
	reads, closes atomic.Int32
}

func (s *spy) Read(p []byte) (int, error) { s.reads.Add(1); return s.Reader.Read(p) }
func (s *spy) Close() error               { s.closes.Add(1); return nil }

func text(s string) *spy { return &spy{Reader: strings.NewReader(s)} }

// server is a RoundTripper that answers with one status after another, the last
// one for ever, and keeps account of everything.
type server struct {
	statuses []int
	header   http.Header
	err      error // instead of a response, for status 0
	bodies   []*spy
	received []string
	requests []*http.Request
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.requests = append(s.requests, req)
	if req.Body != nil {
		b, _ := io.ReadAll(req.Body)
		req.Body.Close()
		s.received = append(s.received, string(b))
	}
	status := s.statuses[min(len(s.requests), len(s.statuses))-1]
	if status == 0 {
		return nil, s.err
	}
	b := text(fmt.Sprintf("answer %d", len(s.requests)))
	s.bodies = append(s.bodies, b)
	return &http.Response{StatusCode: status, Header: s.header, Body: b, ContentLength: -1, Request: req}, nil
}

func httpRequest(t testing.TB, method, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://inventory/stock", r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

var quick = retry.Policy{Backoff: retry.Constant(0)}

// wantReturned checks that only the last response is open, and still whole.
func wantReturned(t *testing.T, s *server, resp *http.Response, err error, status int) {
	t.Helper()
	if err != nil || resp == nil || resp.StatusCode != status {
		t.Fatalf("RoundTrip() = %v, %v, want a response of status %d", resp, err, status)
	}
	for i, b := range s.bodies[:len(s.bodies)-1] {
		if b.closes.Load() != 1 || b.Len() != 0 {
			t.Errorf("discarded body %d was closed %d times with %d bytes unread, want once and none", i+1, b.closes.Load(), b.Len())
		}
	}
	if got := s.bodies[len(s.bodies)-1].closes.Load(); got != 0 {
		t.Errorf("the returned body was closed %d times by the transport", got)
	}
	got, _ := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("answer %d", len(s.requests)); string(got) != want {
		t.Errorf("the returned body says %q, want %q", got, want)
	}
}

func (s *spy) Len() int { return s.Reader.(interface{ Len() int }).Len() }

func TestTransportRetriesStatusesThatMayPass(t *testing.T) {
	ask := func(codes ...int) func(error) bool {
		return func(err error) bool {
			e, ok := errors.AsType[*retry.StatusError](err)
			for _, code := range codes {
				if ok && e.Response.StatusCode == code {
					return true
				}
			}
			return false
		}
	}
	everything := func(error) bool { return true }
	for status, c := range map[int]struct{ attempts, with500, withAll int }{
		101: {1, 1, 1}, 200: {1, 1, 1}, 204: {1, 1, 1}, 304: {1, 1, 1}, 400: {1, 1, 1}, 404: {1, 1, 1}, 408: {1, 1, 1},
		425: {1, 1, 1}, 429: {3, 1, 3}, 500: {1, 3, 3}, 501: {1, 1, 1}, 502: {3, 1, 3}, 503: {3, 1, 3}, 504: {3, 1, 3},
		505: {1, 1, 3}, 600: {1, 1, 1},
	} {
		for name, p := range map[string]struct {
			retryable func(error) bool
			want      int
		}{
			"by default":                  {nil, c.attempts},
			"with 500 chosen":             {ask(500), c.with500},
			"with everything that may be": {everything, c.withAll},
		} {
			t.Run(fmt.Sprintf("%d %s", status, name), func(t *testing.T) {
				s := &server{statuses: []int{status}}
				policy := quick
				policy.Retryable = p.retryable
				resp, err := policy.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
				if len(s.requests) != p.want {
					t.Errorf("attempts = %d, want %d", len(s.requests), p.want)
				}
				wantReturned(t, s, resp, err, status)
			})
		}
	}
}

func TestTransportReturnsTheLastResponseAsItIs(t *testing.T) {
	for name, c := range map[string]struct {
		statuses []int
		want     int
	}{
		"when attempts are exhausted":    {[]int{502, 503, 504}, 504},
		"when an attempt succeeds":       {[]int{503, 200}, 200},
		"when an attempt must not retry": {[]int{503, 404}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{statuses: c.statuses}
			resp, err := quick.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
			wantReturned(t, s, resp, err, c.want)
			if len(s.requests) != len(c.statuses) {
				t.Errorf("attempts = %d, want %d", len(s.requests), len(c.statuses))
			}
		})
	}
}

func TestOnlyIdempotentRequestsAreSentTwice(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	refused := fmt.Errorf("proxy: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	for name, c := range map[string]struct {
		method, key string
		err         error
		want        int
	}{
		"no method is GET":               {"", "", nil, 3},
		"GET":                            {"GET", "", nil, 3},
		"HEAD":                           {"HEAD", "", nil, 3},
		"OPTIONS":                        {"OPTIONS", "", nil, 3},
		"TRACE":                          {"TRACE", "", nil, 3},
		"PUT":                            {"PUT", "", nil, 3},
		"DELETE":                         {"DELETE", "", nil, 3},
		"POST":                           {"POST", "", nil, 1},
		"PATCH":                          {"PATCH", "", nil, 1},
		"CONNECT":                        {"CONNECT", "", nil, 1},
		"an invention":                   {"FETCH", "", nil, 1},
		"POST with Idempotency-Key":      {"POST", "Idempotency-Key", nil, 3},
		"PATCH with X-Idempotency-Key":   {"PATCH", "X-Idempotency-Key", nil, 3},
		"PUT with a reset connection":    {"PUT", "", reset, 3},
		"POST with a reset connection":   {"POST", "", reset, 1},
		"POST that was not even dialled": {"POST", "", refused, 3},
		"POST with a key and a reset":    {"POST", "Idempotency-Key", reset, 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{statuses: []int{503}, err: c.err}
			if c.err != nil {
				s.statuses = []int{0}
			}
			req := httpRequest(t, c.method, "x")
			req.Method = c.method
			if c.key != "" {
				req.Header.Set(c.key, "k")
			}
			resp, err := quick.Transport(s).RoundTrip(req)
			if len(s.requests) != c.want {
				t.Errorf("attempts = %d, want %d", len(s.requests), c.want)
			}
			if c.err == nil {
				wantReturned(t, s, resp, err, 503)
				return
			}
			if c.want == 1 && !same(err, c.err) || c.want > 1 && wantError(t, err, c.want, c.err).Reason != retry.ErrExhausted {
				t.Errorf("RoundTrip() = %v, want %v", err, c.err)
			}
		})
	}
	t.Run("an empty key is none", func(t *testing.T) {
		s := &server{statuses: []int{503}}
		req := httpRequest(t, http.MethodPost, "x")
		req.Header.Set("Idempotency-Key", "")
		resp, err := quick.Transport(s).RoundTrip(req)
		wantReturned(t, s, resp, err, 503)
		if len(s.requests) != 1 {
			t.Errorf("attempts = %d, want 1", len(s.requests))
		}
	})
}

func TestErrorsThatNoRetryHelpsAreReturnedAsTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		policy retry.Policy
		want   int
	}{
		"an open breaker":                   {rejection{}, quick, 1},
		"an open breaker, asked for":        {rejection{}, retry.Policy{Backoff: retry.Constant(0), RetryRejected: true}, 3},
		"a certificate":                     {&tls.CertificateVerificationError{Err: errBoom}, quick, 1},
		"a certificate, asked for":          {&tls.CertificateVerificationError{Err: errBoom}, retry.Policy{Backoff: retry.Constant(0), Retryable: func(error) bool { return true }}, 3},
		"a mark of a transport in between":  {retry.Permanent(errBoom), quick, 1},
		"what a transport below gave up on": {&retry.Error{Reason: retry.ErrExhausted, Last: errBoom}, quick, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{statuses: []int{0}, err: c.err}
			_, err := c.policy.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
			if !errors.Is(err, c.err) || len(s.requests) != c.want || c.want == 1 && !same(err, c.err) {
				t.Errorf("RoundTrip() = %v after %d attempts, want %v after %d", err, len(s.requests), c.err, c.want)
			}
		})
	}
}

func TestEveryAttemptSendsTheSameBody(t *testing.T) {
	const payload = "one book, please"
	s := &server{statuses: []int{503, 503, 200}}
	req := httpRequest(t, http.MethodPut, payload)
	resp, err := quick.Transport(s).RoundTrip(req)
	wantReturned(t, s, resp, err, 200)
	for i, got := range s.received {
		if got != payload || s.requests[i].ContentLength != int64(len(payload)) {
			t.Errorf("attempt %d sent %q with length %d, want %q", i+1, got, s.requests[i].ContentLength, payload)
		}
	}
	if s.requests[0] != req {
		t.Error("the first attempt did not send the request itself")
	}
	for i, r := range s.requests {
		if got := retry.AttemptNumber(r.Context()); got != i+1 {
			t.Errorf("attempt %d carries number %d", i+1, got)
		}
	}
}

func TestABodyThatCannotBeReplayedIsSentOnce(t *testing.T) {
	s := &server{statuses: []int{503}}
	req := httpRequest(t, http.MethodPut, "x")
	own := text("x")
	req.Body, req.GetBody = own, nil
	resp, err := quick.Transport(s).RoundTrip(req)
	wantReturned(t, s, resp, err, 503)
	if len(s.requests) != 1 || own.closes.Load() != 1 {
		t.Errorf("attempts = %d, closes = %d, want 1, 1", len(s.requests), own.closes.Load())
	}
}

func TestWhenGetBodyFailsTheLastOutcomeIsReturned(t *testing.T) {
	for _, status := range []int{503, 0} {
		s := &server{statuses: []int{status}, err: io.ErrUnexpectedEOF}
		req := httpRequest(t, http.MethodPut, "x")
		req.GetBody = func() (io.ReadCloser, error) { return nil, errBoom }
		resp, err := quick.Transport(s).RoundTrip(req)
		if len(s.requests) != 1 {
			t.Errorf("attempts = %d, want 1", len(s.requests))
		}
		if status == 503 {
			wantReturned(t, s, resp, err, 503)
		} else if !errors.Is(err, errBoom) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("RoundTrip() = %v, want both errors", err)
		}
	}
}

func TestTheCallersRequestIsUnchangedAndItsBodyClosedOnce(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		policy   retry.Policy
		statuses []int
		ctx      context.Context
		sent     int
	}{
		"first attempt succeeds": {quick, []int{200}, t.Context(), 1},
		"attempts exhausted":     {quick, []int{503}, t.Context(), 3},
		"transport fails":        {quick, []int{0}, t.Context(), 3},
		"with AttemptTimeout":    {retry.Policy{Backoff: retry.Constant(0), AttemptTimeout: time.Hour}, []int{503, 0, 200}, t.Context(), 3},
		"context ended before":   {quick, []int{200}, ended, 0},
		"faulty policy":          {retry.Policy{MaxAttempts: -1}, []int{200}, t.Context(), 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{statuses: c.statuses, err: errBoom}
			req := httpRequest(t, http.MethodPut, "x").WithContext(c.ctx)
			req.Header.Set("X-Own", "1")
			own := text("x")
			req.Body = own
			var copies []*spy
			req.GetBody = func() (io.ReadCloser, error) {
				copies = append(copies, text("x"))
				return copies[len(copies)-1], nil
			}
			getBody := reflect.ValueOf(req.GetBody).Pointer()
			before, header := *req, req.Header.Clone()
			_, _ = c.policy.Transport(s).RoundTrip(req)
			if reflect.ValueOf(req.GetBody).Pointer() != getBody {
				t.Error("GetBody was replaced")
			}
			after := *req
			before.GetBody, after.GetBody = nil, nil // functions never compare as equal
			if !reflect.DeepEqual(before, after) || !reflect.DeepEqual(header, req.Header) {
				t.Errorf("the request became %+v, was %+v", after, before)
			}
			if own.closes.Load() != 1 || len(s.requests) != c.sent {
				t.Errorf("body closed %d times, %d attempts, want once, %d", own.closes.Load(), len(s.requests), c.sent)
			}
			for i, b := range copies {
				if b.closes.Load() != 1 {
					t.Errorf("copy %d of the body was closed %d times, want once", i+1, b.closes.Load())
				}
			}
		})
	}
}

func TestRetryAfterHeader(t *testing.T) {
	// The bubble's clock starts at midnight UTC 2000-01-01, a Saturday.
	for value, c := range map[string]struct {
		asked    time.Duration // the backoff's millisecond comes on top
		attempts int
	}{
		"5":                                {5 * time.Second, 2},
		" 5 ":                              {5 * time.Second, 2},
		"60":                               {time.Minute, 2},
		"0":                                {0, 2},
		"-5":                               {0, 2},
		"soon":                             {0, 2},
		"1.5":                              {0, 2},
		"Sat, 01 Jan 2000 00:00:30 GMT":    {30 * time.Second, 2},
		"Saturday, 01-Jan-00 00:00:30 GMT": {30 * time.Second, 2},
		"Sat Jan  1 00:00:30 2000":         {30 * time.Second, 2},
		"Fri, 31 Dec 1999 00:00:00 GMT":    {0, 2},
		"61":                               {0, 1}, // beyond MaxRetryAfter: the response is returned at once
		"9223372037":                       {0, 1},
		"99999999999999999999999":          {0, 1},
		"Sat, 01 Jan 2000 00:01:01 GMT":    {0, 1},
		"Fri, 31 Dec 9999 23:59:59 GMT":    {0, 1},
	} {
		t.Run(value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{statuses: []int{429, 200}, header: http.Header{"Retry-After": {value}}}
				p := retry.Policy{Backoff: constant(time.Millisecond)}
				var resp *http.Response
				var err error
				took := elapsed(func() { resp, err = p.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, "")) })
				wantReturned(t, s, resp, err, s.statuses[c.attempts-1])
				want := c.asked
				if c.attempts > 1 {
					want += time.Millisecond
				}
				if took != want || len(s.requests) != c.attempts {
					t.Errorf("%d attempts in %v, want %d in %v", len(s.requests), took, c.attempts, want)
				}
			})
		})
	}
}

func TestRetryAfterBeyondTheDeadlineReturnsTheResponseAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{statuses: []int{429, 200}, header: http.Header{"Retry-After": {"10"}}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var resp *http.Response
		var err error
		took := elapsed(func() {
			resp, err = retry.Policy{}.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, "").WithContext(ctx))
		})
		if wantReturned(t, s, resp, err, 429); took != 0 {
			t.Errorf("RoundTrip() took %v, want no time", took)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"1", " 120", "9223372037", "-1", "Sat, 01 Jan 2000 00:00:30 GMT"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		synctest.Test(t, func(t *testing.T) {
			s := &server{statuses: []int{503, 200}, header: http.Header{"Retry-After": {value}}}
			var err error
			took := elapsed(func() { _, err = quick.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, "")) })
			if err != nil || took < 0 || took > time.Minute {
				t.Errorf("Retry-After %q: error %v after %v, want none within MaxRetryAfter", value, err, took)
			}
		})
	})
}

func TestWhenTheContextEndsInTheWaitTheErrorKeepsTheResponsesStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{statuses: []int{503}}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errShutdown) })
		req := httpRequest(t, http.MethodPut, "x").WithContext(ctx)
		copied := text("x")
		req.GetBody = func() (io.ReadCloser, error) { return copied, nil }
		resp, err := retry.Policy{Backoff: constant(time.Minute)}.Transport(s).RoundTrip(req)
		wantError(t, err, 1, retry.ErrCanceled, errShutdown)
		e, ok := errors.AsType[*retry.StatusError](err)
		if resp != nil || !ok || e.Error() != "retry: response status 503 Service Unavailable" {
			t.Errorf("RoundTrip() = %v, %v, want nil and the status", resp, err)
		}
		if s.bodies[0].closes.Load() != 1 || copied.closes.Load() != 1 {
			t.Errorf("response closed %d times, next body %d times, want once each", s.bodies[0].closes.Load(), copied.closes.Load())
		}
	})
}

func TestWhenTheContextEndsDuringAnAttemptItsResponseIsReturned(t *testing.T) {
	s := &server{statuses: []int{503}}
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := quick.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
		cancel()
		return s.RoundTrip(req)
	})).RoundTrip(httpRequest(t, http.MethodGet, "").WithContext(ctx))
	wantReturned(t, s, resp, err, 503)
}

func TestHooksMayReadTheBodyBeforeItIsDiscarded(t *testing.T) {
	var seen []string
	p := quick
	p.OnRetry = func(_ context.Context, a retry.Attempt) {
		e, _ := errors.AsType[*retry.StatusError](a.Err)
		b, _ := io.ReadAll(e.Response.Body)
		seen = append(seen, string(b))
	}
	s := &server{statuses: []int{503}}
	resp, err := p.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
	wantReturned(t, s, resp, err, 503)
	if fmt.Sprint(seen) != "[answer 1 answer 2]" {
		t.Errorf("the hook read %v, want the bodies of both discarded responses", seen)
	}
}

func TestAPanicInAHookClosesTheResponse(t *testing.T) {
	s := &server{statuses: []int{503}}
	p := quick
	p.OnRetry = func(context.Context, retry.Attempt) { panic("boom") }
	defer func() {
		if v := recover(); v != "boom" || s.bodies[0].closes.Load() != 1 {
			t.Errorf("recover() = %v, body closed %d times, want boom, once", v, s.bodies[0].closes.Load())
		}
	}()
	_, _ = p.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
}

func TestOnDoneReportsWhatTheResponseWas(t *testing.T) {
	var results []retry.Result
	p := quick
	p.OnDone = func(_ context.Context, r retry.Result) { r.Elapsed = 0; results = append(results, r) }
	for _, statuses := range [][]int{{200}, {503, 200}, {503}} {
		_, _ = p.Transport(&server{statuses: statuses}).RoundTrip(httpRequest(t, http.MethodGet, ""))
	}
	_, _ = p.Transport(&server{statuses: []int{503}}).RoundTrip(httpRequest(t, http.MethodPost, ""))
	want := "[{ 1 0s retry:  <nil>} { 2 0s retry:  <nil>} { 3 0s retry: attempts exhausted retry: response status 503 Service Unavailable} { 1 0s retry: not retryable retry: response status 503 Service Unavailable}]"
	if got := fmt.Sprint(results); got != want {
		t.Errorf("OnDone saw %v\n          want %v", got, want)
	}
}

// endless never stops; stuck never starts, until it is closed.
type endless struct{ read, closes int }

func (e *endless) Read(p []byte) (int, error) { e.read += len(p); return len(p), nil }
func (e *endless) Close() error               { e.closes++; return nil }

type stuck struct {
	closed    chan struct{}
	closes    atomic.Int32
	closeTime time.Duration
}

func (s *stuck) Read([]byte) (int, error) { <-s.closed; return 0, net.ErrClosed }
func (s *stuck) Close() error {
	s.closes.Add(1)
	close(s.closed)
	time.Sleep(s.closeTime)
	return nil
}

func TestADiscardedResponseIsDrainedWithinBounds(t *testing.T) {
	twice := func(t *testing.T, first io.ReadCloser, length int64) time.Duration {
		n := 0
		rt := quick.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return &http.Response{StatusCode: 503, Body: first, ContentLength: length}, nil
			}
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}))
		return elapsed(func() {
			if resp, err := rt.RoundTrip(httpRequest(t, http.MethodGet, "")); err != nil || resp.StatusCode != 200 {
				t.Errorf("RoundTrip() = %v, %v, want 200", resp, err)
			}
		})
	}
	t.Run("64 KiB of an endless one", func(t *testing.T) {
		b := &endless{}
		if twice(t, b, -1); b.read != 64<<10 || b.closes != 1 {
			t.Errorf("read %d bytes, closed %d times, want 65536, once", b.read, b.closes)
		}
	})
	t.Run("nothing of one that says it is long", func(t *testing.T) {
		b := &endless{}
		if twice(t, b, 1<<30); b.read != 0 || b.closes != 1 {
			t.Errorf("read %d bytes, closed %d times, want 0, once", b.read, b.closes)
		}
	})
	t.Run("50 ms of a slow one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &stuck{closed: make(chan struct{})}
			if took := twice(t, b, -1); took != 50*time.Millisecond || b.closes.Load() != 1 {
				t.Errorf("took %v, closed %d times, want 50ms, once", took, b.closes.Load())
			}
		})
	})
	t.Run("and not before it is closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &stuck{closed: make(chan struct{}), closeTime: time.Millisecond}
			if took := twice(t, b, -1); took != 51*time.Millisecond {
				t.Errorf("took %v, want 50ms and what Close takes", took)
			}
		})
	})
	t.Run("none where a RoundTripper forgot it", func(t *testing.T) { twice(t, nil, -1) })
}

// perHost sends requests for one host through rt and returns how many arrived.
func perHost(t *testing.T, p retry.Policy) func(host string, requests int) int {
	arrived := 0
	rt := p.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { arrived++; return stub(503).RoundTrip(r) }))
	return func(host string, requests int) int {
		arrived = 0
		for range requests {
			req := httpRequest(t, http.MethodGet, "")
			req.URL.Host = host
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		}
		return arrived
	}
}

func TestEachHostHasABudgetOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		send := perHost(t, quick)
		if got := send("a", 1000); got < 1299 || got > 1300 {
			t.Errorf("1,000 requests arrived %d times, want the burst of 100 and a fifth more", got)
		}
		if got := send("b", 10); got != 30 {
			t.Errorf("10 requests to another host arrived %d times, want 30: its budget is full", got)
		}
	})
}

func TestHostsBeyondTheBoundShareOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		send := perHost(t, quick)
		for i := range 1024 {
			if got := send(fmt.Sprint("known-", i), 1); got != 3 {
				t.Fatalf("a request to host %d arrived %d times, want 3", i, got)
			}
		}
		for i := range 200 {
			send(fmt.Sprint("stranger-", i), 1)
		}
		if got := send("stranger-new", 1); got > 2 {
			t.Errorf("a request to a new stranger arrived %d times: strangers share one budget, which is spent", got)
		}
		if got := send("known-0", 1); got != 3 {
			t.Errorf("a request to a known host arrived %d times, want 3", got)
		}
	})
}

func TestConcurrentFirstRequestsToAHostShareItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var arrived atomic.Int64
		rt := quick.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { arrived.Add(1); return stub(503).RoundTrip(r) }))
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() { _, _ = rt.RoundTrip(httpRequest(t, http.MethodGet, "")) })
		}
		wg.Wait()
		if got := arrived.Load(); got > 500+100+100 {
			t.Errorf("500 requests arrived %d times, want at most the burst of 100 and a fifth more", got)
		}
	})
}

func TestAPolicysOwnBudgetCoversAllHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := quick
		p.Budget = mustBudget(t, retry.BudgetConfig{RetryRate: 1e-9, Burst: 2})
		send := perHost(t, p)
		if got := send("a", 1) + send("b", 1) + send("c", 1); got != 5 {
			t.Errorf("3 requests arrived %d times, want 5: the budget had 2 retries for all", got)
		}
	})
}

func TestForeverIsBoundedByTheHostsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{statuses: []int{503}}
		resp, err := retry.Policy{Forever: true, Backoff: retry.Constant(0)}.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
		wantReturned(t, s, resp, err, 503)
		if len(s.requests) != 101 {
			t.Errorf("attempts = %d, want 1 and the burst of 100", len(s.requests))
		}
	})
}

type idler struct {
	http.RoundTripper
	closed int
}

func (i *idler) CloseIdleConnections() { i.closed++ }

func TestIdleConnectionsAreClosedOnlyByTheClient(t *testing.T) {
	next := &idler{RoundTripper: stub(503)}
	client := &http.Client{Transport: quick.Transport(next)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 {
		resp, err := client.Do(httpRequest(t, http.MethodGet, "").WithContext(ctx))
		if err == nil {
			resp.Body.Close()
		}
		cancel()
	}
	if next.closed != 0 {
		t.Errorf("idle connections were closed %d times by requests", next.closed)
	}
	client.CloseIdleConnections()
	if next.closed != 1 {
		t.Errorf("idle connections were closed %d times by the client, want once", next.closed)
	}
	(&http.Client{Transport: quick.Transport(stub(200))}).CloseIdleConnections() // below nobody can
}

func TestARequestWithoutURLIsLeftToTheTransportBelow(t *testing.T) {
	resp, err := quick.Transport(stub(200)).RoundTrip((&http.Request{}).WithContext(t.Context()))
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("RoundTrip() = %v, %v, want the answer of the transport below", resp, err)
	}
}

func TestContextsOfFailedAttemptsAreReleased(t *testing.T) {
	s := &server{statuses: []int{503, 0}, err: errBoom}
	_, err := retry.Policy{Backoff: retry.Constant(0), AttemptTimeout: time.Hour}.Transport(s).RoundTrip(httpRequest(t, http.MethodGet, ""))
	wantError(t, err, 3, retry.ErrExhausted, errBoom)
	for i, req := range s.requests {
		if req.Context().Err() == nil {
			t.Errorf("the context of attempt %d is left", i+1)
		}
	}
}

func TestContextsOfRequestsAreReleased(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rt := retry.Policy{Backoff: retry.Constant(0), AttemptTimeout: time.Hour}.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(nil)), ContentLength: -1}, nil
	}))
	send := func(n int) (alive uint64) {
		for i := range n {
			resp, err := rt.RoundTrip(httpRequest(t, http.MethodGet, "").WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				resp.Body.Close()
			} else {
				_, _ = io.ReadAll(resp.Body)
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := send(100)
	if after := send(20_000); int64(after)-int64(before) > 1<<20 {
		t.Errorf("live memory grew from %d to %d bytes over 20,000 requests on one context", before, after)
	}
}
