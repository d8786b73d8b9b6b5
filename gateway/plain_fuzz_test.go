//go:build unix

package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever a request holds: what is written of it is one request, and that which
// net/http writes.
func FuzzTheHeadOfAPlainRequestIsThatOfNetHTTP(f *testing.F) {
	f.Add(0, "/v1/orders/7", "", "a=1", "shop.example", "shop.example:8080", "Accept", "*/*", "curl")
	f.Add(0, "/v1/orders/7", "", "a=1", "shop.example", "shop.example:8080", "Accept", "*/*", "nil")
	f.Add(1, "/a b/é", "/a%20b/%c3%a9", "", "", "[::1]:80", "X-A", "\t v ", "")
	f.Add(2, "", "", "q=a b", "é.example", "10.0.0.1", "x-a", "a\r\nB: c", "-")
	f.Add(0, "/x\r\nHost: b", "", "\r\n", "a b", "a/b", "A B", "\x00", "a\nb")
	f.Add(0, "*", "", "", "", "a%25eth0", "Content-Length", "5", "-")
	f.Add(0, "//a", "//a", "", "", "a", "Transfer-Encoding", "chunked", "-")
	f.Fuzz(func(t *testing.T, method int, path, raw, query, host, at, name, value, agent string) {
		req := &http.Request{
			Method: []string{"GET", "HEAD", "OPTIONS", "POST"}[method&3],
			URL:    &url.URL{Scheme: "http", Host: at, Path: path, RawPath: raw, RawQuery: query},
			Host:   host,
			Header: http.Header{name: {value, value}, "X-Other": {"o"}},
		}
		switch agent {
		case "-": // none
		case "nil":
			req.Header["User-Agent"] = nil
		default:
			req.Header["User-Agent"] = []string{agent}
		}
		ours, plain := appendHead(nil, req)
		if !plain {
			return
		}
		var theirs bytes.Buffer
		if err := req.Write(&theirs); err != nil {
			t.Fatalf("%q is what net/http refuses: %v", ours, err)
		}
		got, rest := parsed(t, ours)
		want, _ := parsed(t, theirs.Bytes())
		if rest != 0 {
			t.Fatalf("%q is more than one request", ours)
		}
		if got.Method != want.Method || got.RequestURI != want.RequestURI || got.Host != want.Host || got.ContentLength != 0 || len(got.TransferEncoding) > 0 {
			t.Fatalf("%q, net/http has %q", ours, theirs.Bytes())
		}
		if diff := cmp.Diff(want.Header, got.Header); diff != "" {
			t.Fatalf("%q: header (-net/http +ours):\n%s", ours, diff)
		}
	})
}

func parsed(t *testing.T, head []byte) (*http.Request, int) {
	r := bufio.NewReader(bytes.NewReader(head))
	req, err := http.ReadRequest(r)
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	return req, r.Buffered()
}

// Whatever a target says: who asks plainly gets what the Transport makes of it.
func FuzzAnAnswerIsWhatTransportMakesOfIt(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
		"HTTP/1.1 200 OK\r\n\r\nuntil the end",
		"HTTP/1.0 404 Not Found\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 199 Unheard Of\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 101 Switching Protocols\r\n\r\nbytes",
		"HTTP/1.1 099 What\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200", "\r\n", "",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, raw string, head bool) {
		ours := made(t, raw, head, true)
		theirs := made(t, raw, head, false)
		if strings.HasPrefix(theirs, "status 101") && strings.HasPrefix(ours, "status 101") {
			return // what comes behind is a tunnel, which nobody has asked for here
		}
		if ours != theirs {
			t.Errorf("of %q is made\n%s\nand by the Transport\n%s", raw, ours, theirs)
		}
	})
}

// made tells what is made of an answer, behind which the connection ends.
func made(t *testing.T, raw string, head, byPlain bool) string {
	t.Helper()
	u := (&Upstream{}).withDefaults()
	p := newPlain(u.transport())
	defer p.CloseIdleConnections()
	p.DialContext = func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			if _, err := http.ReadRequest(bufio.NewReader(there)); err == nil {
				_, _ = io.WriteString(there, raw)
			}
		}()
		return here, nil
	}
	var said strings.Builder
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			fmt.Fprintf(&said, "hint %d %v\n", code, h)
			return nil
		},
	})
	method := http.MethodGet
	if head {
		method = http.MethodHead
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://target", nil)
	if err != nil {
		t.Fatal(err)
	}
	var by http.RoundTripper = p
	if !byPlain {
		by = p.Transport
	}
	resp, err := by.RoundTrip(req)
	if err != nil {
		return fmt.Sprintf("%serror", &said)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return fmt.Sprintf("status %d %q %s %v, length %d, close %v, coding %v\n%s%q error %v, trailer %v", resp.StatusCode, resp.Status, resp.Proto,
		resp.Header, resp.ContentLength, resp.Close, resp.TransferEncoding, &said, body, err, resp.Trailer)
}
