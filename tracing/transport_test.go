package tracing_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/internal/memhttp"
	"github.com/parley-go/parley/retry"
	"github.com/parley-go/parley/tracing"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is a response without a body.
func answer(status int) *http.Response {
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody, Header: http.Header{}}
}

func request(ctx context.Context, url string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	return r
}

// exchange sends one request through a Transport over next.
func trip(t testing.TB, cfg tracing.Config, next roundTrip, r *http.Request) (*recorder, *http.Response, error) {
	t.Helper()
	rec := &recorder{}
	cfg.Provider = rec
	resp, err := mustNew(t, cfg).Transport(next).RoundTrip(r)
	return rec, resp, err
}

func ok(*http.Request) (*http.Response, error) { return answer(200), nil }

func TestClientSpanIsDescribedByTheConventions(t *testing.T) {
	for _, tt := range []struct {
		url    string
		status int
		want   map[attribute.Key]any
		code   codes.Code
	}{
		{"http://h.example/a?b=1#frag", 200, map[attribute.Key]any{
			"http.request.method": "GET", "url.full": "http://h.example/a?b=1", "server.address": "h.example", "server.port": int64(80),
			"http.response.status_code": int64(200), "network.protocol.version": "1.1", "error.type": nil, "http.request.resend_count": nil,
		}, codes.Unset},
		{"https://user:pass@h.example:8443/", 404, map[attribute.Key]any{
			"url.full": "https://REDACTED:REDACTED@h.example:8443/", "server.port": int64(8443), "error.type": "404",
		}, codes.Error},
		{"https://h.example", 503, map[attribute.Key]any{"url.full": "https://h.example", "server.port": int64(443), "error.type": "503"}, codes.Error},
		{"http:///x", 302, map[attribute.Key]any{"server.address": nil, "server.port": nil}, codes.Unset},
		{"unix://socket/x", 302, map[attribute.Key]any{"server.port": nil}, codes.Unset},
	} {
		rec, _, err := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) { return answer(tt.status), nil }, request(t.Context(), tt.url))
		if err != nil {
			t.Fatal(err)
		}
		s := rec.only(t)
		s.expect(t, tt.want)
		if s.name != "GET" || s.kind != trace.SpanKindClient || s.status != tt.code {
			t.Errorf("%s: name, kind, status = %q, %v, %v, want GET, client, %v", tt.url, s.name, s.kind, s.status, tt.code)
		}
	}
}

func TestCredentialsOfSignedURLsAreNotOnASpan(t *testing.T) {
	for _, name := range []string{
		"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature",
		"X-Goog-Credential", "GoogleAccessId", "Policy", "Key-Pair-Id", "access_token",
		"x-amz-signature", "X%2DAmz%2DSignature", "s%69g", "own_token",
	} {
		for _, query := range []string{name + "=SECRET", "a=1&" + name + "=SECRET&b=2", "a=1;" + name + "=SECRET", name + "=SECRET&" + name + "=SECRET", strings.Repeat("x", 1010) + "=1&" + name + "=SECRET"} {
			cfg := tracing.Config{RedactQuery: []string{"own_token"}}
			rec, _, _ := trip(t, cfg, ok, request(t.Context(), "http://user:SECRET@h/?"+query))
			if full := rec.only(t).attrs["url.full"].(string); strings.Contains(full, "SECRET") {
				t.Errorf("url.full = %q, which shows the secret", full)
			}
		}
	}
	rec, _, _ := trip(t, tracing.Config{}, ok, request(t.Context(), "http://h/?a=1&sig=SECRET&b=2&sig"))
	if full := rec.only(t).attrs["url.full"]; full != "http://h/?a=1&sig=REDACTED&b=2&sig" {
		t.Errorf("url.full = %q, want all but the secret", full)
	}
}

func TestOpaqueURLIsShownAsItIs(t *testing.T) {
	r := request(t.Context(), "http://h/")
	r.URL.Opaque = "//h/a%2Fb"
	rec, _, _ := trip(t, tracing.Config{}, ok, r)
	rec.only(t).expect(t, map[attribute.Key]any{"url.full": "http://h/a%2Fb"})
}

