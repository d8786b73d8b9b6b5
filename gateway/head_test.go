package gateway

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func headOf(h http.Header) ([]byte, bool, *http.Request) {
	req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "a", Path: "/"}, Header: h}
	b, ok := appendHead(nil, req)
	return b, ok, req
}

// sorted returns the lines of a head, whose fields may come in any order.
func sorted(head []byte) []string {
	lines := strings.Split(string(head), "\r\n")
	slices.Sort(lines)
	return lines
}

// The gateway forbids the default agent with an empty one, and others with none. What
// the request itself says is not for its header to say again.
func TestAPlainRequestHasTheFieldsThatNetHTTPWouldWrite(t *testing.T) {
	for name, h := range map[string]http.Header{
		"no agent":                          {},
		"an agent of nil":                   {"User-Agent": nil},
		"an agent of none":                  {"User-Agent": {}},
		"an empty agent":                    {"User-Agent": {""}},
		"a blank agent":                     {"User-Agent": {" "}},
		"one agent":                         {"User-Agent": {" curl\t"}},
		"two agents":                        {"User-Agent": {"curl", "wget"}},
		"two agents, of which one is empty": {"User-Agent": {"", "wget"}},
		"other values":                      {"A": {"1", "\t 2 ", "1"}, "B": {""}, "C": {}, "D": nil},
		"another host":                      {"Host": {"b"}},
		"a length":                          {"Content-Length": {"5"}},
		"a coding":                          {"Transfer-Encoding": {"chunked"}},
		"a trailer":                         {"Trailer": {"X"}},
	} {
		ours, plain, req := headOf(h)
		var theirs bytes.Buffer
		if err := req.Write(&theirs); err != nil || !plain {
			t.Fatalf("%s: plain: %v, net/http: %v", name, plain, err)
		}
		if got, want := sorted(ours), sorted(theirs.Bytes()); !slices.Equal(got, want) {
			t.Errorf("%s: head = %q, want %q", name, got, want)
		}
	}
}

// Whatever may be wrong with a request, it is for net/http to refuse, or to carry.
func TestARequestThatIsNotPlainIsLeftToTheTransport(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"a method that is not safe": func(r *http.Request) { r.Method = http.MethodDelete },
		"a body":                    func(r *http.Request) { r.Body = http.MaxBytesReader(nil, http.NoBody, 1) },
		"a length":                  func(r *http.Request) { r.ContentLength = -1 },
		"a coding":                  func(r *http.Request) { r.TransferEncoding = []string{"identity"} },
		"a trailer":                 func(r *http.Request) { r.Trailer = http.Header{"X": nil} },
		"a connection of its own":   func(r *http.Request) { r.Close = true },
		//lint:ignore SA1019 Wrap may set it
		"a way to cancel it":      func(r *http.Request) { r.Cancel = make(chan struct{}) }, //nolint:staticcheck // deprecated, yet Wrap may set it
		"no URL":                  func(r *http.Request) { r.URL = nil },
		"TLS":                     func(r *http.Request) { r.URL.Scheme = "https" },
		"no path":                 func(r *http.Request) { r.URL.Opaque = "a" },
		"a path without a slash":  func(r *http.Request) { r.URL.Path = "*" },
		"a space in the query":    func(r *http.Request) { r.URL.RawQuery = "a b" },
		"a control in the query":  func(r *http.Request) { r.URL.RawQuery = "a\x7f" },
		"no host":                 func(r *http.Request) { r.URL.Host = "" },
		"another alphabet's host": func(r *http.Request) { r.URL.Host = "é.example" },
		"a zone":                  func(r *http.Request) { r.URL.Host = "[fe80::1%25eth0]" },
		"another alphabet's name": func(r *http.Request) { r.Host = "é.example" },
		"a host of two words":     func(r *http.Request) { r.URL.Host = "a b" },
		"a name of two words":     func(r *http.Request) { r.Host = "a b" },
		"another alphabet's host, named otherwise": func(r *http.Request) { r.URL.Host, r.Host = "é.example", "a" },
		"a zone, named otherwise":                  func(r *http.Request) { r.URL.Host, r.Host = "[fe80::1%25eth0]", "a" },
		"no header":                                func(r *http.Request) { r.Header = nil },
		"an upgrade":                               func(r *http.Request) { r.Header["Upgrade"] = []string{"websocket"} },
		"a wish for the connection":                func(r *http.Request) { r.Header["Connection"] = []string{"close"} },
		"an expectation":                           func(r *http.Request) { r.Header["Expect"] = []string{"100-continue"} },
		"a name of no letters":                     func(r *http.Request) { r.Header[""] = []string{"a"} },
		"a name with a space":                      func(r *http.Request) { r.Header["A B"] = []string{"a"} },
		"a name of another form":                   func(r *http.Request) { r.Header["connection"] = []string{"close"} },
		"a value of two lines":                     func(r *http.Request) { r.Header["A"] = []string{"b\r\nC: d"} },
		"a value that ends a line":                 func(r *http.Request) { r.Header["A"] = []string{"b\n"} },
		"a NUL in a value":                         func(r *http.Request) { r.Header["A"] = []string{"\x00"} },
		"a DEL in a value":                         func(r *http.Request) { r.Header["A"] = []string{"\x7f"} },
	} {
		_, plain, req := headOf(http.Header{})
		if !plain {
			t.Fatal("the request that they begin with is not plain")
		}
		change(req)
		if b, plain := appendHead(nil, req); plain {
			t.Errorf("%s: it is plain, with the head %q", name, b)
		}
	}
}

func TestAPlainRequestDialsTheAddressThatTheTransportWould(t *testing.T) {
	for host, want := range map[string]string{
		"a": "a:80", "a:": "a:80", "a:8080": "a:8080", "10.0.0.1": "10.0.0.1:80",
		"[::1]": "[::1]:80", "[::1]:": "[::1]:80", "[::1]:8080": "[::1]:8080",
	} {
		if got := hostPort(&url.URL{Scheme: "http", Host: host}); got != want {
			t.Errorf("hostPort(%q) = %q, want %q", host, got, want)
		}
	}
}
