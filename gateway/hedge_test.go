package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/gateway"
	"github.com/parley-go/parley/retry"
)

// afterwards answers with a text, after d or when nobody wants it any more.
func afterwards(d time.Duration, text string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
	}
}

func TestHedgeAsksASecondTargetWhereTheFirstIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, lines := newFleet(), new(lineBuffer)
		f.set("a", afterwards(time.Minute, "from a"))
		f.set("b", afterwards(time.Second, "from b"))
		gw := withLog(t, lines, gateway.Upstream{
			Targets: twoTargets, Wrap: f.wrap, Hedge: &retry.Hedging{Delay: 2 * time.Second}, Retry: quickRetry(), Breaker: trippy(),
		}, everything)
		start := time.Now()
		w := ask(gw, http.MethodGet, "svc", "/")
		if w.Body.String() != "from b" || time.Since(start) != 3*time.Second {
			t.Errorf("answer %q after %v, want the second target's after 3s", w.Body, time.Since(start))
		}
		s := gw.Stats().Upstreams[0]
		if s.InFlight != 0 || s.Targets[0].InFlight != 0 || s.Targets[0].Failures != 0 || s.Targets[0].Breaker != 0 {
			t.Errorf("Stats() = %+v, want nothing in flight, and no blame for the slower one", s)
		}
		if line := lines.wait(t, 1)[0]; line["attempts"] != 2.0 || line["target"] != "b" {
			t.Errorf("log line %v, want 2 attempts and target b", line)
		}
		// Where the first answers after all, it is the target.
		f.set("a", afterwards(3*time.Second, "from a"))
		f.set("b", afterwards(time.Minute, "from b"))
		for ask(gw, http.MethodGet, "svc", "/").Body.String() != "from a" {
			t.Error("the answer is not the first target's")
		}
		if line := lines.wait(t, 2)[1]; line["attempts"] != 2.0 || line["target"] != "a" {
			t.Errorf("log line %v, want 2 attempts and target a", line)
		}
	})
}

func TestHedgeGoesToAnotherTargetWhateverThePickerOrTheCookieSays(t *testing.T) {
	for name, u := range map[string]gateway.Upstream{
		"picker": {Picker: picker(func(*http.Request) int { return 1 })},
		"cookie": {Sticky: &gateway.Sticky{Keys: stickyKeys}, Picker: picker(func(*http.Request) int { return 1 })},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				u.Targets, u.Wrap, u.Hedge = twoTargets, f.wrap, new(retry.Hedging)
				gw := build(t, u, everything)
				cookie := ""
				if c := visit(t, gw); c != nil {
					cookie = c.Value
				}
				f.set("b", afterwards(time.Minute, "from b"))
				f.take()
				start := time.Now()
				next := visit(t, gw, cookie)
				if got := f.take(); got["a"] != 1 || got["b"] != 1 || time.Since(start) != 100*time.Millisecond {
					t.Errorf("requests = %v after %v, want one to each after 100ms", got, time.Since(start))
				}
				if u.Sticky != nil && (next == nil || next.Value == cookie) {
					t.Errorf("the answer sets %v, want a cookie for the target that gave it", next)
				}
			})
		})
	}
}

func TestHedgeIsForSafeRequestsAlone(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"POST":            httptest.NewRequest(http.MethodPost, "/", http.NoBody),
		"PUT":             httptest.NewRequest(http.MethodPut, "/", strings.NewReader("x")),
		"GET with a body": httptest.NewRequest(http.MethodGet, "/", bytes.NewReader([]byte("x"))),
		"upgrade":         upgradeRequest(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				f.set("a", afterwards(time.Second, "a"))
				f.set("b", afterwards(time.Second, "b"))
				gw := build(t, gateway.Upstream{Targets: twoTargets, Wrap: f.wrap, Hedge: &retry.Hedging{Delay: time.Millisecond}}, everything)
				gw.ServeHTTP(httptest.NewRecorder(), r.WithContext(t.Context()))
				if got := f.take(); got["a"]+got["b"] != 1 {
					t.Errorf("requests = %v, want one", got)
				}
			})
		})
	}
}

func upgradeRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	return r
}