func TestCredentialsOfAnOpaqueURLAreNotOnASpan(t *testing.T) {
	for opaque, want := range map[string]string{
		"//user:SECRET@h/p@th":           "http://REDACTED:REDACTED@h/p@th",
		"//user:SEC@RET@h":               "http://REDACTED:REDACTED@h",
		"//h/a%2Fb?sig=SECRET&b=1":       "http://h/a%2Fb?sig=REDACTED&b=1",
		"//user:SECRET@h/?Policy=SECRET": "http://REDACTED:REDACTED@h/?Policy=REDACTED",
	} {
		r := request(t.Context(), "http://h/")
		r.URL.Opaque = opaque
		rec, _, _ := trip(t, tracing.Config{}, ok, r)
		if got := rec.only(t).attrs["url.full"]; got != want {
			t.Errorf("url.full of %q = %q, want %q", opaque, got, want)
		}
	}
}

func TestCredentialsOfURLsWithinErrorsAreNotOnASpan(t *testing.T) {
	boom := errors.New("boom")
	inner := &url.Error{Op: "Get", URL: "https://x/?X-Amz-Signature=SECRET", Err: boom}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"in one":              {inner, "boom"},
		"in one in another":   {&url.Error{Op: "Post", URL: "https://y/", Err: fmt.Errorf("token: %w", inner)}, "boom"},
		"in two side by side": {errors.Join(inner, inner), "boom"},
		"in one with no more": {&url.Error{Op: "Get", URL: "https://x/?sig=SECRET"}, "Get"},
	} {
		rec, _, _ := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) { return nil, c.err }, request(t.Context(), "http://h/"))
		if got := rec.only(t).description; got != c.want {
			t.Errorf("%s: description = %q, want %q", name, got, c.want)
		}
	}
}

func TestEachAttemptHasASpanBesideTheOthersWithItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		tracer := mustNew(t, tracing.Config{Provider: rec})
		var sent []string
		next := roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("traceparent"))
			return answer(503), nil
		})
		policy := retry.Policy{MaxAttempts: 3}
		ctx, parent := rec.Tracer("").Start(t.Context(), "parent")
		if _, err := policy.Transport(tracer.Transport(next)).RoundTrip(request(ctx, "http://h/")); err != nil {
			t.Fatal(err)
		}
		parent.End()
		spans := rec.all(t)[1:]
		if len(spans) != 3 {
			t.Fatalf("%d client spans, want 3", len(spans))
		}
		for i, want := range []any{nil, int64(1), int64(2)} {
			s := spans[i]
			s.expect(t, map[attribute.Key]any{"http.request.resend_count": want})
			if s.parent.SpanID() != parent.SpanContext().SpanID() {
				t.Errorf("attempt %d has parent %v, want the caller's span", i+1, s.parent.SpanID())
			}
			if header := fmt.Sprintf("00-%v-%v-03", s.sc.TraceID(), s.sc.SpanID()); sent[i] != header {
				t.Errorf("attempt %d sent %q, want %q", i+1, sent[i], header)
			}
		}
	})
}

func TestTransportErrorsAreOfFewTypes(t *testing.T) {
	_, refused := net.Dial("tcp", closedAddress(t))
	for _, tt := range []struct {
		err  error
		want string
	}{
		{refused, "connection_refused"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, "connection_reset"},
		{syscall.EPIPE, "connection_reset"},
		{io.EOF, "unexpected_eof"},
		{io.ErrUnexpectedEOF, "unexpected_eof"},
		{&net.DNSError{Name: "h", IsNotFound: true}, "dns"},
		{&net.DNSError{Name: "h", IsTimeout: true}, "timeout"},
		{&tls.CertificateVerificationError{Err: errors.New("x")}, "tls"},
		{tls.RecordHeaderError{Msg: "x"}, "tls"},
		{tls.AlertError(40), "tls"},
		{context.DeadlineExceeded, "timeout"},
		{context.Canceled, "canceled"},
		{rejection{}, "rejected"},
		{errors.New("anything 42"), "_OTHER"},
	} {
		rec, _, err := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) { return nil, tt.err }, request(t.Context(), "http://h/"))
		if !errors.Is(err, tt.err) {
			t.Errorf("RoundTrip() = %v, want %v as it is", err, tt.err)
		}
		s := rec.only(t)
		s.expect(t, map[attribute.Key]any{"error.type": tt.want})
		if s.status != codes.Error || s.description != tt.err.Error() {
			t.Errorf("status, description = %v, %q, want an error with the text of %v", s.status, s.description, tt.err)
		}
	}
}

