package gateway

import (
	"cmp"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
)

// appendHead appends the head of req as HTTP/1.1 writes it, with the rules of
// [http.Request.Write], but for the order of the fields. It reports false, after
// whatever it has appended, where req is none of those that plain carries: for what is
// malformed, the Transport has the words.
func appendHead(b []byte, req *http.Request) ([]byte, bool) {
	switch req.Method {
	// Safe methods (RFC 9110 §9.2.1) alone: they may be sent again where a
	// connection ends under them.
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return b, false
	}
	if req.Body != nil && req.Body != http.NoBody || req.ContentLength != 0 || len(req.TransferEncoding) > 0 || len(req.Trailer) > 0 || req.Close {
		return b, false
	}
	//lint:ignore SA1019 Wrap may set it, deprecated or not
	if req.Cancel != nil { //nolint:staticcheck // the same, for golangci-lint
		return b, false
	}
	u := req.URL
	if u == nil || u.Scheme != "http" || u.Opaque != "" || !plainHost(u.Host) || req.Header == nil {
		return b, false
	}
	path, host := cmp.Or(u.EscapedPath(), "/"), cmp.Or(req.Host, u.Host)
	if path[0] != '/' || !visible(path) || !visible(u.RawQuery) || !plainHost(host) {
		return b, false
	}
	b = append(append(b, req.Method...), ' ')
	b = append(b, path...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(append(b, '?'), u.RawQuery...)
	}
	b = append(append(b, " HTTP/1.1\r\nHost: "...), host...)
	b = append(b, '\r', '\n')
	b, ok := appendFields(b, req.Header)
	return append(b, '\r', '\n'), ok
}

// defaultUserAgent is that of net/http, for requests that say nothing of it.
const defaultUserAgent = "Go-http-client/1.1"

// appendFields appends a header, or reports that it is not plain.
func appendFields(b []byte, h http.Header) ([]byte, bool) {
	if _, ok := h["User-Agent"]; !ok {
		b = append(b, "User-Agent: "+defaultUserAgent+"\r\n"...)
	}
	for name, values := range h {
		switch name {
		case "Connection", "Upgrade", "Expect": // they ask something of the connection
			return b, false
		}
		if !plainName(name) || name[0] >= 'a' { // not in the form by which the names are found
			return b, false
		}
		for _, v := range said(name, values) {
			if !validValue(v) {
				return b, false
			}
			b = append(append(b, name...), ':', ' ')
			b = append(append(b, textproto.TrimString(v)...), '\r', '\n')
		}
	}
	return b, true
}

// said returns those values of a field that are written.
func said(name string, values []string) []string {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer": // the request says these itself
		return nil
	case "User-Agent": // the first counts, and none or an empty one forbids the default
		if len(values) == 0 || values[0] == "" {
			return nil
		}
		return values[:1]
	}
	return values
}

// plainHost reports whether a host, with its port, can be dialled and named as it is:
// one of other letters has another name in the DNS, and a zone is nobody else's.
func plainHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case alphanumeric(c), c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return host != ""
}

// visible reports whether a part of a URL has nothing that would end it.
func visible(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// validValue reports whether a field may have the value (RFC 9110 §5.5).
func validValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// wrote tells who traces req that its head has been written.
func wrote(req *http.Request, trace *httptrace.ClientTrace, err error) {
	if err == nil && trace.WroteHeaderField != nil {
		trace.WroteHeaderField("Host", []string{cmp.Or(req.Host, req.URL.Host)})
		if _, ok := req.Header["User-Agent"]; !ok {
			trace.WroteHeaderField("User-Agent", []string{defaultUserAgent})
		}
		for name, values := range req.Header {
			if values = said(name, values); len(values) > 0 {
				trace.WroteHeaderField(name, values)
			}
		}
	}
	if err == nil && trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	if trace.WroteRequest != nil {
		trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
}
