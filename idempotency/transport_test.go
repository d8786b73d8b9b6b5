package idempotency_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/retry"
)

// network answers by URL: a status, and a location for redirects. It notes the
// keys that it saw.
type network struct {
	answer func(r *http.Request) (status int, location string)
	seen   []string // "METHOD URL key"
	keys   []string
	bare   bool // leave Response.Request out
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	key := strings.Join(r.Header["Idempotency-Key"], "|")
	n.seen = append(n.seen, r.Method+" "+r.URL.String())
	n.keys = append(n.keys, key)
	status, location := http.StatusOK, ""
	if n.answer != nil {
		status, location = n.answer(r)
	}
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}
	if n.bare {
		resp.Request = nil
	}
	if location != "" {
		resp.Header.Set("Location", location)
	}
	return resp, nil
}

func post(t *testing.T, rt http.RoundTripper, url string, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("tea"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

var v4 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestEachLogicalCallHasARandomKeyOfItsOwn(t *testing.T) {
	n := &network{}
	rt := idempotency.Minter{}.Transport(n)
	for range 3 {
		post(t, rt, "http://pay.test/charges")
	}
	seen := make(map[string]bool)
	for _, key := range n.keys {
		if !v4.MatchString(key) || seen[key] {
			t.Errorf("key = %q, want a UUID of version 4 that is new", key)
		}
		seen[key] = true
	}
}

func TestRetriesOfOneCallCarryOneKey(t *testing.T) {
	attempts := 0
	n := &network{answer: func(*http.Request) (int, string) {
		if attempts++; attempts < 3 {
			return http.StatusServiceUnavailable, ""
		}
		return http.StatusOK, ""
	}}
	policy := retry.Policy{Backoff: retry.Constant(0)}
	post(t, idempotency.Minter{}.Transport(policy.Transport(n)), "http://pay.test/charges")
	if len(n.keys) != 3 || n.keys[0] == "" || n.keys[1] != n.keys[0] || n.keys[2] != n.keys[0] {
		t.Errorf("keys of the attempts = %q, want the same three times", n.keys)
	}
}

func TestARedirectKeepsTheKeyOnItsHostOnly(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		hops   map[string]string // from URL to URL
		want   []string          // which hops carry the key
	}{
		"to another path":    {307, map[string]string{"http://a.test/1": "http://a.test/2"}, []string{"POST http://a.test/1", "POST http://a.test/2"}},
		"by 308":             {308, map[string]string{"http://a.test/1": "/2"}, []string{"POST http://a.test/1", "POST http://a.test/2"}},
		"to another host":    {307, map[string]string{"http://a.test/1": "http://b.test/1"}, []string{"POST http://a.test/1"}},
		"to another port":    {307, map[string]string{"http://a.test/1": "http://a.test:81/1"}, []string{"POST http://a.test/1"}},
		"away and back":      {307, map[string]string{"http://a.test/1": "http://b.test/1", "http://b.test/1": "http://a.test/2"}, []string{"POST http://a.test/1", "POST http://a.test/2"}},
		"from http to https": {307, map[string]string{"http://a.test/1": "https://a.test/1"}, []string{"POST http://a.test/1", "POST https://a.test/1"}},
		"from https to http": {307, map[string]string{"https://a.test/1": "http://a.test/1"}, []string{"POST https://a.test/1"}},
		"to a GET":           {303, map[string]string{"http://a.test/1": "http://a.test/2"}, []string{"POST http://a.test/1"}},
	} {
		for _, own := range []string{"", "my-own-key"} {
			for _, bare := range []bool{false, true} {
				t.Run(name, func(t *testing.T) {
					n := &network{bare: bare}
					first := "http://a.test/1"
					if strings.HasPrefix(c.want[0], "POST https") {
						first = "https://a.test/1"
					}
					n.answer = func(r *http.Request) (int, string) {
						if to, ok := c.hops[r.URL.String()]; ok {
							return c.status, to
						}
						return http.StatusOK, ""
					}
					var header []string
					if own != "" {
						header = []string{"Idempotency-Key", own}
					}
					post(t, idempotency.Minter{}.Transport(n), first, header...)
					if len(n.keys) != len(c.hops)+1 {
						t.Fatalf("hops = %q, want %d", n.seen, len(c.hops)+1)
					}
					key := n.keys[0]
					if key == "" || own != "" && key != own {
						t.Errorf("first key = %q, want %q or a new one", key, own)
					}
					var carried []string
					for i, hop := range n.seen {
						switch n.keys[i] {
						case key:
							carried = append(carried, hop)
						case "":
						default:
							t.Errorf("%s carries a second key", hop)
						}
					}
					if diff := cmp.Diff(c.want, carried); diff != "" {
						t.Errorf("hops with the key (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

func TestTheCallersRequestAndKeyAreLeftAlone(t *testing.T) {
	n := &network{}
	rt := idempotency.Minter{}.Transport(n)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://pay.test/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = nil // as a hand-made request may have it
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if req.Header != nil {
		t.Errorf("the request's headers became %v, want them untouched", req.Header)
	}
	if n.keys[0] == "" {
		t.Error("the request was sent without a key")
	}
	req.Header = http.Header{"Accept": {"*/*"}}
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if len(req.Header) != 1 || n.keys[1] == "" {
		t.Errorf("the request's headers became %v and the key sent is %q, want them untouched and a key", req.Header, n.keys[1])
	}
	post(t, rt, "http://pay.test/", "Idempotency-Key", "my own")
	if n.keys[2] != "my own" {
		t.Errorf("key = %q, want the caller's", n.keys[2])
	}
}

func TestOtherMethodsGetNoKeyUnlessListed(t *testing.T) {
	for _, c := range []struct {
		methods []string
		method  string
		want    bool
	}{
		{nil, "POST", true},
		{nil, "PATCH", true},
		{nil, "GET", false},
		{nil, "PUT", false},
		{nil, "DELETE", false},
		{[]string{"DELETE"}, "DELETE", true},
		{[]string{"DELETE"}, "POST", false},
	} {
		n := &network{}
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://pay.test/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (idempotency.Minter{Methods: c.methods}).Transport(n).RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if got := n.keys[0] != ""; got != c.want {
			t.Errorf("%s with Methods %v: key %t, want %t", c.method, c.methods, got, c.want)
		}
	}
}

func TestWithKeyPinsTheKeyAndABadOneIsRefusedBeforeItIsSent(t *testing.T) {
	long := strings.Repeat("k", 255)
	for _, c := range []struct {
		key, bare, quoted string // as sent; "" means refused
	}{
		{"order-1", "order-1", `"order-1"`},
		{long, long, `"` + long + `"`},
		{`a"b\c`, "", `"a\"b\\c"`},
		{"a b", "", `"a b"`},
		{"a,b", "", `"a,b"`},
		{"", "", ""},
		{long + "k", "", ""},
		{"a\nb", "", ""},
		{"schlüssel", "", ""},
	} {
		for quoted, want := range map[bool]string{false: c.bare, true: c.quoted} {
			n := &network{}
			body := &closing{Reader: strings.NewReader("tea")}
			req, err := http.NewRequestWithContext(idempotency.WithKey(t.Context(), c.key), http.MethodPost, "http://pay.test/", body)
			if err != nil {
				t.Fatal(err)
			}
			_, err = idempotency.Minter{Quoted: quoted}.Transport(n).RoundTrip(req)
			switch {
			case want == "":
				if !errors.Is(err, idempotency.ErrKey) || len(n.seen) != 0 {
					t.Errorf("RoundTrip() with the key %q, quoted %t = %v, want ErrKey and nothing sent", c.key, quoted, err)
				}
			case err != nil || n.keys[0] != want:
				t.Errorf("RoundTrip() with the key %q, quoted %t sent %q, %v, want %q", c.key, quoted, n.keys, err, want)
			}
			if !body.closed {
				t.Errorf("the body of the request with the key %q was not closed", c.key)
			}
		}
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

func TestQuotedKeysAreTakenByAStrictService(t *testing.T) {
	s := newService(t, nil, idempotency.HTTP{Strict: true, Required: true}, nil)
	rt := idempotency.Minter{Quoted: true}.Transport(serving{t, s})
	ctx := idempotency.WithKey(t.Context(), `an "odd" \ key`)
	for i := range 2 {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://shop.test/orders", strings.NewReader("tea"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusCreated || (resp.Header.Get("Idempotency-Replayed") == "true") != (i > 0) {
			t.Errorf("answer %d = %v, %v, want 201, replayed %t", i+1, resp, err, i > 0)
		}
	}
}

// serving is a RoundTripper that calls the service directly.
type serving struct {
	t *testing.T
	s *service
}

func (r serving) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.s.send(r.t, request{key: req.Header.Get("Idempotency-Key"), body: "tea"}).Result(), nil
}

func TestErrorsOfTheTransportBelowPassThrough(t *testing.T) {
	down := errors.New("down")
	rt := idempotency.Minter{}.Transport(failing{down})
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://pay.test/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := rt.RoundTrip(req); resp != nil || err != down { //nolint:errorlint // it must be this very error
		t.Errorf("RoundTrip() = %v, %v, want the transport's own error", resp, err)
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

func TestCloseIdleConnectionsReachesTheTransportBelow(t *testing.T) {
	below := &idle{}
	(&http.Client{Transport: idempotency.Minter{}.Transport(below)}).CloseIdleConnections()
	if !below.closed {
		t.Error("CloseIdleConnections() did not reach the transport below")
	}
	(&http.Client{Transport: idempotency.Minter{}.Transport(failing{})}).CloseIdleConnections() // has none
}

type idle struct {
	failing
	closed bool
}

func (i *idle) CloseIdleConnections() { i.closed = true }