type rejection struct{}

func (rejection) Error() string  { return "breaker: open" }
func (rejection) Rejected() bool { return true }

func closedAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestErrorTextShowsNoURLAndIsBounded(t *testing.T) {
	_, err := http.Get("http://" + closedAddress(t) + "/?sig=SECRET")
	rec, _, _ := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) { return nil, err }, request(t.Context(), "http://h/"))
	if s := rec.only(t); strings.Contains(s.description, "SECRET") {
		t.Errorf("description = %q, which shows the secret", s.description)
	}
	long := errors.New(strings.Repeat("é", 1000))
	rec, _, _ = trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) { return nil, long }, request(t.Context(), "http://h/"))
	if s := rec.only(t); len(s.description) > 256 || !strings.HasSuffix(s.description, "é") {
		t.Errorf("description has %d bytes and ends in %q, want at most 256 in whole characters", len(s.description), s.description[len(s.description)-2:])
	}
}

func TestCallersCancellationIsNoErrorAndAPassedDeadlineIs(t *testing.T) {
	for _, tt := range []struct {
		does   string
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		status codes.Code
		kind   any
	}{
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, codes.Unset, nil},
		{"cancelled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(errors.New("lost the race")) })
			return ctx, func() { cancel(nil) }
		}, codes.Unset, nil},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, codes.Error, "timeout"},
		{"deadline with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, errors.New("attempt took too long"))
		}, codes.Error, "timeout"},
	} {
		for _, phase := range []string{"before the answer", "in the body", "after the body was forgotten"} {
			t.Run(tt.does+" "+phase, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if phase != "before the answer" {
							io.WriteString(w, "begin")
							w.(http.Flusher).Flush()
						}
						<-r.Context().Done()
					}))
					rec := &recorder{}
					ctx, cancel := tt.ctx(t.Context())
					defer cancel()
					resp, err := mustNew(t, tracing.Config{Provider: rec}).Transport(server.Transport).RoundTrip(request(ctx, "http://h/"))
					switch {
					case phase == "before the answer":
						if err == nil {
							t.Error("RoundTrip() = nil, want the context's error")
						}
					case err != nil:
						t.Fatal(err)
					case phase == "in the body":
						if _, err := io.ReadAll(resp.Body); err == nil {
							t.Error("ReadAll() = nil, want the context's error")
						}
					default:
						<-ctx.Done()
						synctest.Wait()
						defer resp.Body.Close()
					}
					synctest.Wait() // whoever saw the end of the context first is ending the span
					s := rec.only(t)
					s.expect(t, map[attribute.Key]any{"error.type": tt.kind})
					if s.status != tt.status {
						t.Errorf("status = %v (%s), want %v", s.status, s.description, tt.status)
					}
				})
			})
		}
	}
}

func TestSpanEndsWithTheBody(t *testing.T) {
	for _, tt := range []struct {
		does string
		use  func(io.ReadCloser)
	}{
		{"at its end", func(b io.ReadCloser) { io.ReadAll(b) }},
		{"when it is closed", func(b io.ReadCloser) { b.Close() }},
		{"once", func(b io.ReadCloser) { io.ReadAll(b); b.Close(); b.Close() }},
	} {
		t.Run(tt.does, func(t *testing.T) {
			rec, resp, _ := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) {
				r := answer(200)
				r.Body = io.NopCloser(strings.NewReader("body"))
				return r, nil
			}, request(t.Context(), "http://h/"))
			if ends := rec.spans[0].ends; ends != 0 {
				t.Errorf("the span ended %d times before the body did", ends)
			}
			tt.use(resp.Body)
			rec.only(t)
		})
	}
}

func TestAThousandBodiesThatNobodyReadsLeaveNoSpanOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		tr := mustNew(t, tracing.Config{Provider: rec}).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			r := answer(200)
			r.Body = io.NopCloser(strings.NewReader("body"))
			return r, nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			if _, err := tr.RoundTrip(request(ctx, "http://h/")); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		synctest.Wait()
		if n := len(rec.all(t)); n != 1000 {
			t.Errorf("%d spans, want 1000", n)
		}
	})
}

