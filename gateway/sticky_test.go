package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/gateway"
)

var stickyKeys = [][]byte{[]byte("0123456789abcdef"), []byte("fedcba9876543210")}

// visit sends a request with cookies and returns what the answer sets.
func visit(t *testing.T, gw http.Handler, cookies ...string) *http.Cookie {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for _, c := range cookies {
		r.AddCookie(&http.Cookie{Name: "gw-svc", Value: c})
	}
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	switch set := w.Result().Cookies(); len(set) {
	case 0:
		return nil
	case 1:
		return set[0]
	default:
		t.Fatalf("%d cookies are set, want one at most", len(set))
		return nil
	}
}

func stickyTo(t *testing.T, f *fleet, keys ...[]byte) *gateway.Gateway {
	t.Helper()
	return build(t, gateway.Upstream{
		Targets: []string{"http://a", "http://b", "http://c"}, Wrap: f.wrap, Sticky: &gateway.Sticky{Keys: keys}, Eject: &gateway.Eject{Consecutive: 1},
	}, everything)
}

func TestStickyClientStaysOnTheTargetThatAnsweredItFirst(t *testing.T) {
	f := newFleet()
	gw := stickyTo(t, f, stickyKeys...)
	for n := range 3 {
		c := visit(t, gw)
		if c == nil || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge != 0 {
			t.Fatalf("cookie = %v, want one with HttpOnly, Secure and SameSite=Lax", c)
		}
		if strings.Contains(c.Value, "a") && len(c.Value) < 40 {
			t.Errorf("cookie %q is shorter than a keyed hash", c.Value)
		}
		first := f.take()
		for range 10 {
			if again := visit(t, gw, c.Value); again != nil {
				t.Errorf("a good cookie was set anew: %v", again)
			}
		}
		for host, count := range f.take() {
			if count != 10 || first[host] != 1 {
				t.Errorf("client %d: %s got %d of 10 requests, want all where the first one went: %v", n, host, count, first)
			}
		}
	}
}

func TestStickyCookieThatIsForgedIsIgnoredAndMintedAnew(t *testing.T) {
	f := newFleet()
	gw := stickyTo(t, f, stickyKeys...)
	good := visit(t, gw).Value
	stranger := visit(t, stickyTo(t, f, []byte("another key of 16 bytes"))).Value
	otherCase := strings.ToUpper(good)
	f.take()
	for _, forged := range []string{"x", stranger, good[:len(good)-1], good + "A", otherCase, "http://a"} {
		c := visit(t, gw, forged)
		if c == nil || c.Value == forged {
			t.Errorf("cookie %q: the answer sets %v, want a new one", forged, c)
		}
	}
	if got := f.take(); len(got) != 3 {
		t.Errorf("requests = %v, want forged cookies spread over all targets", got)
	}
	// A good one behind a forged one is found.
	if c := visit(t, gw, "x", good); c != nil {
		t.Errorf("with a good cookie as well the answer sets %v, want none", c)
	}
}

func TestStickyKeyRotatesWithoutMovingClients(t *testing.T) {
	f := newFleet()
	was := visit(t, stickyTo(t, f, stickyKeys[1])).Value
	at := f.take()
	rotated := stickyTo(t, f, stickyKeys...)
	c := visit(t, rotated, was)
	if got := f.take(); fmt.Sprint(got) != fmt.Sprint(at) {
		t.Errorf("by the old key the request went to %v, want %v", got, at)
	}
	if c == nil || c.Value == was {
		t.Fatalf("the answer sets %v, want a cookie by the new key", c)
	}
	done := stickyTo(t, f, stickyKeys[0])
	if again := visit(t, done, c.Value); again != nil {
		t.Errorf("the renewed cookie was set anew: %v", again)
	}
	if got := f.take(); fmt.Sprint(got) != fmt.Sprint(at) {
		t.Errorf("by the new key the request went to %v, want %v", got, at)
	}
	if again := visit(t, done, was); again == nil {
		t.Error("a cookie by a key that is gone was not renewed")
	}
}

func TestStickyClientOfATargetThatIsEjectedGetsAnotherForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		gw := stickyTo(t, f, stickyKeys...)
		c := visit(t, gw)
		var host string
		for host = range f.take() {
			f.set(host, status(http.StatusInternalServerError))
		}
		if failed := visit(t, gw, c.Value); failed != nil {
			t.Errorf("an answer of status 500 sets %v, want none", failed)
		}
		next := visit(t, gw, c.Value)
		if next == nil || next.Value == c.Value {
			t.Fatalf("the answer sets %v, want a cookie for another target", next)
		}
		f.set(host, nil)
		time.Sleep(time.Hour)
		f.take()
		visit(t, gw, next.Value)
		if got := f.take(); got[host] != 0 {
			t.Errorf("requests = %v, want the client to stay on its new target", got)
		}
	})
}

func TestStickyCookieHasTheAttributesThatWereAskedFor(t *testing.T) {
	gw := build(t, gateway.Upstream{
		Targets: twoTargets, Wrap: newFleet().wrap,
		Sticky: &gateway.Sticky{Keys: stickyKeys, Cookie: "session", MaxAge: time.Hour, SameSite: http.SameSiteStrictMode, Insecure: true},
	}, everything)
	c := visit(t, gw)
	if c == nil || c.Name != "session" || c.MaxAge != 3600 || c.SameSite != http.SameSiteStrictMode || c.Secure || !c.HttpOnly {
		t.Errorf("cookie = %v, want what was asked for, and HttpOnly", c)
	}
}
