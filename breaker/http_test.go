package breaker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/internal/memhttp"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answering returns a RoundTripper whose responses have a status and a body.
func answering(code int, body io.ReadCloser) roundTrip {
	return func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Header: http.Header{}, Body: body, Request: req}, nil
	}
}

// closing counts how often a body is closed.
type closing struct {
	io.Reader
	closed int
}

func (c *closing) Close() error { c.closed++; return nil }

func request(ctx context.Context, t testing.TB, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://inventory/stock", body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestTransportBooksResponsesByStatus(t *testing.T) {
	for code, want := range map[int]breaker.Counts{
		200: {Successes: 1}, 301: {Successes: 1}, 404: {Successes: 1}, 501: {Successes: 1},
		429: {Failures: 1}, 500: {Failures: 1}, 502: {Failures: 1}, 503: {Failures: 1}, 504: {Failures: 1},
	} {
		b := mustNew(t, breaker.Config{})
		resp, err := b.Transport(answering(code, http.NoBody)).RoundTrip(request(t.Context(), t, nil))
		if err != nil || resp.StatusCode != code {
			t.Errorf("RoundTrip() = %v, %v, want the response with status %d", resp, err, code)
		}
		if got := b.Stats().Counts; got != want {
			t.Errorf("status %d counts as %+v, want %+v", code, got, want)
		}
	}
}

func TestTransportBooksErrorsAsTheDefaultDoes(t *testing.T) {
	b := mustNew(t, breaker.Config{})
	refused := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return nil, errDown }))
	if _, err := refused.RoundTrip(request(t.Context(), t, nil)); !errors.Is(err, errDown) {
		t.Errorf("RoundTrip() = %v, want %v", err, errDown)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	leaving := b.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
		cancel(errors.New("left"))
		return nil, context.Cause(req.Context())
	}))
	_, _ = leaving.RoundTrip(request(ctx, t, nil))
	nothing := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil }))
	_, _ = nothing.RoundTrip(request(t.Context(), t, nil)) // breaks the contract, which http.Client reports
	want := breaker.Stats{Counts: breaker.Counts{Successes: 1, Failures: 1}, Failures: 1, Ignored: 1}
	if got := b.Stats(); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestTransportAsksClassifyAboutResponsesFrom400(t *testing.T) {
	var asked []int
	b := mustNew(t, breaker.Config{Classify: func(ctx context.Context, err error) breaker.Outcome {
		status, is := errors.AsType[*breaker.StatusError](err)
		if !is {
			return breaker.DefaultClassify(ctx, err)
		}
		asked = append(asked, status.Response.StatusCode)
		if status.Response.StatusCode == http.StatusTooManyRequests {
			return breaker.Ignored
		}
		return breaker.DefaultClassify(ctx, err)
	}})
	for _, code := range []int{200, 399, 400, 429, 503} {
		_, _ = b.Transport(answering(code, http.NoBody)).RoundTrip(request(t.Context(), t, nil))
	}
	if !equal(asked, []int{400, 429, 503}) {
		t.Errorf("Classify was asked about %v, want 400, 429 and 503", asked)
	}
	if got := b.Stats(); got.Ignored != 1 || got.Counts != (breaker.Counts{Successes: 3, Failures: 1}) {
		t.Errorf("Stats() = %+v, want 3 successes, 1 failure, 1 ignored", got)
	}
}

func TestTransportStaysOpenForAsLongAsRetryAfterAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, quick())
		busy := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "17")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		client := &http.Client{Transport: b.Transport(busy.Transport)}
		resp, err := client.Do(request(t.Context(), t, nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		_, err = client.Do(request(t.Context(), t, nil))
		open, is := errors.AsType[*breaker.OpenError](err)
		if !is || !errors.Is(err, breaker.ErrOpen) || open.RetryAfter() != 17*time.Second {
			t.Errorf("client.Do() = %v, want an OpenError for 17s", err)
		}
	})
}

func TestStatusErrorSaysWhat(t *testing.T) {
	e := &breaker.StatusError{Response: &http.Response{StatusCode: 503}}
	if got, want := e.Error(), "breaker: response status 503 Service Unavailable"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if got := (&breaker.StatusError{}).RetryAfter(); got != 0 {
		t.Errorf("RetryAfter() without a response = %v, want 0", got)
	}
}