func TestBodyErrorIsOnTheSpan(t *testing.T) {
	rec, resp, _ := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) {
		r := answer(200)
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), failing{}))
		return r, nil
	}, request(t.Context(), "http://h/"))
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAll() = %v, want the body's error", err)
	}
	rec.only(t).expect(t, map[attribute.Key]any{"error.type": "unexpected_eof"})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestSwitchedConnectionStaysWritable(t *testing.T) {
	conn := struct {
		io.Reader
		io.Writer
		io.Closer
	}{strings.NewReader(""), &bytes.Buffer{}, io.NopCloser(nil)}
	rec, resp, _ := trip(t, tracing.Config{}, func(*http.Request) (*http.Response, error) {
		r := answer(http.StatusSwitchingProtocols)
		r.Body = conn
		return r, nil
	}, request(t.Context(), "http://h/"))
	if _, ok := resp.Body.(io.Writer); !ok {
		t.Error("the body of a 101 is no io.Writer any more")
	}
	rec.only(t).expect(t, map[attribute.Key]any{"http.response.status_code": int64(101), "error.type": nil})
}

func TestBaggageGoesToListedHostsOnly(t *testing.T) {
	member, err := baggage.NewMemberRaw("k", "v")
	if err != nil {
		t.Fatal(err)
	}
	bag, _ := baggage.New(member)
	ctx := baggage.ContextWithBaggage(t.Context(), bag)
	cfg := tracing.Config{BaggageHosts: []string{"Exact.example", "*.svc.local", "10.0.0.1", "::1"}}
	for _, passive := range []bool{false, true} {
		for host, want := range map[string]string{
			"exact.example": "k=v", "EXACT.example:8080": "k=v", "exact.example.": "k=v", "a.b.svc.local": "k=v", "10.0.0.1": "k=v", "[::1]:80": "k=v",
			"other.example": "", "sub.exact.example": "", "svc.local": "", "evilsvc.local": "", "10.0.0.11": "",
		} {
			if !passive {
				cfg.Provider = &recorder{}
			} else {
				cfg.Provider = nil
			}
			var sent http.Header
			tr := mustNew(t, cfg).Transport(roundTrip(func(r *http.Request) (*http.Response, error) { sent = r.Header; return answer(200), nil }))
			r := request(ctx, "http://"+host+"/")
			r.Header.Set("baggage", "copied=by a proxy")
			if _, err := tr.RoundTrip(r); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(sent.Values("baggage"), " | "); got != want {
				t.Errorf("baggage for %s = %q, want %q", host, got, want)
			}
		}
	}
}

func TestTraceContextGoesToListedHostsOnlyWhereThereIsAList(t *testing.T) {
	for _, passive := range []bool{false, true} {
		for host, want := range map[string]bool{"ours.example": true, "theirs.example": false} {
			rec := &recorder{}
			cfg := tracing.Config{TraceHosts: []string{"Ours.example"}}
			if !passive {
				cfg.Provider = rec
			}
			tracer := mustNew(t, cfg)
			var sent http.Header
			tr := tracer.Transport(tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { sent = r.Header; return answer(200), nil })))
			ctx := tracing.Propagator{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": w3cParent + "-01", "tracestate": "a=1"})
			r := request(ctx, "http://"+host+"/")
			r.Header.Set("traceparent", w3cParent+"-01") // copied by a proxy
			r.Header.Set("tracestate", "a=1")
			if _, err := tr.RoundTrip(r); err != nil {
				t.Fatal(err)
			}
			if got := sent.Get("traceparent") != "" && sent.Get("tracestate") != ""; got != want || !want && len(sent) != 0 {
				t.Errorf("%s is sent %v, want the trace context: %v", host, sent, want)
			}
			if n := len(rec.all(t)); !passive && n != 1 {
				t.Errorf("%d spans of a request to %s, want 1", n, host)
			}
		}
	}
}