func TestTransportAlwaysClosesTheRequestBody(t *testing.T) {
	open := mustNew(t, breaker.Config{})
	open.ForceOpen()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	group := mustGroup[string](t, breaker.GroupConfig{})
	for name, c := range map[string]struct {
		ctx context.Context
		rt  http.RoundTripper
	}{
		"when it rejects":                {t.Context(), open.Transport(answering(200, http.NoBody))},
		"when the context has ended":     {ended, mustNew(t, breaker.Config{}).Transport(answering(200, http.NoBody))},
		"when there is no key function":  {t.Context(), group.Transport(answering(200, http.NoBody), nil)},
		"when the key's breaker rejects": {t.Context(), groupOpen(t).Transport(nil, breaker.Host)},
	} {
		body := &closing{Reader: strings.NewReader("x")}
		resp, err := c.rt.RoundTrip(request(c.ctx, t, body))
		if err == nil || resp != nil || body.closed != 1 {
			t.Errorf("%s: RoundTrip() = %v, %v with the body closed %d times, want an error and 1", name, resp, err, body.closed)
		}
		if _, err := c.rt.RoundTrip(request(c.ctx, t, nil)); err == nil {
			t.Errorf("%s: RoundTrip() without a body = nil, want an error", name)
		}
	}
}

func groupOpen(t testing.TB) *breaker.Group[string] {
	g := mustGroup[string](t, breaker.GroupConfig{})
	g.Get("inventory").ForceOpen()
	return g
}

func TestTransportDoesNotModifyTheRequest(t *testing.T) {
	b := mustNew(t, breaker.Config{WholeBody: true})
	req := request(t.Context(), t, bytes.NewBufferString("x"))
	before := req.Clone(t.Context())
	before.Body, before.GetBody, req.GetBody = req.Body, nil, nil
	_, err := b.Transport(roundTrip(func(got *http.Request) (*http.Response, error) {
		if got != req {
			t.Errorf("another request was sent")
		}
		return answering(200, http.NoBody)(got)
	})).RoundTrip(req)
	if err != nil || !reflect.DeepEqual(req, before) {
		t.Errorf("RoundTrip() = %v and left %+v, want nil and %+v", err, req, before)
	}
}

func TestTransportCountsAPanicBelowAsFailure(t *testing.T) {
	b := mustNew(t, breaker.Config{Consecutive: 1})
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }))
	if got := panicOf(func() { _, _ = rt.RoundTrip(request(t.Context(), t, nil)) }); got != "boom" {
		t.Errorf("recover() = %v, want boom", got)
	}
	wantState(t, b, breaker.Open)
}

func TestTransportClosesAResponseThatNobodyWillGet(t *testing.T) {
	for name, c := range map[string]breaker.Config{
		"since Classify panics": {Consecutive: 1, Classify: func(context.Context, error) breaker.Outcome { panic("boom") }},
		"since OnChange panics": {Consecutive: 1, OnChange: func(breaker.Change) { panic("boom") }},
	} {
		body := &closing{Reader: strings.NewReader("x")}
		b := mustNew(t, c)
		rt := b.Transport(answering(503, body))
		if got := panicOf(func() { _, _ = rt.RoundTrip(request(t.Context(), t, nil)) }); got != "boom" {
			t.Errorf("%s: recover() = %v, want boom", name, got)
		}
		if body.closed != 1 {
			t.Errorf("%s: the response body was closed %d times, want 1", name, body.closed)
		}
		wantState(t, b, breaker.Open)
	}
}

func TestTransportOfAGroupKeepsHostsApart(t *testing.T) {
	g := mustGroup[string](t, breaker.GroupConfig{Breaker: breaker.Config{Consecutive: 1}})
	rt := g.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
		if strings.EqualFold(req.URL.Host, "bad:80") {
			return nil, errDown
		}
		return answering(200, http.NoBody)(req)
	}), breaker.Host)
	get := func(host string) error {
		_, err := rt.RoundTrip(&http.Request{URL: &url.URL{Scheme: "http", Host: host}})
		return err
	}
	if err := get("bad:80"); !errors.Is(err, errDown) {
		t.Errorf("RoundTrip(bad) = %v, want %v", err, errDown)
	}
	if err := get("BAD:80"); !errors.Is(err, breaker.ErrOpen) || !strings.Contains(err.Error(), `"bad:80"`) {
		t.Errorf("RoundTrip(BAD) = %v, want that bad:80 is open", err)
	}
	if err := get("good:80"); err != nil {
		t.Errorf("RoundTrip(good) = %v, want nil", err)
	}
	if got := breaker.Host(&http.Request{}); got != "" {
		t.Errorf("Host() of a request without a URL = %q, want none", got)
	}
}

type idler struct {
	roundTrip
	closed bool
}

func (i *idler) CloseIdleConnections() { i.closed = true }

func TestTransportLetsCloseIdleConnectionsThrough(t *testing.T) {
	next := &idler{}
	b := mustNew(t, breaker.Config{})
	(&http.Client{Transport: b.Transport(next)}).CloseIdleConnections()
	(&http.Client{Transport: b.Transport(answering(200, nil))}).CloseIdleConnections()
	if !next.closed {
		t.Errorf("CloseIdleConnections() did not reach the transport below")
	}
}