func TestHeadersInAnyCaseBelongToTheTransport(t *testing.T) {
	r := request(t.Context(), "http://h/")
	r.Header = http.Header{"traceparent": {w3cParent + "-01"}, "TRACESTATE": {"a=1"}, "baggage": {"k=v"}, "X-Other": {"1"}}
	var sent http.Header
	rec, _, _ := trip(t, tracing.Config{}, func(r *http.Request) (*http.Response, error) { sent = r.Header; return answer(200), nil }, r)
	if got := sent.Get("Traceparent"); len(sent) != 2 || !strings.Contains(got, rec.only(t).sc.SpanID().String()) || sent.Get("X-Other") != "1" {
		t.Errorf("sent %v, want the traceparent of the span, once, and the other header", sent)
	}
	if len(r.Header) != 4 {
		t.Errorf("the caller's headers are %v, want all four", r.Header)
	}
}

func TestTransportChangesNothingOfTheCallersRequest(t *testing.T) {
	r := request(t.Context(), "http://h/")
	r.Header.Set("traceparent", "mine")
	before := r.Header.Clone()
	var sent *http.Request
	if _, _, err := trip(t, tracing.Config{}, func(r *http.Request) (*http.Response, error) { sent = r; return answer(200), nil }, r); err != nil {
		t.Fatal(err)
	}
	if sent == r || fmt.Sprint(r.Header) != fmt.Sprint(before) || sent.Header.Get("traceparent") == "mine" {
		t.Errorf("caller's header, sent header = %v, %v, want %v and one with a context", r.Header, sent.Header, before)
	}
	r.Header = nil
	if _, _, err := trip(t, tracing.Config{}, ok, r); err != nil {
		t.Errorf("RoundTrip() without a header = %v, want nil", err)
	}
}

func TestWrappingATransportTwiceMakesOneSpan(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	if _, err := tracer.Transport(tracer.Transport(roundTrip(ok))).RoundTrip(request(t.Context(), "http://h/")); err != nil {
		t.Fatal(err)
	}
	rec.only(t)
}

func TestWrappingATransportTwiceAroundACopyMakesOneSpan(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	inner := tracer.Transport(roundTrip(ok))
	copies := roundTrip(func(r *http.Request) (*http.Response, error) { return inner.RoundTrip(r.Clone(r.Context())) })
	if _, err := tracer.Transport(copies).RoundTrip(request(t.Context(), "http://h/")); err != nil {
		t.Fatal(err)
	}
	rec.only(t)
}

func TestAnotherRequestBelowATransportHasASpanAndNoBaggage(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec, BaggageHosts: []string{"api.example"}})
	var token, sent http.Header
	auth := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { token = r.Header; return answer(200), nil }))
	outer := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		req := request(r.Context(), "http://token.example/")
		req.Header.Set("Baggage", "customer=42")
		return auth.RoundTrip(req)
	}))
	ctx := withMember(t.Context(), t, "customer", "42")
	if _, err := outer.RoundTrip(request(ctx, "http://api.example/")); err != nil {
		t.Fatal(err)
	}
	spans := rec.all(t)
	if len(spans) != 2 || spans[1].parent.SpanID() != spans[0].sc.SpanID() {
		t.Fatalf("%d spans were recorded, want that of the request and below it that of the other", len(spans))
	}
	if got := token.Get("Traceparent"); !strings.Contains(got, spans[1].sc.SpanID().String()) || token.Get("Baggage") != "" {
		t.Errorf("traceparent, baggage of the other request = %q, %q, want its own span and none", got, token.Get("Baggage"))
	}
	if sent.Get("Baggage") != "customer=42" {
		t.Errorf("baggage = %q, want that of the caller at the host that is listed", sent.Get("Baggage"))
	}
}

func TestARequestThatGoesElsewhereBelowItsSpanCarriesNoBaggage(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec, BaggageHosts: []string{"api.example"}})
	var sent http.Header
	inner := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { sent = r.Header; return answer(200), nil }))
	moves := roundTrip(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.URL.Host = "elsewhere.example"
		return inner.RoundTrip(r)
	})
	if _, err := tracer.Transport(moves).RoundTrip(request(withMember(t.Context(), t, "customer", "42"), "http://api.example/")); err != nil {
		t.Fatal(err)
	}
	rec.only(t)
	if got := sent.Get("Baggage"); got != "" {
		t.Errorf("baggage = %q, want none to a host that is not listed", got)
	}
}

func TestAServiceInThisProcessHasSpansOfItsOwn(t *testing.T) {
	rec := &recorder{}
	tracer := mustNew(t, tracing.Config{Provider: rec})
	var down http.Header
	client := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { down = r.Header; return answer(200), nil }))
	call := func(t *testing.T, tr http.RoundTripper, r *http.Request) {
		t.Helper()
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	}
	service := tracer.Middleware(tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		proxied := request(r.Context(), "http://db.example/")
		proxied.Header = r.Header.Clone()
		call(t, client, proxied)
	})))
	inProcess := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		return w.Result(), nil
	}))
	edge := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		call(t, inProcess, request(r.Context(), "http://service/"))
	}))
	edge.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	var kinds []trace.SpanKind
	spans := rec.all(t)
	for i, s := range spans {
		kinds = append(kinds, s.kind)
		if i > 0 && s.parent.SpanID() != spans[i-1].sc.SpanID() {
			t.Errorf("the parent of span %d is not the one before", i)
		}
	}
	server, out := trace.SpanKindServer, trace.SpanKindClient
	if want := []trace.SpanKind{server, out, server, out}; !slices.Equal(kinds, want) {
		t.Fatalf("spans are %v, want %v", kinds, want)
	}
	if got := down.Get("Traceparent"); !strings.Contains(got, spans[3].sc.SpanID().String()) {
		t.Errorf("traceparent = %q, want that of the last span", got)
	}
}

func TestAServiceInThisProcessSeesWhatTheRequestCarries(t *testing.T) {
	for _, passive := range []bool{false, true} {
		for _, public := range []bool{false, true} {
			cfg := tracing.Config{Public: func(*http.Request) bool { return public }}
			if !passive {
				cfg.Provider = &recorder{}
			}
			tracer := mustNew(t, cfg)
			var got context.Context
			service := tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Context() })) //nolint:fatcontext // it is looked at when the request is over
			ctx := tracing.Propagator{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": w3cParent + "-01", "baggage": "k=v"})
			tr := tracer.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				service.ServeHTTP(w, r)
				return w.Result(), nil
			}))
			resp, err := tr.RoundTrip(request(ctx, "http://service/"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			// Without a provider and in its own circle, nothing tells that there was a hop.
			if b := baggage.FromContext(got); b.Len() != 0 && (!passive || public) {
				t.Errorf("without a provider %v, public %v: baggage = %v, want none: it was not sent", passive, public, b)
			}
			if is := trace.SpanContextFromContext(got).TraceID().String() == w3cTrace; is == public {
				t.Errorf("without a provider %v, public %v: the trace goes on: %v, want %v", passive, public, is, !public)
			}
		}
	}
}

func TestNeitherAResponseNorAnErrorIsForTheClientToReport(t *testing.T) {
	rec := &recorder{}
	client := &http.Client{Transport: mustNew(t, tracing.Config{Provider: rec, MeterProvider: &meter{}}).Transport(
		roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil }))}
	if _, err := client.Get("http://h/"); err == nil || !strings.Contains(err.Error(), "nil *Response") {
		t.Errorf("Get() = %v, want the error of http.Client", err)
	}
	rec.only(t)
}

func TestTransportPanicIsRecordedAndGoesOn(t *testing.T) {
	rec := &recorder{}
	tr := mustNew(t, tracing.Config{Provider: rec}).Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }))
	func() {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("recover() = %v, want boom", v)
			}
		}()
		tr.RoundTrip(request(t.Context(), "http://h/"))
	}()
	s := rec.only(t)
	s.expect(t, map[attribute.Key]any{"error.type": "panic"})
	if len(s.events) != 1 {
		t.Errorf("events = %v, want one exception", s.events)
	}
}

func TestTransportWithoutNextIsTheDefaultOne(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(nothing))
	defer server.Close()
	rec := &recorder{}
	client := &http.Client{Transport: mustNew(t, tracing.Config{Provider: rec}).Transport(nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	rec.only(t)
	if _, err := client.Transport.RoundTrip(&http.Request{}); err == nil {
		t.Error("RoundTrip() without a URL = nil, want the error of http.Transport")
	}
}
